//! What a scenario does to proxies and to the ways between them.

use std::time::Duration;

use pias_protocol::time::Time;

use super::{Sim, host::HostNo};

/// How long after a fault has ended others may still take its victims for dead: the news of it
/// travels, is denied, and the denial travels.
pub const GRACE: Duration = Duration::from_secs(5);

impl Sim {
    /// Stops a proxy's process for a while: nothing is lost that its buffers hold, all comes late.
    pub fn pause(&mut self, name: &str, time: Duration) {
        self.pause_at(self.host(name), time);
    }

    /// As [`Sim::pause`], by number.
    pub fn pause_at(&mut self, n: HostNo, time: Duration) {
        let until = self.now + time;
        self.hosts[n].paused_until = until;
        self.disturb(n, until);
        let Self { hosts, trace, now, .. } = self;
        trace.note(*now, format_args!("{} is paused for {time:?}", hosts[n].name));
    }

    /// From now on a proxy takes this long for anything that it does; zero ends it.
    pub fn slow_at(&mut self, n: HostNo, each: Duration) {
        self.hosts[n].slow = each;
        self.disturb(n, self.now);
        let Self { hosts, trace, now, .. } = self;
        trace.note(*now, format_args!("{} takes {each:?} for anything", hosts[n].name));
    }

    /// From now on a proxy's clock gains so many parts in a million, or loses them.
    pub fn skew_at(&mut self, n: HostNo, parts_per_million: i64) {
        let now = self.now;
        self.hosts[n].skew(parts_per_million, now);
        self.hosts[n].armed = None;
        self.arm(n);
    }

    /// Cuts the ways between a cluster and all others.
    pub fn isolate(&mut self, cluster: usize) {
        for other in (0..self.topology.clusters.len()).filter(|&other| other != cluster) {
            self.network.cut(cluster, other);
        }
        self.disturb_all(Duration::MAX);
    }

    /// Kills all proxies of a cluster at once.
    pub fn lose_cluster(&mut self, cluster: usize) {
        for n in self.in_cluster(cluster) {
            if self.runs(n) {
                self.crash_at(n);
            }
        }
    }

    /// Others may take this proxy for dead up to a while after `until` without being wrong.
    pub fn disturb(&mut self, n: HostNo, until: Time) {
        let host = &mut self.hosts[n];
        host.disturbed_until = host.disturbed_until.max(until + GRACE);
    }

    /// As [`Sim::disturb`] for all proxies, for so long from now: the network is not what it should
    /// be.
    pub fn disturb_all(&mut self, time: Duration) {
        let until = self.now + time;
        for n in 0..self.hosts.len() {
            self.disturb(n, until);
        }
    }

    /// Nobody is excused any more by what disturbed it before.
    pub fn calm_all(&mut self) {
        for host in &mut self.hosts {
            host.disturbed_until = self.now;
        }
    }
}
