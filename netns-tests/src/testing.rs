//! What tests that need a lab share.

use std::env;
use std::process::Command;

use nix::unistd::geteuid;

/// Why this machine cannot run a lab, if it cannot.
pub fn obstacle() -> Option<String> {
    let mut probe = Command::new("unshare");
    probe.args(["--mount", "--net", "--pid", "--fork"]);
    if !geteuid().is_root() {
        probe.args(["--user", "--map-root-user"]);
    }
    let missing = match probe.args(["sh", "-c", "test -r /dev/net/tun"]).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare(1): {error}")),
    };
    if missing.is_some() {
        return missing.map(|why| format!("no namespaces or no /dev/net/tun here: {why}"));
    }
    "bird nsd nginx tcpdump nsenter ip dig curl ping socat traceroute"
        .split(' ')
        .find(|program| !on_path(program))
        .map(|program| format!("{program} is not installed"))
}

/// False when a test that needs a lab may go on; true when it must return, in
/// which case the reason is on standard error.
///
/// # Panics
/// Under `CI=true`, where a test that cannot run is a failure.
pub fn skip() -> bool {
    let Some(obstacle) = obstacle() else { return false };
    assert!(env::var("CI").as_deref() != Ok("true"), "this test must run in CI, but: {obstacle}");
    eprintln!("skipped: {obstacle}");
    true
}

fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).is_file())
}
