//! Hosts as network namespaces of this process. Each is a thread that left the process's namespace,
//! and vanishes with it: nothing is left behind, however the test ends.

use std::{
    process::Command,
    sync::mpsc::{Sender, channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{Pid, geteuid, gettid},
};

type Job = Box<dyn FnOnce() + Send>;

/// How long anything in these tests may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Whether namespaces can be made here. A test that cannot run fails in CI; elsewhere it says so.
pub(crate) fn privileged() -> bool {
    if geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "this test needs root, and CI must run it");
    eprintln!("skipped: it needs root, to make network namespaces and a TUN device");
    false
}

/// Polls until `condition` gives a value.
///
/// # Panics
/// When it gives none within [`PATIENCE`].
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A host.
pub(crate) struct Host {
    name: &'static str,
    jobs: Sender<Job>,
    thread: Pid,
}

impl Host {
    /// A host that forwards packets, without links.
    pub(crate) fn new(name: &'static str) -> Self {
        let (jobs, queue) = channel::<Job>();
        let (ready, made) = channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
            ready.send(gettid()).expect("the test waits");
            queue.into_iter().for_each(|job| job());
        });
        let host = Self { name, jobs, thread: made.recv().expect("a namespace was made") };
        host.ip("link set lo up");
        for (key, value) in [
            ("ipv4/conf/all/forwarding", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
        ] {
            host.run(move || std::fs::write(format!("/proc/sys/net/{key}"), value))
                .unwrap_or_else(|error| panic!("{name}: {key}: {error}"));
        }
        host
    }

    /// Runs `job` on this host: its sockets, threads and commands are this host's.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        let job = Box::new(move || drop(done.send(job())));
        self.jobs.send(job).unwrap_or_else(|_| panic!("the host {} is gone", self.name));
        result.recv().unwrap_or_else(|_| panic!("a job on {} panicked", self.name))
    }

    /// Runs `ip` with these words as arguments.
    ///
    /// # Panics
    /// When it fails.
    pub(crate) fn ip(&self, arguments: &str) {
        self.command("ip", arguments);
    }

    /// Runs a program with these words as arguments.
    ///
    /// # Panics
    /// When it fails.
    pub(crate) fn command(&self, program: &'static str, arguments: &str) {
        let words: Vec<_> = arguments.split_whitespace().map(str::to_owned).collect();
        let output = self.run(move || Command::new(program).args(words).output());
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {program} {arguments}: {stderr}", self.name);
    }

    /// A link to `other`. Each end gets its addresses, and routes via the other end's.
    pub(crate) fn link(&self, other: &Self, ours: &End<'_>, theirs: &End<'_>) {
        let (near, far) = (other.name, self.name);
        self.ip(&format!("link add {near} type veth peer name {far} netns {}", other.thread));
        self.attach(near, ours, theirs);
        other.attach(far, theirs, ours);
    }

    /// Gives a device the addresses and routes of one end of a link.
    pub(crate) fn attach(&self, device: &str, end: &End<'_>, far: &End<'_>) {
        self.ip(&format!("link set {device} up"));
        for (address, far_address) in end.addresses.iter().zip(far.addresses) {
            let (len, routes) = if address.contains(':') {
                (64, end.routes.iter().filter(|route| route.contains(':')).collect::<Vec<_>>())
            } else {
                (24, end.routes.iter().filter(|route| !route.contains(':')).collect())
            };
            self.ip(&format!("address add {address}/{len} dev {device} nodad"));
            for route in routes {
                self.ip(&format!("route add {route} via {far_address} dev {device}"));
            }
        }
    }
}

/// One end of a link.
pub(crate) struct End<'a> {
    /// Its addresses, of as many families as the other end's and in the same order.
    pub(crate) addresses: &'a [&'a str],
    /// Prefixes that are reached through the other end.
    pub(crate) routes: &'a [&'a str],
}
