//! The threads that work for the host under test, and the time that they took.
//!
//! With threaded NAPI the kernel handles what comes in by an interface on a thread of its own, which can
//! be kept on a core and whose time the scheduler counts. What it sends into a veth is received at the
//! other end on the same core, in the same thread or in that of the core's soft interrupts: so the time
//! of these is what a packet costs from its arrival until it is counted.

use std::fs;
use std::io;
use std::process::Command;
use std::time::Duration;

use super::TESTED_INTERFACES;
use super::inside::{self, Cores, network_of, system};
use crate::bench::BenchError;
use crate::bench::places::NEAR;
use crate::lab::Lab;

/// The processor's time that was used since something began.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Used {
    /// By the kernel's threads.
    pub kernel: Duration,
    /// By the processes of the host under test.
    pub processes: Duration,
}

impl Used {
    /// What was used since.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            kernel: self.kernel.saturating_sub(before.kernel),
            processes: self.processes.saturating_sub(before.processes),
        }
    }
}

/// Puts a process, or a thread of the kernel, before all others of the machine that want to run.
pub(super) fn prefer(process: i32) -> Result<(), BenchError> {
    let set = Command::new("renice").args(["-n", "-20", "-p", &process.to_string()]).output();
    let set = set.map_err(|source| system("run renice(1)", source))?;
    if set.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&set.stderr).trim().to_owned();
    Err(system("put a thread first with renice(1)", io::Error::other(message)))
}

/// Keeps the threads of the interfaces under test on the core for them, before others.
pub(super) fn place(cores: Cores) -> Result<(), BenchError> {
    for thread in tested_threads()? {
        inside::pin(thread, cores.tested)?;
        prefer(thread)?;
    }
    Ok(())
}

/// What the host under test has used since it was started.
pub(super) fn used(lab: &Lab, cores: Cores) -> Result<Used, BenchError> {
    let mut used = Used::default();
    let interrupts = format!("ksoftirqd/{}", cores.tested);
    let interrupts = threads_named(|name| name == interrupts)?;
    for thread in tested_threads()?.into_iter().chain(interrupts) {
        used.kernel += time_of(&format!("/proc/{thread}/schedstat"));
    }
    for process in processes(lab)? {
        // Threads of one that has just ended count nothing.
        for thread in numbers(&format!("/proc/{process}/task")).unwrap_or_default() {
            used.processes += time_of(&format!("/proc/{process}/task/{thread}/schedstat"));
        }
    }
    Ok(used)
}

/// The process of this name on the host under test.
pub(super) fn tested_process(lab: &Lab, name: &str) -> Result<Option<u32>, BenchError> {
    let is_it = |process: &i32| {
        fs::read_to_string(format!("/proc/{process}/comm")).is_ok_and(|found| found.trim() == name)
    };
    Ok(processes(lab)?.into_iter().find(is_it).map(i32::cast_unsigned))
}

/// The processes of the host under test, by the machine's numbers.
fn processes(lab: &Lab) -> Result<Vec<i32>, BenchError> {
    let network = fs::read_link(network_of(lab, NEAR)?);
    let network = network.map_err(|source| system("look at the network of near", source))?;
    let is_there = |process: &i32| {
        fs::read_link(format!("/proc/{process}/ns/net")).is_ok_and(|of| of == network)
    };
    Ok(numbers("/proc")?.into_iter().filter(is_there).collect())
}

/// The kernel's threads for the interfaces under test: `napi/NAME-NUMBER`.
fn tested_threads() -> Result<Vec<i32>, BenchError> {
    let is_tested = |name: &str| {
        let interface = name.strip_prefix("napi/").and_then(|rest| rest.rsplit_once('-'));
        interface.is_some_and(|(interface, _)| TESTED_INTERFACES.contains(&interface))
    };
    threads_named(is_tested)
}

/// The machine's processes and threads of the kernel of such a name.
fn threads_named(is_it: impl Fn(&str) -> bool) -> Result<Vec<i32>, BenchError> {
    let name = |process: &i32| fs::read_to_string(format!("/proc/{process}/comm"));
    let all = numbers("/proc")?.into_iter();
    Ok(all.filter(|process| name(process).is_ok_and(|name| is_it(name.trim()))).collect())
}

fn numbers(directory: &str) -> Result<Vec<i32>, BenchError> {
    let entries = fs::read_dir(directory).map_err(|source| system("list processes", source))?;
    let name = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
    Ok(entries.filter_map(name).filter_map(|name| name.parse().ok()).collect())
}

/// The first number is the time on a processor, in nanoseconds.
fn time_of(path: &str) -> Duration {
    let text = fs::read_to_string(path).unwrap_or_default();
    let first = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Duration::from_nanos(first.unwrap_or_default())
}
