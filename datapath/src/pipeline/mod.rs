//! What happens to a packet.
//!
//! ```text
//! from_tun ───── to an anycast address ──► ingress ──┬─► tunnel (JAP or RAP)
//!           │                                        └─► join ──► TUN      this proxy is the JAP
//!           ├─── to a NAT address ───────► returning ──► TUN
//!           └─── to a mate's ────────────► standby ──┬─► returning    the mate is gone
//!                                                    └─► tunnel       the mate lives
//! from_tunnel ── with RESOLVE ───────────► parked, event Resolve           this proxy is a RAP
//!           ├─── with PIN ───────────────► the flow is pinned              this proxy is an ingress
//!           └─── else ───────────────────► join ──► TUN                    this proxy is the JAP
//! apply ──────── verdicts on parked packets ──► tunnel, join, or a refusal
//! ```
//! Each way is a file; what several of them use is in `answers`, `tunnel` and `trains`.

mod answers;
mod hand_over;
mod icmp;
mod ingress;
mod join;
mod returning;
mod standby;
mod tick;
mod trains;
mod tunnel;
mod updates;
mod verdict;
mod views;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::IpNet;
use pias_protocol::{
    PIAS_PORT,
    forwarding::ForwardingEvent,
    geneve::{self, Flags},
    group::{GroupKey, Protocol},
    ids::ProxyId,
    time::Time,
};

pub use hand_over::{Adopted, Has, Tables};
pub use verdict::{Side, Verdict};
pub use views::{FlowRole, FlowView, Occupancy};

use crate::{
    classify::{Kind, Prefixes, View, is_host},
    counters::{Counters, Path},
    drop_reason::DropReason,
    flow::{
        buckets::Misshapen,
        elsewhere::Elsewhere,
        ingress::IngressTable,
        nat::{NatMemory, NatTable},
        standby::Standby,
    },
    fragment::{Fragments, TrainKey},
    health::Watch,
    limits::{Limits, rates},
    mapped::Words,
    packet::Packet,
    parking::Parking,
    probe::Probes,
    rate::Bucket,
    slots::Handle,
    table::Table,
};

/// What a pipeline is told once.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// This proxy.
    pub self_id: ProxyId,
    /// The anycast prefixes.
    pub anycast: Vec<IpNet>,
    /// The source addresses of NAT delivery, at most one a family.
    pub nat: Vec<IpAddr>,
    /// This proxy's tunnel endpoints, at most one a family.
    pub unicast: Vec<IpAddr>,
    /// Octets of the largest packet that the network between proxies carries.
    pub underlay_mtu: u16,
    /// The sizes of tables.
    pub limits: Limits,
    /// Seeds the tables' hashes and the choice of ports; from the operating system's entropy, so
    /// that nobody can aim at one bucket.
    pub seed: u64,
}

impl PipelineConfig {
    /// Octets of an inner packet for which any header in the tunnel to `endpoint` leaves room, where the
    /// network carries `mtu`.
    pub(crate) fn room_in_tunnel(endpoint: IpAddr, mtu: u16) -> usize {
        usize::from(mtu).saturating_sub(tunnel::overhead(endpoint, geneve::MAX_LEN))
    }
}

/// Memory that a pipeline shares with the XDP programs.
#[derive(Debug)]
pub struct Shared {
    /// Pinned flows.
    pub pins: Words,
    /// How much of their table is used: [`BESIDE_WORDS`](crate::flow::buckets::BESIDE_WORDS), or more.
    pub beside: Words,
    /// Translated flows.
    pub nat: NatMemory,
    /// Which flows are known beside the pinned and the translated ones.
    pub elsewhere: Elsewhere,
    /// By which flows are spread over the tables.
    pub seed: u64,
    /// Whether there are flows in them of another process, which may run.
    pub is_kept: bool,
}

/// The tables of one proxy and what they do to packets. One engine owns it.
pub struct Pipeline {
    config: PipelineConfig,
    prefixes: Prefixes,
    table: Table,
    pins: IngressTable,
    nat: NatTable,
    standby: Standby,
    /// NAT addresses of mates that may come here, and whose they are.
    standby_nat: Vec<(ProxyId, IpAddr)>,
    returns: standby::Returns,
    parking: Parking,
    fragments: Fragments,
    watch: Watch,
    probes: Probes,
    rates: Rates,
    counters: Counters,
    /// The least underlay MTU towards any peer: what fits it needs no look at the peer.
    least_mtu: u16,
    /// Peers whose path has shown an MTU of its own.
    learnt: Vec<Handle>,
    /// Whether flows that are translated here may name targets as another process does, whose program runs.
    succeeds: bool,
}

struct Rates {
    echo: Bucket,
    reset: Bucket,
    error: Bucket,
    too_big: Bucket,
    pin: Bucket,
    search: Bucket,
    agent: Bucket,
}

impl Rates {
    const fn new() -> Self {
        const fn bucket((rate, burst): (u64, u64)) -> Bucket {
            Bucket::new(rate, burst)
        }
        Self {
            echo: bucket(rates::ECHO),
            reset: bucket(rates::RESET),
            error: bucket(rates::ICMP_ERROR),
            too_big: bucket(rates::TOO_BIG),
            pin: bucket(rates::PIN),
            search: bucket(rates::SEARCH),
            agent: bucket(rates::AGENT),
        }
    }
}

#[allow(clippy::wrong_self_convention, reason = "`from_tun` says where a packet came from")]
impl Pipeline {
    /// A pipeline with empty tables.
    #[must_use]
    pub fn new(config: PipelineConfig) -> Self {
        let (limits, seed) = (config.limits, config.seed);
        Self {
            prefixes: Prefixes::new(&config.anycast),
            table: Table::new(config.self_id, limits),
            pins: IngressTable::new(limits.ingress_flows, seed),
            nat: NatTable::new(limits, seed),
            standby: Standby::new(limits.standby_flows, seed),
            standby_nat: Vec::new(),
            returns: standby::Returns::new(),
            parking: Parking::new(limits),
            fragments: Fragments::new(limits),
            watch: Watch::default(),
            probes: Probes::new(seed),
            rates: Rates::new(),
            counters: Counters::default(),
            least_mtu: config.underlay_mtu,
            learnt: Vec::new(),
            succeeds: false,
            config,
        }
    }

    /// A pipeline that shares its pinned and its translated flows with the XDP programs, and tells
    /// them of all others.
    ///
    /// # Errors
    /// [`Misshapen`] where the words are no table of pinned flows.
    pub fn sharing(config: PipelineConfig, shared: Shared) -> Result<Self, Misshapen> {
        let Shared { pins, beside, nat, elsewhere, seed, is_kept } = shared;
        let mut pipeline = Self::new(config);
        pipeline.pins = IngressTable::on(pins, beside, seed)?;
        pipeline.nat = NatTable::on(nat, pipeline.config.limits, seed);
        pipeline.standby.tell(elsewhere);
        pipeline.succeeds = is_kept;
        Ok(pipeline)
    }

    /// What the overlay has said.
    #[must_use]
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// The largest packet that the network between proxies carries, where nothing less was learnt.
    #[must_use]
    pub const fn underlay_mtu(&self) -> u16 {
        self.config.underlay_mtu
    }

    /// NAT addresses of mates that targets' packets may come to here.
    pub fn standby_nat(&self) -> impl Iterator<Item = IpAddr> {
        self.standby_nat.iter().map(|&(_, nat)| nat)
    }

    /// Peers whose path has shown an MTU of its own.
    #[must_use]
    pub fn narrow_peers(&self) -> &[Handle] {
        &self.learnt
    }

    /// A packet that the kernel routed into the TUN device.
    pub fn from_tun(&mut self, packet: &mut Packet, now: Time, side: &mut Side) -> Verdict {
        let view = match self.read(packet) {
            Ok(view) => view,
            Err(reason) => return self.drop_for(reason),
        };
        let mut to_nat = self.config.nat.contains(&view.ip.destination);
        if !to_nat && !self.prefixes.contains(view.ip.destination) {
            if !self.stands_by(view.ip.destination) {
                return self.drop_for(DropReason::NotOurs);
            }
            to_nat = true;
        }
        let train = TrainKey::of(&view.ip, false);
        if let (Kind::LaterFragment, Some(train)) = (view.kind, train) {
            return self.later_fragment(train, packet, &view, now, side);
        }
        let verdict = if to_nat {
            self.target_sent(packet, &view, false, now, side)
        } else {
            self.client_sent(packet, &view, now, side)
        };
        self.conclude(train, verdict, packet, now, side)
    }

    /// A packet that another proxy sent; `packet` is what stood behind the Geneve header.
    pub fn from_tunnel(
        &mut self,
        outer_source: IpAddr,
        header: &geneve::Header,
        packet: &mut Packet,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let Some(peer) = self.table.peer_at(outer_source) else {
            return self.drop_for(DropReason::UnknownPeer);
        };
        if header.option.is_some_and(|option| option.flags.contains(Flags::PIN)) {
            return self.pin_notice(peer, packet, now);
        }
        let view = match self.read(packet) {
            Ok(view) => view,
            Err(reason) => return self.drop_for(reason),
        };
        if view.ip.is_v6() != (header.inner == geneve::Inner::Ipv6) {
            return self.drop_for(DropReason::TunnelMalformed);
        }
        if !self.prefixes.contains(view.ip.destination) && !self.takes_nat(view.ip.destination) {
            return self.drop_for(DropReason::OutsidePrefix);
        }
        let train = TrainKey::of(&view.ip, true);
        if let (Kind::LaterFragment, Some(train)) = (view.kind, train) {
            return self.later_fragment(train, packet, &view, now, side);
        }
        let verdict = if self.prefixes.contains(view.ip.destination) {
            self.peer_sent(peer, header, packet, &view, now, side)
        } else {
            // Routing brought a target's packet to a mate first.
            self.target_sent(packet, &view, true, now, side)
        };
        self.conclude(train, verdict, packet, now, side)
    }

    /// What happened to packets so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Counts packets that the engine had to drop.
    pub fn count_drops(&mut self, reason: DropReason, packets: u64) {
        self.counters.count_drops(reason, packets);
    }

    /// Parses a packet, cuts what follows it, and checks its source.
    fn read(&self, packet: &mut Packet) -> Result<View, DropReason> {
        let view = View::parse(packet.bytes())?;
        packet.set_len(view.ip.end);
        if self.may_send(view.ip.source) { Ok(view) } else { Err(DropReason::BadSource) }
    }

    /// Whether somebody else may send from an address.
    fn may_send(&self, source: IpAddr) -> bool {
        is_host(source) && !self.is_ours(source)
    }

    /// Whether an address is anycast, or a NAT address of this proxy: nobody else sends from it.
    fn is_ours(&self, address: IpAddr) -> bool {
        self.prefixes.contains(address) || self.config.nat.contains(&address)
    }

    /// Whether an address is a NAT address of a mate that may come here.
    fn stands_by(&self, address: IpAddr) -> bool {
        self.standby_nat.iter().any(|&(_, nat)| nat == address)
    }

    /// Whether targets' packets to a NAT address may come here, by whatever way.
    fn takes_nat(&self, address: IpAddr) -> bool {
        self.config.nat.contains(&address) || self.stands_by(address)
    }

    fn nat_address(&self, v6: bool) -> Option<IpAddr> {
        self.config.nat.iter().copied().find(|address| address.is_ipv6() == v6)
    }

    fn count(&mut self, path: Path) {
        self.counters.count(path);
    }

    fn drop_for(&mut self, reason: DropReason) -> Verdict {
        self.counters.count_drop(reason);
        Verdict::Drop(reason)
    }

    fn event(&mut self, event: impl Into<Option<ForwardingEvent>>, side: &mut Side) {
        if let Some(event) = event.into()
            && !side.push_event(event)
        {
            self.counters.count_drop(DropReason::EventQueueFull);
        }
    }
}

/// Whether a group is the proxies' own registration port.
fn is_registration(group: &GroupKey) -> bool {
    group.protocol == Protocol::Udp && group.port == PIAS_PORT
}
