//! Check by command: whatever the operator can script.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use pias_protocol::group::GroupKey;
use tokio::{process::Command, time::timeout};

use super::CheckError;

/// Runs `command` in a shell; up if it exits with 0 within `patience`.
///
/// It finds `PIAS_GROUP` (`AA:port`) and `PIAS_TARGET` (`address:port`) in its environment. It runs
/// in a process group of its own, which is killed as a whole at the timeout: a shell's children
/// would outlive the shell.
pub(crate) async fn probe(
    command: &str,
    group: &GroupKey,
    target: SocketAddr,
    patience: Duration,
) -> Result<(), CheckError> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .env("PIAS_GROUP", group.socket().to_string())
        .env("PIAS_TARGET", target.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let mut process_group = ProcessGroup(child.id());
    let Ok(status) = timeout(patience, child.wait()).await else {
        drop(process_group);
        // Reaped here, so that no zombie stays.
        child.wait().await?;
        return Err(CheckError::Timeout(patience));
    };
    // The command has ended by itself, and its id may soon be another's.
    process_group.0 = None;
    let status = status?;
    if status.success() { Ok(()) } else { Err(CheckError::Exit(status.to_string())) }
}

/// Kills what is left of the command when the check ends, also when it is dropped half way.
struct ProcessGroup(Option<u32>);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let Some(leader) = self.0.and_then(|id| i32::try_from(id).ok()) else { return };
        match killpg(Pid::from_raw(leader), Signal::SIGKILL) {
            // Nobody left in it: the usual case.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => tracing::warn!(leader, %error, "could not kill a check's processes"),
        }
    }
}
