//! A model of the datapath: what the forwarding contract asks of it, without packets' bytes.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use pias_protocol::{
    forwarding::{
        ForwardingEvent, ForwardingUpdate, IngressEntry, RelayHow, SecondChanceCause, Target,
        TargetState,
    },
    group::GroupKey,
    hash::FlowHash,
    ids::{ParkedId, ProxyId, TargetId},
    limits::MAX_HOPS,
    placement,
    time::Time,
};

use crate::ids::Ids;

/// A client's packet on its way.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Its number.
    pub no: usize,
    /// Its flow.
    pub flow: FlowHash,
    /// Where it is addressed to.
    pub group: GroupKey,
    /// The proxy that it entered at.
    pub ingress: ProxyId,
    /// The proxies that it visited, by name.
    pub path: Vec<String>,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is on its way, or parked.
    Travels,
    /// A target's service answered.
    Answered {
        /// The target.
        target: SocketAddr,
        /// The proxies on its way, by name.
        path: Vec<String>,
    },
    /// The client was told that nobody is there.
    Refused {
        /// The proxies on its way, by name.
        path: Vec<String>,
    },
    /// The client heard nothing.
    Lost {
        /// The proxies on its way, by name.
        path: Vec<String>,
    },
}

impl Outcome {
    /// The target that answered.
    #[must_use]
    pub const fn target(&self) -> Option<SocketAddr> {
        match self {
            Self::Answered { target, .. } => Some(*target),
            _ => None,
        }
    }

    /// The proxies on the way, by name.
    #[must_use]
    pub fn path(&self) -> Vec<&str> {
        match self {
            Self::Travels => Vec::new(),
            Self::Answered { path, .. } | Self::Refused { path } | Self::Lost { path } => {
                path.iter().map(String::as_str).collect()
            }
        }
    }
}

/// How a packet comes to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// From the client.
    Client,
    /// From an ingress or a RAP, to be delivered.
    Join,
    /// To be resolved.
    Resolve { tried: Option<ProxyId> },
}

/// What the model wishes to happen.
#[derive(Debug)]
pub(crate) enum Action {
    Event(ForwardingEvent),
    Tunnel { to: ProxyId, packet: Packet, arrival: Arrival },
    Deliver { target: TargetId, address: SocketAddr, packet: Packet },
    Refuse(Packet),
    Lose(Packet),
    Probe(TargetId),
}

/// How long a packet is parked.
pub(crate) const PARKED: Duration = Duration::from_secs(1);
/// How many heirs in a row may have died.
const MAX_HEIRS: usize = 8;
/// How often an entry's use is reported at most.
const USED: Duration = Duration::from_secs(1);
/// How often a target's use is reported at most.
const TARGET_USED: Duration = Duration::from_millis(200);
/// Unanswered flows in a row that are worth a report.
const UNANSWERED: u32 = 3;

/// A set of hosts, one bit each: 20,000 proxies know 20,000 others in 50 MB.
#[derive(Debug, Default)]
struct Hosts(Vec<u64>);

impl Hosts {
    fn first(count: usize) -> Self {
        let mut hosts = Self(vec![u64::MAX; count / 64]);
        (count / 64 * 64..count).for_each(|host| hosts.set(host, true));
        hosts
    }

    fn set(&mut self, host: usize, is_in: bool) {
        let (word, bit) = (host / 64, 1 << (host % 64));
        if word >= self.0.len() {
            if !is_in {
                return;
            }
            self.0.resize(word + 1, 0);
        }
        if is_in {
            self.0[word] |= bit;
        } else {
            self.0[word] &= !bit;
        }
    }

    fn has(&self, host: usize) -> bool {
        self.0.get(host / 64).is_some_and(|word| word & 1 << (host % 64) != 0)
    }
}

/// One proxy's forwarding state.
#[derive(Debug)]
pub(crate) struct Datapath {
    own: ProxyId,
    peers: Hosts,
    /// Who stands in for the dead.
    heirs: BTreeMap<ProxyId, ProxyId>,
    ingress: BTreeMap<GroupKey, (IngressEntry, Option<Time>)>,
    targets: BTreeMap<TargetId, (Target, Option<Time>, u32)>,
    parked: BTreeMap<ParkedId, (Packet, Time)>,
    last_parked: u64,
}

impl Datapath {
    pub(crate) fn new(own: ProxyId) -> Self {
        Self {
            own,
            peers: Hosts::default(),
            heirs: BTreeMap::new(),
            ingress: BTreeMap::new(),
            targets: BTreeMap::new(),
            parked: BTreeMap::new(),
            last_parked: 0,
        }
    }

    /// The same, told already of so many hosts that all live.
    pub(crate) fn knowing(own: ProxyId, hosts: usize) -> Self {
        Self { peers: Hosts::first(hosts), ..Self::new(own) }
    }

    pub(crate) fn target(&self, id: TargetId) -> Option<SocketAddr> {
        self.targets.get(&id).map(|(target, ..)| target.address)
    }

    /// The overlay's word.
    pub(crate) fn apply(&mut self, update: ForwardingUpdate, ids: &Ids, now: Time) -> Vec<Action> {
        let mut actions = self.expire(now);
        match update {
            ForwardingUpdate::Peer { id, .. } => {
                self.peer(id, true, ids);
                self.heirs.remove(&id);
            }
            ForwardingUpdate::PeerGone { id, heir } => {
                self.peer(id, false, ids);
                match heir {
                    Some(heir) => self.heirs.insert(id, heir),
                    None => self.heirs.remove(&id),
                };
            }
            ForwardingUpdate::Ingress { group, entry } => {
                self.ingress.insert(group, (entry, None));
            }
            ForwardingUpdate::IngressForget(group) => {
                self.ingress.remove(&group);
            }
            ForwardingUpdate::Target(target) => {
                let (reported, silent) =
                    self.targets.get(&target.id).map_or((None, 0), |&(_, at, n)| (at, n));
                self.targets.insert(target.id, (target, reported, silent));
            }
            ForwardingUpdate::TargetGone(id) => {
                self.targets.remove(&id);
            }
            ForwardingUpdate::Relay { parked, to, how } => {
                if let Some((packet, _)) = self.parked.remove(&parked) {
                    let arrival = match how {
                        RelayHow::Join => Arrival::Join,
                        RelayHow::Resolve { tried } => Arrival::Resolve { tried },
                    };
                    actions.push(Action::Tunnel { to, packet, arrival });
                }
            }
            ForwardingUpdate::Deliver { parked } => {
                if let Some((packet, _)) = self.parked.remove(&parked) {
                    actions.extend(self.deliver(packet, now));
                }
            }
            ForwardingUpdate::Refuse { parked } => {
                if let Some((packet, _)) = self.parked.remove(&parked) {
                    actions.push(Action::Refuse(packet));
                }
            }
            ForwardingUpdate::Probe { target } => actions.push(Action::Probe(target)),
            // Its flows are too short to outlive their proxy.
            ForwardingUpdate::HandBack { to, .. } => {
                let handed = ForwardingEvent::HandedBack { to, records: Vec::new(), last: true };
                actions.push(Action::Event(handed));
            }
            ForwardingUpdate::Replicate { .. }
            | ForwardingUpdate::StandbyNat(_)
            | ForwardingUpdate::Standby { .. }
            | ForwardingUpdate::StandbyEnded { .. }
            | ForwardingUpdate::Adopt(_) => {}
        }
        actions
    }

    fn peer(&mut self, id: ProxyId, lives: bool, ids: &Ids) {
        if let Some(host) = ids.get(id) {
            self.peers.set(host, lives);
        }
    }

    /// A packet comes.
    pub(crate) fn arrive(
        &mut self,
        packet: Packet,
        arrival: Arrival,
        ids: &Ids,
        now: Time,
    ) -> Vec<Action> {
        let mut actions = self.expire(now);
        if packet.path.len() > usize::from(MAX_HOPS) {
            actions.push(Action::Refuse(packet));
            return actions;
        }
        match arrival {
            Arrival::Client => actions.extend(self.enter(packet, ids, now)),
            Arrival::Join => actions.extend(self.deliver(packet, now)),
            Arrival::Resolve { tried } => {
                let (group, flow, ingress) = (packet.group, packet.flow, packet.ingress);
                let hops = packet.path.len() as u8 - 1;
                let parked = self.park(packet, now);
                actions.push(Action::Event(ForwardingEvent::Resolve {
                    group,
                    flow,
                    ingress,
                    tried,
                    opens: true,
                    hops,
                    parked,
                }));
            }
        }
        actions
    }

    /// As an ingress.
    fn enter(&mut self, packet: Packet, ids: &Ids, now: Time) -> Vec<Action> {
        let (group, flow) = (packet.group, packet.flow);
        let missed = |datapath: &mut Self, packet| {
            let parked = datapath.park(packet, now);
            vec![Action::Event(ForwardingEvent::Missed { group, flow, parked })]
        };
        let Some((entry, reported)) = self.ingress.get_mut(&group) else {
            return missed(self, packet);
        };
        let mut actions = Vec::new();
        if reported.is_none_or(|at| now - at >= USED) {
            *reported = Some(now);
            actions.push(Action::Event(ForwardingEvent::IngressUsed(group)));
        }
        let (own, peers, heirs) = (self.own, &self.peers, &self.heirs);
        match entry {
            IngressEntry::Refuse => actions.push(Action::Refuse(packet)),
            IngressEntry::Rendezvous(rap) if *rap == own => return missed(self, packet),
            IngressEntry::Rendezvous(rap) => {
                let (to, arrival) = (*rap, Arrival::Resolve { tried: None });
                actions.push(Action::Tunnel { to, packet, arrival });
            }
            IngressEntry::Candidates(list) => {
                let lives = |id| id == own || ids.get(id).is_some_and(|host| peers.has(host));
                let stand_in = |c: &placement::Candidate| {
                    let line = std::iter::successors(Some(c.proxy), |id| heirs.get(id).copied());
                    line.take(MAX_HEIRS).find(|&id| lives(id))
                };
                let chosen = placement::choose(list, flow, |c| stand_in(c).is_some());
                match chosen.and_then(stand_in) {
                    Some(jap) if jap == own => actions.extend(self.deliver(packet, now)),
                    Some(to) => {
                        actions.push(Action::Tunnel { to, packet, arrival: Arrival::Join });
                    }
                    None => return missed(self, packet),
                }
            }
        }
        actions
    }

    /// As a JAP.
    fn deliver(&mut self, packet: Packet, now: Time) -> Vec<Action> {
        let up = self
            .targets
            .values()
            .map(|(target, ..)| target)
            .filter(|target| target.group == packet.group && target.state == TargetState::Up);
        let Some(target) = placement::weighted(up, packet.flow, |t| t.id.0, |t| t.weight) else {
            let (group, flow, ingress) = (packet.group, packet.flow, packet.ingress);
            let hops = packet.path.len() as u8 - 1;
            let parked = self.park(packet, now);
            return vec![Action::Event(ForwardingEvent::SecondChance {
                group,
                flow,
                ingress,
                opens: true,
                hops,
                cause: SecondChanceCause::NoTarget,
                parked,
            })];
        };
        let (id, address) = (target.id, target.address);
        let mut actions = Vec::new();
        if let Some((_, reported, _)) = self.targets.get_mut(&id)
            && reported.is_none_or(|at| now - at >= TARGET_USED)
        {
            *reported = Some(now);
            actions.push(Action::Event(ForwardingEvent::TargetUsed(id)));
        }
        actions.push(Action::Deliver { target: id, address, packet });
        actions
    }

    /// A flow to a target was not answered; what to tell the overlay.
    pub(crate) fn unanswered(&mut self, id: TargetId) -> Option<ForwardingEvent> {
        let (.., silent) = self.targets.get_mut(&id)?;
        *silent += 1;
        let unanswered = *silent;
        (unanswered.is_multiple_of(UNANSWERED))
            .then_some(ForwardingEvent::TargetSilent { target: id, unanswered })
    }

    fn park(&mut self, packet: Packet, now: Time) -> ParkedId {
        self.last_parked += 1;
        let id = ParkedId(self.last_parked);
        self.parked.insert(id, (packet, now + PARKED));
        id
    }

    /// Drops what was parked for too long.
    pub(crate) fn expire(&mut self, now: Time) -> Vec<Action> {
        let over: Vec<ParkedId> =
            self.parked.iter().filter(|(_, (_, until))| *until <= now).map(|(&id, _)| id).collect();
        let packets = over.into_iter().filter_map(|id| self.parked.remove(&id));
        packets.map(|(packet, _)| Action::Lose(packet)).collect()
    }
}
