//! Where the lab finds PIAS's own programs.

use std::env;
use std::path::{Path, PathBuf};

/// The environment variable that names their directory.
pub const PROGRAMS_VARIABLE: &str = "PIAS_BIN_DIR";

/// The environment variable that says by what the lab's proxies forward: `tun`, as without it, or `xdp`.
pub const ENGINE_VARIABLE: &str = "PIAS_LAB_ENGINE";

/// A program is not where it should be.
#[derive(Debug, thiserror::Error)]
#[error(
    "no program {name} in {}: build it (cargo build --workspace --bins), or set \
     {PROGRAMS_VARIABLE} to the directory of the built programs",
    directory.display()
)]
pub struct MissingProgram {
    /// The program.
    pub name: &'static str,
    /// Where it was looked for.
    pub directory: PathBuf,
}

/// The directory of the built programs: `$PIAS_BIN_DIR`, or the one that this
/// program is in. A test is in `target/PROFILE/deps`, its programs one up.
pub(crate) fn directory() -> PathBuf {
    if let Some(directory) = env::var_os(PROGRAMS_VARIABLE) {
        return directory.into();
    }
    let program = env::current_exe().unwrap_or_default();
    let directory = program.parent().unwrap_or(Path::new("."));
    match directory.parent() {
        Some(up) if directory.ends_with("deps") => up.to_owned(),
        _ => directory.to_owned(),
    }
}

/// The path of one of the programs.
pub(crate) fn find(directory: &Path, name: &'static str) -> Result<PathBuf, MissingProgram> {
    let path = directory.join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(MissingProgram { name, directory: directory.to_owned() })
    }
}
