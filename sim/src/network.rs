//! What happens to a message on its way: delay, jitter, loss, reordering, duplicates, partitions.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasherDefault, Hasher},
    time::Duration,
};

use pias_protocol::{hash, time::Time};

use crate::{
    limits::MAX_IDLE_STREAMS,
    random::Draws,
    routes::Routes,
    topology::{Topology, WITHIN},
};

/// How long after a change (a proxy's death, a link's) routing sends packets elsewhere: between
/// what BFD and OSPF need and what BGP needs.
pub const ROUTING: Duration = Duration::from_millis(300);

/// A sender repeats what a stream lost this many times, then gives up.
const STREAM_TRIES: u32 = 8;
/// What a loss on a stream costs at least, beyond the round trip: QUIC's probe timeout with its
/// acknowledgement delay (RFC 9002 section 6.2.1). It doubles with each loss.
const REPAIR: Duration = Duration::from_millis(30);
/// A connection on which nothing came for so long is gone, as in piasd (`OVERLAY_IDLE`), and the next
/// message waits for a handshake: one round trip.
const IDLE: Duration = Duration::from_secs(5);

/// Times at which a datagram arrives: not at all, once or twice.
pub type Arrivals = [Option<Time>; 2];

/// The network between clusters.
#[derive(Debug)]
pub struct Network {
    routes: Routes,
    /// The POP of each cluster.
    pops: Vec<usize>,
    /// Chances, of 1,000.
    loss: u32,
    lossy: BTreeMap<usize, u32>,
    duplicates: u32,
    reordered: (u32, Duration),
    jitter: Duration,
    /// Pairs of clusters that do not reach each other, the lower index first.
    cut: BTreeSet<(usize, usize)>,
    /// The side that each cluster is on while the network is split.
    side: Option<Vec<u8>>,
    draws: Draws,
    /// When the last stream message between two hosts arrives: streams keep their order.
    streams: HashMap<u64, Time, BuildHasherDefault<Pairs>>,
    /// When something last came on the connection of two hosts of different clusters.
    connections: HashMap<u64, Time, BuildHasherDefault<Pairs>>,
    handshakes: u64,
}

impl Network {
    /// The network of a topology, without faults.
    #[must_use]
    pub fn new(topology: &Topology, seed: u64) -> Self {
        Self {
            routes: Routes::new(topology),
            pops: topology.clusters.iter().map(|cluster| cluster.pop).collect(),
            loss: 0,
            lossy: BTreeMap::new(),
            duplicates: 0,
            reordered: (0, Duration::ZERO),
            jitter: Duration::ZERO,
            cut: BTreeSet::new(),
            side: None,
            draws: Draws::new(seed, 0x006E_6574),
            streams: HashMap::default(),
            connections: HashMap::default(),
            handshakes: 0,
        }
    }

    /// Loses this many of 1,000 packets, everywhere.
    pub fn lose(&mut self, per_mille: u32) {
        self.loss = per_mille;
    }

    /// Loses this many of 1,000 packets from and to a cluster, beside the loss that is everywhere.
    pub fn lose_at(&mut self, cluster: usize, per_mille: u32) {
        self.lossy.insert(cluster, per_mille);
    }

    /// Delays every packet by up to `most` more.
    pub fn jitter(&mut self, most: Duration) {
        self.jitter = most;
    }

    /// Duplicates this many of 1,000 datagrams.
    pub fn duplicate(&mut self, per_mille: u32) {
        self.duplicates = per_mille;
    }

    /// Holds up this many of 1,000 datagrams by up to `most`, so that later ones overtake them.
    pub fn reorder(&mut self, per_mille: u32, most: Duration) {
        self.reordered = (per_mille, most);
    }

    /// Cuts the way between two clusters, whatever routing does.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.cut.insert((a.min(b), a.max(b)));
    }

    /// Splits the network: these clusters on one side, all others on the other.
    pub fn split(&mut self, clusters: &[usize]) {
        let mut side = vec![0; self.pops.len()];
        for &cluster in clusters {
            side[cluster] = 1;
        }
        self.side = Some(side);
    }

    /// Cuts a link between POPs at `now`; routing goes around it after [`ROUTING`].
    pub fn cut_link(&mut self, link: usize, now: Time) {
        self.routes.change(link, false, now + ROUTING);
    }

    /// Mends every way between clusters, splits and links; routing uses links again after
    /// [`ROUTING`]. Loss and the like stay.
    pub fn heal_at(&mut self, now: Time) {
        self.heal();
        self.routes.mend(now + ROUTING);
    }

    /// Mends every way between clusters, and splits.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.side = None;
    }

    /// Ends loss, jitter, duplicates and reordering.
    pub fn calm(&mut self) {
        self.loss = 0;
        self.lossy.clear();
        self.duplicates = 0;
        self.reordered = (0, Duration::ZERO);
        self.jitter = Duration::ZERO;
    }

    /// How many links between POPs there are.
    #[must_use]
    pub fn links(&self) -> usize {
        self.routes.links().len()
    }

    /// One-way delay between two clusters where routing has settled; `None` where none leads.
    #[must_use]
    pub fn distance(&self, a: usize, b: usize) -> Option<Duration> {
        self.routes.settled(self.pops[a], self.pops[b]).map(|way| way + WITHIN)
    }

    /// One-way delay between two clusters; `None` where packets do not get through.
    #[must_use]
    pub fn delay(&self, a: usize, b: usize, now: Time) -> Option<Duration> {
        if a == b {
            return Some(WITHIN);
        }
        if !self.connected(a, b) {
            return None;
        }
        self.routes.delay(self.pops[a], self.pops[b], now).map(|way| way + WITHIN)
    }

    /// Whether no cut or split lies between two clusters.
    #[must_use]
    pub fn connected(&self, a: usize, b: usize) -> bool {
        (self.cut.is_empty() || !self.cut.contains(&(a.min(b), a.max(b))))
            && self.side.as_ref().is_none_or(|side| side[a] == side[b])
    }

    /// When a datagram from one cluster to another arrives.
    pub fn datagram(&mut self, from: usize, to: usize, now: Time) -> Arrivals {
        let Some(delay) = self.delay(from, to, now) else { return [None; 2] };
        let first = self.copy(delay, from, to, now);
        let again = self.draws.chance(self.duplicates);
        [first, if again { self.copy(delay, from, to, now) } else { None }]
    }

    fn copy(&mut self, delay: Duration, from: usize, to: usize, now: Time) -> Option<Time> {
        if self.lost(from, to) {
            return None;
        }
        let held = match self.reordered {
            (chance, most) if self.draws.chance(chance) => self.draws.between(Duration::ZERO, most),
            _ => Duration::ZERO,
        };
        Some(now + delay + held + self.some_jitter())
    }

    /// Handshakes made between clusters since the start.
    #[must_use]
    pub const fn handshakes(&self) -> u64 {
        self.handshakes
    }

    /// How long a message from one host to another waits for a connection: not at all if there is one,
    /// or if both are in one cluster, where handshakes take no time to speak of.
    pub fn connect(
        &mut self,
        hosts: (usize, usize),
        from: usize,
        to: usize,
        now: Time,
    ) -> Duration {
        if from == to || self.open(hosts, now) {
            return Duration::ZERO;
        }
        let Some(delay) = self.delay(from, to, now) else { return Duration::ZERO };
        self.handshakes += 1;
        self.keep_open(hosts, now + delay * 2);
        delay * 2
    }

    fn open(&self, hosts: (usize, usize), now: Time) -> bool {
        self.connections.get(&both(hosts)).is_some_and(|&last| now - last < IDLE)
    }

    /// Something came from one host to another, in different clusters: their connection lives.
    pub fn keep_open(&mut self, hosts: (usize, usize), now: Time) {
        if self.connections.len() >= MAX_IDLE_STREAMS {
            self.connections.retain(|_, &mut last| now - last < IDLE);
        }
        self.connections.insert(both(hosts), now);
    }

    /// When a stream's message arrives: a loss is repaired by the sender, messages between two hosts
    /// stay in order, and the first in a while waits for a handshake.
    pub fn stream(
        &mut self,
        hosts: (usize, usize),
        from: usize,
        to: usize,
        now: Time,
    ) -> Option<Time> {
        let delay = self.delay(from, to, now)?;
        let mut at = now + delay + self.some_jitter();
        let mut repair = delay * 2 + REPAIR;
        for tries in 1.. {
            if !self.lost(from, to) {
                break;
            }
            if tries == STREAM_TRIES {
                return None;
            }
            at = at + repair;
            repair *= 2;
        }
        at = at + self.connect(hosts, from, to, now);
        self.forget_arrived(now);
        let last = self.streams.entry(pair(hosts)).or_insert(at);
        *last = at.max(*last);
        Some(*last)
    }

    fn forget_arrived(&mut self, now: Time) {
        if self.streams.len() >= MAX_IDLE_STREAMS {
            self.streams.retain(|_, &mut last| last > now);
        }
    }

    fn some_jitter(&mut self) -> Duration {
        if self.jitter.is_zero() {
            return Duration::ZERO;
        }
        self.draws.between(Duration::ZERO, self.jitter)
    }

    fn lost(&mut self, from: usize, to: usize) -> bool {
        if self.draws.chance(self.loss) {
            return true;
        }
        if self.lossy.is_empty() {
            return false;
        }
        let at = |cluster: usize| self.lossy.get(&cluster).copied().unwrap_or(0);
        let worse = at(from).max(at(to));
        self.draws.chance(worse)
    }
}

/// A pair of hosts, from one to the other.
const fn pair((from, to): (usize, usize)) -> u64 {
    (from as u64) << 32 | to as u64
}

/// A pair of hosts, whichever comes first.
const fn both((a, b): (usize, usize)) -> u64 {
    if a < b { pair((a, b)) } else { pair((b, a)) }
}

/// Hashes a pair of hosts: fast, and the same in every run (nothing depends on the order anyway).
#[derive(Clone, Copy, Debug, Default)]
struct Pairs(u64);

impl Hasher for Pairs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = hash::mix(self.0, n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Network {
        Network::new(&Topology::three_pops(), 1)
    }

    #[test]
    fn faults_do_to_datagrams_what_they_say() {
        let mut network = network();
        let arrivals = |network: &mut Network| -> Vec<Time> {
            (0..1_000).flat_map(|_| network.datagram(0, 1, Time::ZERO)).flatten().collect()
        };
        let plain = Time::ZERO + Duration::from_micros(41_250);
        assert!(arrivals(&mut network).iter().all(|&at| at == plain));
        network.lose(300);
        assert!((600..800).contains(&arrivals(&mut network).len()));
        network.calm();
        network.duplicate(500);
        assert!((1_400..1_600).contains(&arrivals(&mut network).len()));
        network.calm();
        network.reorder(100, Duration::from_millis(50));
        let late = arrivals(&mut network).iter().filter(|&&at| at > plain).count();
        assert!((60..140).contains(&late));
    }

    #[test]
    fn a_split_parts_its_sides_only() {
        let mut network = network();
        network.split(&[0]);
        assert!(!network.connected(0, 1) && !network.connected(2, 0));
        assert!(network.connected(1, 2) && network.connected(0, 0));
        network.heal();
        assert!(network.connected(0, 1));
    }

    #[test]
    fn streams_keep_their_order_in_spite_of_loss() {
        let mut network = network();
        network.lose(300);
        let mut last = Time::ZERO;
        for n in 0..500 {
            let now = Time::from_micros(n * 1_000);
            if let Some(at) = network.stream((0, 2), 0, 1, now) {
                assert!(at >= last && at > now);
                last = at;
            }
        }
    }

    #[test]
    fn the_first_message_waits_for_a_handshake() {
        let mut network = network();
        let way = Duration::from_micros(41_250);
        assert_eq!(network.stream((0, 2), 0, 1, Time::ZERO), Some(Time::ZERO + way * 3));
        let later = Time::ZERO + Duration::from_secs(5);
        assert_eq!(network.stream((2, 0), 1, 0, later), Some(later + way));
        assert_eq!(network.handshakes, 1);
    }

    #[test]
    fn what_comes_keeps_a_connection_and_what_is_only_sent_does_not() {
        let mut network = network();
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        let way = Duration::from_micros(41_250);
        assert_eq!(network.connect((0, 2), 0, 1, at(0)), way * 2);
        network.keep_open((2, 0), at(4));
        assert_eq!(network.connect((0, 2), 0, 1, at(8)), Duration::ZERO);
        assert_eq!(network.connect((0, 2), 0, 1, at(9)), way * 2);
        assert_eq!(network.connect((0, 1), 0, 0, at(9)), Duration::ZERO);
        assert_eq!(network.handshakes, 2);
    }
}
