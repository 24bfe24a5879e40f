//! The array of pinned flows, which another party reads and writes at the same time: the program that
//! the kernel runs on packets before this process gets them.
//!
//! ```text
//! table    N buckets are used, a power of two   product = hash * (seed | 1), modulo 2^64
//! bucket   8 entries                            bucket  = (product >> 32) modulo N
//! entry    8 words of 64 bits, a cache line     first entry looked at = (product >> 16) & 7,
//!                                               then the other 7 in turn, 0 after 7
//!
//! word  bits 63        48 47      40 39      32 31            16 15             0
//!       ┌────────────────┬──────────┬──────────┬────────────────┬────────────────┐
//!   0   │    version     │  stage   │ protocol │   group port   │  client port   │  meta
//!       ├────────────────┴──────────┴──────────┴────────────────┴────────────────┤
//!   1   │                  client address, octets 0 to 7                         │
//!   2   │                  client address, octets 8 to 15                        │
//!   3   │                 anycast address, octets 0 to 7                         │
//!   4   │                 anycast address, octets 8 to 15                        │
//!       ├───────────────────────────────────┬────────────────────────────────────┤
//!   5   │      generation of the JAP        │          index of the JAP          │  its handle
//!   6   │   last packet, in coarse ticks    │     created, in coarse ticks       │
//!       ├───────────────────────────────────┴────────────────────────────────────┤
//!   7   │                            hash of the flow                            │
//!       └────────────────────────────────────────────────────────────────────────┘
//! ```
//! - Ports and addresses are octets as they stand in a packet, read into the machine's own order; an
//!   IPv4 address is IPv4-mapped. The protocol is the number in the IP header.
//! - The stage is 0 in a free entry (all of it but the version is then to be ignored), 1 to 4 for
//!   [`Phase`]'s in their order, 255 while somebody writes.
//! - The version is counted up by whoever claims the entry, modulo 2^16.
//!
//! | who | does |
//! | --- | --- |
//! | writes | compares and exchanges the meta it saw for the next version with stage 255, stores words 1 to 7, stores the final meta (release) |
//! | reads | loads the meta (acquire), compares, copies, and loads the meta again: another version, or stage 255, is another flow or half of one, and counts as not found |
//! | sees a packet | stores word 6; compares and exchanges the meta for another stage of the same version |
//! | removes | compares and exchanges the meta for the next version with stage 0 |
//!
//! Whoever loses a race lets it be: the table is a cache. Both parties may insert one flow at once,
//! into two entries of its bucket: the first one in turn is the one that counts.
//!
//! The table grows: of an array for a million flows, a thousand would touch a page each. N is in the
//! first of some words beside, the *scale*: log2 N in its lower half. When N doubles, the upper half
//! says 1 until all flows whose bucket is a new one have been moved there; until then whoever does not
//! find a flow in a new bucket looks in the old one, too, whose number is less by N / 2. What is
//! written by the scale of a moment ago is moved when it is come upon. The third word beside counts the
//! free entries that the other party has taken, so that the table grows in time.
//!
//! Buckets are not chosen by a hash of their own, seeded as that of other tables is, which would cost
//! every packet: a bucket has 8 entries and no more. Who aims at one, in spite of the seed, pushes out
//! flows of that bucket, and those are placed by their hash as they were before.

use std::{
    array,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
    time::Duration,
};

use pias_protocol::{
    group::{GroupKey, Protocol},
    hash::{FlowHash, FlowKey, mapped},
    time::Time,
};

use super::Phase;
use crate::slots::Handle;

/// Entries in a bucket.
pub const BUCKET_ENTRIES: usize = 8;

/// Words in an entry.
pub const ENTRY_WORDS: usize = 8;

/// Words in a bucket.
pub const BUCKET_WORDS: usize = BUCKET_ENTRIES * ENTRY_WORDS;

const META: usize = 0;
const CLIENT: usize = 1;
const GROUP: usize = 3;
const PEER: usize = 5;
const TIMES: usize = 6;
const HASH: usize = 7;

/// A flow and its JAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The flow.
    pub key: FlowKey,
    /// Its hash on the wire, which chooses the tunnel's source port.
    pub hash: FlowHash,
    /// Its JAP, a peer.
    pub peer: Handle,
    /// How far it has come, as far as one direction tells: a flow of one packet may be forged, and
    /// is never open.
    pub phase: Phase,
    /// When it began here.
    pub created: Coarse,
    /// When its last packet came.
    pub last: Coarse,
}

/// A point in time, in ticks of [`Coarse::TICK`] since the origin of [`Time`], modulo 2^32 ticks: two
/// years, of which points may lie one year apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coarse(u32);

impl Coarse {
    const TICK_BITS: u32 = 14;

    /// The unit: 2^14 µs, 16.384 ms.
    pub const TICK: Duration = Duration::from_micros(1 << Self::TICK_BITS);

    /// How long this lies back, in whole ticks; zero if it does not. The other party's clock may be
    /// ahead of a `now` that was read before a batch of packets.
    #[must_use]
    pub fn age(self, now: Time) -> Duration {
        Self::TICK * self.ticks_until(Self::from(now))
    }

    /// Whether `later` lies at least this long after it, to a tick: up to one too soon, never too late.
    #[must_use]
    pub fn lies_before(self, later: Self, time: Duration) -> bool {
        u128::from(self.ticks_until(later)) >= time.as_micros() >> Self::TICK_BITS
    }

    /// The point as XDP is told it.
    #[must_use]
    pub const fn ticks(self) -> u32 {
        self.0
    }

    pub(super) const fn from_ticks(ticks: u32) -> Self {
        Self(ticks)
    }

    pub(super) fn ticks_until(self, later: Self) -> u32 {
        let ticks = later.0.wrapping_sub(self.0);
        if ticks.cast_signed() > 0 { ticks } else { 0 }
    }
}

impl From<Time> for Coarse {
    /// The tick in which a point lies.
    fn from(time: Time) -> Self {
        Self((time.as_micros() >> Self::TICK_BITS) as u32)
    }
}

/// Word 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times(pub(super) u64);

impl Times {
    pub(super) const fn new(created: Coarse, last: Coarse) -> Self {
        Self(created.0 as u64 | (last.0 as u64) << 32)
    }

    pub(super) const fn created(self) -> Coarse {
        Coarse(self.0 as u32)
    }

    pub(super) const fn last(self) -> Coarse {
        Coarse((self.0 >> 32) as u32)
    }
}

/// Word 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta(u64);

impl Meta {
    const GROUP_PORT: u32 = 16;
    const PROTOCOL: u32 = 32;
    const STAGE: u32 = 40;
    const VERSION: u32 = 48;
    /// Ports and protocol.
    const IDENTITY: u64 = (1 << Self::STAGE) - 1;

    const FREE: u8 = 0;
    const BEING_WRITTEN: u8 = 255;

    const fn new(version: u16, stage: u8, identity: u64) -> Self {
        Self((version as u64) << Self::VERSION | (stage as u64) << Self::STAGE | identity)
    }

    const fn version(self) -> u16 {
        (self.0 >> Self::VERSION) as u16
    }

    const fn stage(self) -> u8 {
        (self.0 >> Self::STAGE) as u8
    }

    const fn identity(self) -> u64 {
        self.0 & Self::IDENTITY
    }

    pub(super) const fn is_free(self) -> bool {
        self.stage() == Self::FREE
    }

    /// The phase of a flow that may be read.
    pub(super) const fn phase(self) -> Option<Phase> {
        match self.stage() {
            1 => Some(Phase::Datagrams),
            2 => Some(Phase::Opening),
            3 => Some(Phase::Open),
            4 => Some(Phase::Closing),
            _ => None,
        }
    }

    /// The same entry's, in another phase.
    const fn in_phase(self, phase: Phase) -> Self {
        let stage = match phase {
            Phase::Datagrams => 1,
            Phase::Opening => 2,
            Phase::Open => 3,
            Phase::Closing => 4,
        };
        Self::new(self.version(), stage, self.identity())
    }

    /// The next version.
    const fn next(self, stage: u8) -> Self {
        Self::new(self.version().wrapping_add(1), stage, 0)
    }

    const fn key(self, client: IpAddr, group: IpAddr) -> Option<FlowKey> {
        let protocol = match (self.0 >> Self::PROTOCOL) as u8 {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return None,
        };
        let client = SocketAddr::new(client, port(self.0));
        let port = port(self.0 >> Self::GROUP_PORT);
        Some(FlowKey { client, group: GroupKey { address: group, port, protocol } })
    }
}

/// The port whose octets, as a packet has them, are the lowest of `bits`.
pub(super) const fn port(bits: u64) -> u16 {
    u16::from_be_bytes((bits as u16).to_ne_bytes())
}

/// A port as [`port`] reads it.
pub(super) const fn port_bits(port: u16) -> u64 {
    u16::from_ne_bytes(port.to_be_bytes()) as u64
}

/// The address that [`address_words`] made words of.
pub(crate) fn address(words: [u64; 2]) -> IpAddr {
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&words[0].to_ne_bytes());
    octets[8..].copy_from_slice(&words[1].to_ne_bytes());
    Ipv6Addr::from(octets).to_canonical()
}

/// An address as two words of a packet, IPv4 in its IPv6-mapped form.
pub(crate) fn address_words(address: IpAddr) -> [u64; 2] {
    let octets = mapped(address);
    [0, 8].map(|start| u64::from_ne_bytes(array::from_fn(|octet| octets[start + octet])))
}

/// A flow as an entry names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    pub(super) hash: FlowHash,
    identity: u64,
    client: [u64; 2],
    group: [u64; 2],
}

impl Name {
    pub(super) fn of(key: &FlowKey, hash: FlowHash) -> Self {
        let FlowKey { client, group } = key;
        Self {
            hash,
            identity: port_bits(client.port())
                | port_bits(group.port) << Meta::GROUP_PORT
                | u64::from(group.protocol.number()) << Meta::PROTOCOL,
            client: address_words(client.ip()),
            group: address_words(group.address),
        }
    }
}

/// A pinned flow where it was found. By then it may be gone, and another one there: whatever is done
/// with it is done to this flow or not at all.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub(super) at: usize,
    pub(super) meta: Meta,
    pub(super) times: Times,
    /// The flow's JAP.
    pub peer: Handle,
}

/// One entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    at: usize,
    words: &'a [AtomicU64; ENTRY_WORDS],
}

impl<'a> Entry<'a> {
    pub(super) const fn new(at: usize, words: &'a [AtomicU64; ENTRY_WORDS]) -> Self {
        Self { at, words }
    }

    pub(super) fn meta(self) -> Meta {
        Meta(self.words[META].load(Acquire))
    }

    pub(super) fn times(self) -> Times {
        Times(self.word(TIMES))
    }

    fn word(self, at: usize) -> u64 {
        self.words[at].load(Relaxed)
    }

    fn pair(self, at: usize) -> [u64; 2] {
        [self.word(at), self.word(at + 1)]
    }

    /// Whether what was read since `meta` was of one flow.
    fn still_is(self, meta: Meta) -> bool {
        // Whoever wrote one of the words that were read has exchanged the meta before.
        fence(Acquire);
        let again = Meta(self.word(META));
        again.version() == meta.version() && again.stage() != Meta::BEING_WRITTEN
    }

    /// The flow of this name, if it is here.
    pub(super) fn find(self, name: &Name) -> Option<Found> {
        let meta = self.meta();
        let differs = self.word(HASH) != name.hash.0
            || meta.identity() != name.identity
            || self.pair(CLIENT) != name.client
            || self.pair(GROUP) != name.group;
        if differs || meta.phase().is_none() {
            return None;
        }
        let peer = Handle::from_bits(self.word(PEER));
        let found = Found { at: self.at, meta, times: self.times(), peer };
        self.still_is(meta).then_some(found)
    }

    /// The flow that is here.
    pub(super) fn read(self) -> Option<Pinned> {
        let meta = self.meta();
        let phase = meta.phase()?;
        let (hash, times) = (FlowHash(self.word(HASH)), self.times());
        let peer = Handle::from_bits(self.word(PEER));
        let key = meta.key(address(self.pair(CLIENT)), address(self.pair(GROUP)));
        if !self.still_is(meta) {
            return None;
        }
        let (created, last) = (times.created(), times.last());
        Some(Pinned { key: key?, hash, peer, phase, created, last })
    }

    /// Takes the entry from all others, who leave it alone until the meta is stored. `None` if it is
    /// not as it was `seen`.
    fn claim(self, seen: Meta) -> Option<Meta> {
        if seen.stage() == Meta::BEING_WRITTEN {
            return None;
        }
        let claimed = seen.next(Meta::BEING_WRITTEN);
        self.words[META].compare_exchange(seen.0, claimed.0, Acquire, Relaxed).ok()?;
        // Whoever reads one of the words stored from here on finds this meta when it looks again.
        fence(Release);
        Some(claimed)
    }

    /// Writes a flow over what was `seen`. `false` if that is there no more.
    pub(super) fn write(self, seen: Meta, name: &Name, new: &Pinned) -> bool {
        let Some(claimed) = self.claim(seen) else { return false };
        let (client, group) = (name.client, name.group);
        let times = Times::new(new.created, new.last);
        let words =
            [client[0], client[1], group[0], group[1], new.peer.to_bits(), times.0, new.hash.0];
        for (word, value) in self.words[CLIENT..].iter().zip(words) {
            word.store(value, Relaxed);
        }
        let meta = Meta::new(claimed.version(), Meta::BEING_WRITTEN, name.identity);
        self.publish(meta.in_phase(new.phase));
        true
    }

    /// Gives the flow another JAP: its meta then, or `None` if it is not as it was `seen`. To store
    /// the one word without a claim could give a JAP to whatever flow is there by then.
    pub(super) fn repin(self, seen: Meta, peer: Handle) -> Option<Meta> {
        let phase = seen.phase()?;
        let claimed = self.claim(seen)?;
        self.words[PEER].store(peer.to_bits(), Relaxed);
        let meta = Meta::new(claimed.version(), Meta::BEING_WRITTEN, seen.identity());
        self.publish(meta.in_phase(phase));
        Some(meta.in_phase(phase))
    }

    fn publish(self, meta: Meta) {
        self.words[META].store(meta.0, Release);
    }

    /// Frees the entry. `false` if it is not as it was `seen`.
    pub(super) fn free(self, seen: Meta) -> bool {
        let free = seen.next(Meta::FREE);
        self.words[META].compare_exchange(seen.0, free.0, Release, Relaxed).is_ok()
    }

    /// A packet came, `seen` being the times before. Within a tick of the last one nothing is stored,
    /// so that the cache line stays with all who read it.
    pub(super) fn packet_at(self, seen: Times, last: Coarse) {
        if seen.last().ticks_until(last) > 0 {
            let times = Times::new(seen.created(), last);
            let _ = self.words[TIMES].compare_exchange(seen.0, times.0, Relaxed, Relaxed);
        }
    }

    /// The flow has come as far as `phase`.
    pub(super) fn advance(self, seen: Meta, phase: Phase) {
        let meta = seen.in_phase(phase);
        if meta != seen {
            let _ = self.words[META].compare_exchange(seen.0, meta.0, Release, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        flow::buckets::{BESIDE_WORDS, Pins},
        mapped::Words,
    };

    fn pinned(client: &str, group: &str, phase: Phase) -> Pinned {
        let key = FlowKey { client: client.parse().unwrap(), group: group.parse().unwrap() };
        let peer = Handle::from_bits(0x0000_0002_0000_0005);
        let at = |ticks: u64| Coarse::from(Time::from_micros(ticks << 14));
        Pinned { key, hash: FlowHash(HASH_OF), peer, phase, created: at(3), last: at(4) }
    }

    const HASH_OF: u64 = 0xfedc_ba98_7654_3210;

    fn words_of(flow: &Pinned) -> [u64; 8] {
        let pins = Pins::new(Words::zeroed(BUCKET_WORDS).unwrap(), beside(), 1).unwrap();
        let entry = pins.entry(0);
        assert!(entry.write(entry.meta(), &Name::of(&flow.key, flow.hash), flow));
        assert_eq!(entry.read(), Some(*flow));
        array::from_fn(|at| entry.word(at))
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn every_word_of_an_ipv4_flow_is_what_the_other_party_expects() {
        // Version 1, stage 1, protocol 17. Port 0x1234 stands in a packet as 12 34, port 0x0035 as 00 35.
        let flow = pinned("192.0.2.1:4660", "203.0.113.10:53/udp", Phase::Datagrams);
        let expected = [
            0x0001_0111_3500_3412,
            0,
            0x0102_00c0_ffff_0000,
            0,
            0x0a71_00cb_ffff_0000,
            0x0000_0002_0000_0005,
            0x0000_0004_0000_0003,
            HASH_OF,
        ];
        assert_eq!(words_of(&flow), expected);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn every_word_of_an_ipv6_flow_is_what_the_other_party_expects() {
        // Version 1, stage 3, protocol 6. Port 0x9c40 stands in a packet as 9c 40, port 0x0050 as 00 50.
        let flow = pinned("[2001:db8:1:2:3:4:5:6]:40000", "[2001:db8:a::10]:80/tcp", Phase::Open);
        let expected = [
            0x0001_0306_5000_409c,
            0x0200_0100_b80d_0120,
            0x0600_0500_0400_0300,
            0x0000_0a00_b80d_0120,
            0x1000_0000_0000_0000,
            0x0000_0002_0000_0005,
            0x0000_0004_0000_0003,
            HASH_OF,
        ];
        assert_eq!(words_of(&flow), expected);
    }

    fn beside() -> Words {
        Words::zeroed(BESIDE_WORDS).unwrap()
    }

    #[test]
    fn whoever_saw_another_version_changes_nothing() {
        let pins = Pins::new(Words::zeroed(BUCKET_WORDS).unwrap(), beside(), 1).unwrap();
        let (entry, empty) = (pins.entry(0), pins.entry(0).meta());
        let old = pinned("192.0.2.1:1", "203.0.113.10:80/tcp", Phase::Opening);
        let new = pinned("192.0.2.2:2", "203.0.113.10:80/tcp", Phase::Opening);
        let name = |flow: &Pinned| Name::of(&flow.key, flow.hash);
        assert!(entry.write(empty, &name(&old), &old));
        let found = entry.find(&name(&old)).unwrap();
        assert!(entry.write(entry.meta(), &name(&new), &new));

        assert!(entry.find(&name(&old)).is_none());
        assert!(!entry.still_is(found.meta));
        assert!(!entry.write(empty, &name(&old), &old));
        assert!(!entry.free(found.meta));
        assert_eq!(entry.repin(found.meta, Handle::NONE), None);
        entry.advance(found.meta, Phase::Closing);
        assert_eq!(entry.read(), Some(new));
    }

    #[test]
    fn an_entry_being_written_is_nobody_elses() {
        let pins = Pins::new(Words::zeroed(BUCKET_WORDS).unwrap(), beside(), 1).unwrap();
        let entry = pins.entry(0);
        let flow = pinned("192.0.2.1:1", "203.0.113.10:80/tcp", Phase::Opening);
        let name = Name::of(&flow.key, flow.hash);
        assert!(entry.write(entry.meta(), &name, &flow));
        let seen = entry.meta();
        assert!(entry.claim(seen).is_some());
        assert!(!entry.still_is(seen));
        assert!(entry.find(&name).is_none() && entry.read().is_none());
        assert!(!entry.write(entry.meta(), &name, &flow));
        assert!(!entry.meta().is_free());
    }

    #[test]
    fn coarse_time_outlives_its_32_bits() {
        let wrap = Time::from_micros(1 << (32 + 14));
        let before = Time::from_micros(wrap.as_micros() - 1_000_000);
        let after = wrap + Duration::from_secs(1);
        let age = Coarse::from(before).age(after);
        assert!(age.abs_diff(Duration::from_secs(2)) <= Coarse::TICK, "{age:?}");
        assert_eq!(Coarse::from(after).age(before), Duration::ZERO);
        assert_eq!(Coarse::from(before).age(before), Duration::ZERO);
    }
}
