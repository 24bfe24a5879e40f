//! The tables that the programs read, kept equal to the forwarding table.

use std::{sync::atomic::Ordering, time::Duration};

use aya::{
    maps::{HashMap, MapData, MapError, PerCpuArray, RingBuf},
    sys::SyscallError,
};
use pias_protocol::{
    forwarding::ForwardingUpdate,
    group::{GroupKey, Protocol},
    ids::{ProxyId, TargetId},
};
use zerocopy::{FromBytes, FromZeros};

use super::{
    endpoints::Endpoints,
    kept::{self, Former, FormerTarget, coarse_clock},
    layout::{self, Candidate, Group, HERE, Key, peer, state},
    stood_for::StoodFor,
    targets::Targets,
};
use crate::{
    counters::Path,
    drop_reason::DropReason,
    flow::pins::{Coarse, address_words},
    limits::NOTICED_PER_TICK,
    mapped::Words,
    pipeline::{Pipeline, Shared},
    slots::Handle,
    table::{Drawn, Table},
};

pub(super) const KEY: usize = size_of::<Key>();
pub(super) const GROUP: usize = size_of::<Group>();

/// A table could not be written: full, or the kernel refused it. What stands there is wrong from now
/// on; the programs have to be taken off.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the XDP program's tables: {0}")]
pub struct WriteError(#[from] MapError);

/// What an update changes of what the programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// Nothing.
    Nothing,
    /// A proxy, and all groups that name it.
    Peer(ProxyId),
    /// A group as an ingress sees it.
    Group(GroupKey),
    /// A target, and its group.
    Target(TargetId),
    /// The NAT addresses of mates.
    StandbyNat,
}

impl Touched {
    /// What this update will change.
    #[must_use]
    pub const fn by(update: &ForwardingUpdate) -> Self {
        match update {
            ForwardingUpdate::Peer { id, .. } | ForwardingUpdate::PeerGone { id, .. } => {
                Self::Peer(*id)
            }
            ForwardingUpdate::Ingress { group, .. } | ForwardingUpdate::IngressForget(group) => {
                Self::Group(*group)
            }
            ForwardingUpdate::Target(target) => Self::Target(target.id),
            ForwardingUpdate::TargetGone(id) => Self::Target(*id),
            ForwardingUpdate::StandbyNat(_) => Self::StandbyNat,
            _ => Self::Nothing,
        }
    }
}

/// What the programs tell of a translated flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// Which flow.
    pub flow: Handle,
    /// Whether its target has just answered it for the first time. Flows are told of for other reasons, too,
    /// long after their answers.
    pub answered: bool,
}

impl From<u64> for News {
    fn from(told: u64) -> Self {
        let flow = Handle::from_bits(told & !layout::NEWS_ANSWERED);
        Self { flow, answered: told & layout::NEWS_ANSWERED != 0 }
    }
}

/// The tables of one loaded program.
pub struct Tables {
    pub(super) state: Words,
    pub(super) counts: PerCpuArray<MapData, u64>,
    pub(super) peers: Words,
    pub(super) endpoints: Endpoints,
    pub(super) stood_for: StoodFor,
    pub(super) groups: HashMap<MapData, [u8; KEY], [u8; GROUP]>,
    pub(super) used: RingBuf<MapData>,
    pub(super) targets: Targets,
    pub(super) flows: RingBuf<MapData>,
    pub(super) unicast: Vec<std::net::IpAddr>,
    pub(super) shared: Option<Shared>,
}

impl Tables {
    /// New ones are true for as long as this process has them, until [`Self::vouch`] says otherwise.
    pub(super) fn begin(&self, seed: u64, fingerprint: u64, is_new: bool) {
        if is_new {
            self.state[state::UNTIL].store(u64::MAX, Ordering::Relaxed);
        }
        self.state[state::SEED].store(seed, Ordering::Relaxed);
        self.state[state::FINGERPRINT].store(fingerprint, Ordering::Release);
        self.routes_changed();
    }

    /// By which flows are spread over the tables.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.state[state::SEED].load(Ordering::Relaxed)
    }

    /// The memory of pinned and translated flows, and the filter of flows beside them, for the pipeline;
    /// once.
    pub const fn take_shared(&mut self) -> Option<Shared> {
        self.shared.take()
    }

    /// The peers and the targets by which flows in the tables are named, that another process knew.
    #[must_use]
    pub fn former(&self) -> (Vec<Former>, Vec<FormerTarget>) {
        (kept::peers(&self.peers).collect(), self.targets.former())
    }

    /// Whoever of these targets is not registered here is gone.
    pub fn end_former(&self, former: &[FormerTarget], table: &Table) {
        self.targets.end_former(former, table);
    }

    /// Tells the programs the time. To be called at least every few hundred milliseconds.
    pub fn set_now(&self, now: Coarse) {
        let epoch = self.state[state::NOW].load(Ordering::Relaxed) >> 32 << 32;
        self.state[state::NOW].store(epoch | u64::from(now.ticks()), Ordering::Relaxed);
    }

    /// What stands in the tables may be used for so long from now on; beyond, all is passed up.
    pub fn vouch(&self, span: Duration) {
        let until = coarse_clock().saturating_add(span);
        self.state[state::UNTIL].store(until.as_nanos() as u64, Ordering::Relaxed);
    }

    /// A route, a neighbour or a link has changed: next hops are looked up anew.
    pub fn routes_changed(&self) {
        let word = self.state[state::NOW].load(Ordering::Relaxed);
        // 0 says that no hop was ever found, and the last one that it is being written.
        let epoch = match (word >> 32) as u32 {
            last if last >= u32::MAX - 1 => 1,
            epoch => epoch + 1,
        };
        self.state[state::NOW]
            .store(u64::from(epoch) << 32 | u64::from(word as u32), Ordering::Release);
    }

    /// How many packets the programs sent this way, on all processors.
    #[must_use]
    pub fn path(&self, path: Path) -> u64 {
        self.count(path as u32)
    }

    /// How many packets the programs dropped for this reason, on all processors.
    #[must_use]
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.count(layout::drop_counter(reason))
    }

    fn count(&self, counter: u32) -> u64 {
        self.counts.get(&counter, 0).map_or(0, |values| values.iter().sum())
    }

    /// Groups whose candidates the programs used since this was last called; each at most once a
    /// second.
    pub fn used(&mut self) -> Vec<GroupKey> {
        let mut used = Vec::new();
        while let Some(item) = self.used.next() {
            used.extend(Key::read_from_bytes(&item).ok().and_then(group));
        }
        used
    }

    /// Translated flows that are new, answered for the first time, or others than they were, as far as the
    /// programs tell: of new flows, and of answers, one a tick and target.
    pub fn news(&mut self) -> Vec<News> {
        let mut flows = Vec::new();
        while flows.len() < NOTICED_PER_TICK
            && let Some(item) = self.flows.next()
        {
            flows.extend(u64::read_from_bytes(&item).map(News::from));
        }
        flows
    }

    /// Makes what an update touched equal to what the pipeline knows again.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn follow(&mut self, touched: Touched, pipeline: &Pipeline) -> Result<(), WriteError> {
        let table = pipeline.table();
        match touched {
            Touched::Nothing => Ok(()),
            Touched::StandbyNat => self.stood_for.follow(pipeline.standby_nat()),
            Touched::Group(group) => self.set_group(&group, table),
            Touched::Target(id) => self.targets.follow(id, table),
            Touched::Peer(id) => {
                self.endpoints.follow(id, table)?;
                match table.peer_of(id) {
                    Some(handle) => self.set_peer(handle, table, pipeline.underlay_mtu()),
                    None => self.drop_peers(table),
                }
                table.groups_around(id).try_for_each(|group| self.set_group(group, table))
            }
        }
    }

    /// Makes what stands of a peer equal to the forwarding table again. The programs use what they read in
    /// the order of words: a peer lives last.
    pub fn set_peer(&self, handle: Handle, table: &Table, underlay_mtu: u16) {
        let Some(known) = table.peer(handle) else { return };
        let Some(words) = self.peer_words(handle) else { return };
        let v6 = known.tunnel.is_ipv6();
        let Some(own) = self.unicast.iter().find(|own| own.is_ipv6() == v6) else { return };
        let mtu = known.learnt_mtu.map_or(underlay_mtu, |(mtu, _)| mtu.min(underlay_mtu));
        let life = handle.to_bits() >> 32 | 1 << 32 | u64::from(v6) << 40 | u64::from(mtu) << 48;
        let ends = address_words(known.tunnel).into_iter().chain(address_words(*own));
        let same = words[peer::LIFE].load(Ordering::Relaxed) as u32 == life as u32;
        for (word, value) in words[peer::TUNNEL..peer::HOP].iter().zip(ends) {
            if word.swap(value, Ordering::Relaxed) != value || !same {
                words[peer::HOP].store(0, Ordering::Relaxed);
            }
        }
        words[peer::ID].store(known.id.0, Ordering::Relaxed);
        words[peer::LIFE].store(life, Ordering::Release);
    }

    /// Takes out whoever is not in the forwarding table any more.
    fn drop_peers(&self, table: &Table) {
        let entries = self.peers.chunks_exact(peer::WORDS);
        for (index, words) in entries.enumerate() {
            let life = words[peer::LIFE].load(Ordering::Relaxed);
            let handle = Handle::from_bits(index as u64 | life << 32);
            if life >> 32 & 1 == 1 && table.peer(handle).is_none() {
                // Its generation stays, for the process after this one.
                words[peer::LIFE].store(u64::from(life as u32), Ordering::Release);
            }
        }
    }

    fn peer_words(&self, handle: Handle) -> Option<&[std::sync::atomic::AtomicU64]> {
        let index = handle.to_bits() as u32 as usize;
        self.peers.get(index * peer::WORDS..(index + 1) * peer::WORDS)
    }

    fn set_group(&mut self, group: &GroupKey, table: &Table) -> Result<(), WriteError> {
        write_group(&mut self.groups, Key::from(group), table.drawn(group).map(candidate))?;
        Ok(())
    }
}

/// Writes what a group's flows are drawn from; nothing of a group without. Whether there was, or is,
/// something.
pub(super) fn write_group(
    groups: &mut HashMap<MapData, [u8; KEY], [u8; GROUP]>,
    key: Key,
    candidates: impl IntoIterator<Item = Candidate>,
) -> Result<bool, WriteError> {
    let key: [u8; KEY] = zerocopy::transmute!(key);
    let mut value = Group::new_zeroed();
    for (slot, candidate) in value.candidates.iter_mut().zip(candidates) {
        *slot = candidate;
        value.count += 1;
    }
    if value.count == 0 {
        return Ok(removed(groups.remove(&key))?);
    }
    let octets: [u8; GROUP] = zerocopy::transmute!(value);
    groups.insert(key, octets, 0)?;
    Ok(true)
}

/// What was not there is removed as well. Whether it was.
pub(super) fn removed(outcome: Result<(), MapError>) -> Result<bool, MapError> {
    match outcome {
        Err(MapError::SyscallError(error)) if was_not_there(&error) => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

fn was_not_there(error: &SyscallError) -> bool {
    error.io_error.kind() == std::io::ErrorKind::NotFound
}

fn candidate(drawn: Drawn) -> Candidate {
    let bits = drawn.peer.map_or(u64::from(HERE), Handle::to_bits);
    Candidate {
        id: drawn.candidate.proxy.0,
        weight: drawn.candidate.weight,
        peer: bits as u32,
        generation: (bits >> 32) as u32,
        zero: 0,
    }
}

fn group(key: Key) -> Option<GroupKey> {
    let protocol = [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .find(|protocol| protocol.number() == key.protocol)?;
    let address = std::net::Ipv6Addr::from(key.address).to_canonical();
    Some(GroupKey { address, port: u16::from_be_bytes(key.port), protocol })
}
