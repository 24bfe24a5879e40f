//! Work of this process in a host's network, and on one core.

use std::fs::File;
use std::io;
use std::thread;

use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, setns};
use nix::unistd::Pid;

use super::rig::QUEUES;
use crate::bench::BenchError;
use crate::host::RunError;
use crate::lab::Lab;

/// The two cores: the host under test has one to itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cores {
    /// Of the host under test.
    pub tested: usize,
    /// Of all else.
    pub others: usize,
}

impl Cores {
    /// The first two that this process may use, and that have different queues.
    pub(super) fn choose() -> Result<Self, BenchError> {
        let allowed = sched_getaffinity(Pid::from_raw(0))
            .map_err(|error| system("ask for the cores", error))?;
        let mut cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false));
        let others = cores.next().ok_or(BenchError::Cores)?;
        let tested = cores.find(|core| core % QUEUES != others % QUEUES);
        Ok(Self { tested: tested.ok_or(BenchError::Cores)?, others })
    }
}

/// Keeps a thread, which may be the kernel's, on one core. 0 is the calling one.
pub(super) fn pin(thread: i32, core: usize) -> Result<(), BenchError> {
    let mut set = CpuSet::new();
    set.set(core).map_err(|error| system("name a core", error))?;
    sched_setaffinity(Pid::from_raw(thread), &set)
        .map_err(|error| system("keep a thread on its core", error))
}

/// Does work on a thread of its own in the network of a host.
pub(super) fn inside<T: Send>(
    lab: &Lab,
    host: &str,
    work: impl FnOnce() -> Result<T, BenchError> + Send,
) -> Result<T, BenchError> {
    let space = network_of(lab, host)?;
    thread::scope(|scope| {
        let job = scope.spawn(|| {
            let opened = File::open(&space);
            let opened = opened.map_err(|error| system("open a host's network", error))?;
            setns(opened, CloneFlags::CLONE_NEWNET)
                .map_err(|error| system("enter a host's network", error))?;
            work()
        });
        job.join().unwrap_or_else(|_| {
            Err(system("work in a host", io::Error::other("its thread panicked")))
        })
    })
}

/// A file that stands for a host's network namespace.
pub(super) fn network_of(lab: &Lab, host: &str) -> Result<String, BenchError> {
    let entrance = lab.entrance()?;
    let descriptors = entrance.descriptors.get(host);
    let [network, ..] = descriptors.ok_or_else(|| RunError::UnknownHost(host.to_owned()))?;
    Ok(format!("/proc/{}/fd/{network}", entrance.keeper))
}

/// What the system refused.
pub(super) fn system(what: &str, source: impl Into<io::Error>) -> BenchError {
    BenchError::System { what: what.to_owned(), source: source.into() }
}
