//! Compiles the XDP programs in `bpf/` with clang, into what the library carries.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// `PIAS_CLANG` names another compiler than `clang`; Debian 12 has `clang-14` to `clang-19`.
fn compile(source: &Path, object: &Path) {
    let clang = env::var("PIAS_CLANG").unwrap_or_else(|_| "clang".to_owned());
    let status = Command::new(&clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-c"])
        .arg(source)
        .arg("-o")
        .arg(object)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{clang} does not compile {}: {status}", source.display()),
        Err(error) => panic!(
            "cannot run {clang}: {error} (install it, `deploy/install-deps.sh` does, or name another with PIAS_CLANG)"
        ),
    }
}

fn main() {
    let folder =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("bpf");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    for name in ["pias", "bench", "traffic"] {
        compile(&folder.join(format!("{name}.bpf.c")), &out.join(format!("{name}.bpf.o")));
    }
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=PIAS_CLANG");
}
