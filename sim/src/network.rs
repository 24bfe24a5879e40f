//! What happens to a message on its way: delay, loss, partitions.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use pias_protocol::{hash, time::Time};

use crate::topology::Topology;

/// A sender repeats what a stream lost this many times, then gives up.
const STREAM_TRIES: u32 = 10;

/// The network between clusters.
#[derive(Debug)]
pub struct Network {
    delay: Vec<Vec<Duration>>,
    /// Chance of loss of one packet, of 1,000.
    loss_per_mille: u64,
    /// Pairs of clusters that do not reach each other, the lower index first.
    cut: BTreeSet<(usize, usize)>,
    seed: u64,
    draws: u64,
    /// When the last stream message between two proxies arrives: streams keep their order.
    arrivals: BTreeMap<(usize, usize), Time>,
}

impl Network {
    pub(crate) fn new(topology: &Topology, seed: u64) -> Self {
        Self {
            delay: topology.delay.clone(),
            loss_per_mille: 0,
            cut: BTreeSet::new(),
            seed,
            draws: 0,
            arrivals: BTreeMap::new(),
        }
    }

    /// Loses this many of 1,000 packets, everywhere.
    pub fn lose(&mut self, per_mille: u64) {
        self.loss_per_mille = per_mille;
    }

    /// Cuts the way between two clusters.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.cut.insert((a.min(b), a.max(b)));
    }

    /// Mends every way.
    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// One-way delay between two clusters.
    #[must_use]
    pub fn delay(&self, a: usize, b: usize) -> Duration {
        self.delay[a][b]
    }

    /// Whether two clusters reach each other.
    #[must_use]
    pub fn connected(&self, a: usize, b: usize) -> bool {
        !self.cut.contains(&(a.min(b), a.max(b)))
    }

    /// When a packet from one cluster to another arrives, if it does.
    pub(crate) fn packet(&mut self, from: usize, to: usize, now: Time) -> Option<Time> {
        (self.connected(from, to) && !self.lost()).then(|| now + self.delay(from, to))
    }

    /// When a stream's message arrives: each loss costs three one-way delays, and messages of one
    /// pair of hosts stay in order.
    pub(crate) fn stream(
        &mut self,
        hosts: (usize, usize),
        from: usize,
        to: usize,
        now: Time,
    ) -> Option<Time> {
        if !self.connected(from, to) {
            return None;
        }
        let mut at = now + self.delay(from, to);
        let mut tries = 0;
        while self.lost() {
            at = at + self.delay(from, to) * 3;
            tries += 1;
            if tries == STREAM_TRIES {
                return None;
            }
        }
        let last = self.arrivals.entry(hosts).or_default();
        *last = at.max(*last);
        Some(*last)
    }

    fn lost(&mut self) -> bool {
        if self.loss_per_mille == 0 {
            return false;
        }
        self.draws += 1;
        hash::mix(self.seed, self.draws) % 1_000 < self.loss_per_mille
    }
}
