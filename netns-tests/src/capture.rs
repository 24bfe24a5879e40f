//! Packet captures in a host, by tcpdump.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::control::ControlError;
use crate::host::Host;
use crate::wait::{TimedOut, wait_until};

/// Time that tcpdump gets to listen, and to stop.
const TCPDUMP_LIMIT: Duration = Duration::from_secs(5);

/// Why a capture failed.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The lab did not start or stop it.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// tcpdump did not listen, or did not stop.
    #[error("{source}; tcpdump wrote: {log}")]
    TimedOut {
        /// What was waited for.
        source: TimedOut,
        /// tcpdump's output.
        log: String,
    },
    /// The capture cannot be read back.
    #[error("cannot read {file} with tcpdump: {source}")]
    Read {
        /// The capture's file.
        file: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// A running capture. It can be read while it runs; it ends with the lab if
/// nobody stops it.
#[derive(Debug)]
pub struct Capture<'lab> {
    host: Host<'lab>,
    process: String,
    file: PathBuf,
}

impl<'lab> Capture<'lab> {
    pub(crate) fn start(
        host: &Host<'lab>,
        interface: &str,
        filter: &str,
    ) -> Result<Self, CaptureError> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let process = format!("tcpdump-{interface}-{}-{number}", std::process::id());
        let file = host.lab().logs().join(format!("{}.{process}.pcap", host.name()));
        let path = file.display().to_string();
        let words = [
            "tcpdump",
            "-i",
            interface,
            "-n",
            "-U",
            "--immediate-mode",
            "-Z",
            "root",
            "-w",
            &path,
            filter,
        ];
        host.spawn(&process, &words)?;
        let capture = Self { host: host.clone(), process, file };
        capture.wait("tcpdump to listen", |capture| {
            capture.host.log(&capture.process).contains("listening on")
        })?;
        Ok(capture)
    }

    /// The packets so far, a line each, as `tcpdump -nn -v` prints them without
    /// a time.
    pub fn lines(&self) -> Result<Vec<String>, CaptureError> {
        let failed = |source| CaptureError::Read { file: self.file.clone(), source };
        let output = Command::new("tcpdump")
            .args(["-nn", "-t", "-r"])
            .arg(&self.file)
            .output()
            .map_err(failed)?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }

    /// The capture's pcap file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Ends the capture and returns its packets as [`Capture::lines`] does.
    pub fn stop(self) -> Result<Vec<String>, CaptureError> {
        self.host.kill(&self.process, Signal::SIGINT)?;
        self.wait("tcpdump to stop", |capture| !capture.host.runs(&capture.process))?;
        self.lines()
    }

    fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) -> Result<(), CaptureError> {
        match wait_until(TCPDUMP_LIMIT, what, || done(self)) {
            Ok(_) => Ok(()),
            Err(source) => {
                Err(CaptureError::TimedOut { source, log: self.host.log(&self.process) })
            }
        }
    }
}
