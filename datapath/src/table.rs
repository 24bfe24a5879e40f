//! The forwarding table: what the overlay has said.

use std::net::{IpAddr, SocketAddr};

use hashbrown::HashMap;
use pias_protocol::{
    forwarding::{IngressEntry, Target, TargetState},
    group::GroupKey,
    hash::FlowHash,
    ids::{ProxyId, TargetId},
    placement,
    time::Time,
};

use crate::{
    heirs::Heirs,
    limits::{Limits, MAX_SEARCHED, rates},
    rate::Bucket,
    slots::{Handle, Slots},
    xdp::kept::{Former, FormerTarget},
};

/// A live proxy.
#[derive(Debug)]
pub struct Peer {
    /// Which.
    pub id: ProxyId,
    /// Its tunnel endpoint.
    pub tunnel: IpAddr,
    /// The MTU that its path has shown, and until when that is believed.
    pub learnt_mtu: Option<(u16, Time)>,
}

/// A target, and what its flows have shown of it.
#[derive(Debug)]
pub struct TargetEntry {
    /// What the overlay says.
    pub target: Target,
    /// New flows in a row without an answer.
    pub unanswered: u32,
    /// Whether a refusal or a silence has been reported, and no answer since.
    pub reported: bool,
    /// Limits reports of use.
    pub used: Bucket,
    /// Limits reports of refusals.
    pub refuses: Bucket,
    /// Limits reports of silence.
    pub silent: Bucket,
}

/// What is known of a group as an ingress.
#[derive(Debug)]
pub struct Group {
    /// Where its packets go.
    pub entry: IngressEntry,
    /// Limits reports of use.
    pub used: Bucket,
}

/// Where a flow that has no pin goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// This proxy is its JAP.
    Here,
    /// To this JAP.
    Join(Handle),
    /// To this RAP, to be resolved.
    Rendezvous(Handle),
    /// Nobody serves the group.
    Refuse,
    /// The overlay must be asked.
    Missed,
}

/// A candidate that flows are drawn for, and who gets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// By whose id and weight flows are drawn.
    pub candidate: placement::Candidate,
    /// The live peer that it is, or that stands in for it; `None`: this proxy.
    pub peer: Option<Handle>,
}

/// Which target takes a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one.
    Target(Handle),
    /// None may take new flows.
    NoTarget,
    /// Only the sender itself may.
    OnlySender,
}

/// The forwarding table.
#[derive(Debug)]
pub struct Table {
    self_id: ProxyId,
    limits: Limits,
    peers: Slots<Peer>,
    peer_by_id: HashMap<ProxyId, Handle>,
    peer_by_tunnel: HashMap<IpAddr, Handle>,
    heirs: Heirs,
    groups: HashMap<GroupKey, Group>,
    targets: Slots<TargetEntry>,
    /// Handles that flows of the process before name targets by.
    reserved: HashMap<TargetId, Handle>,
    target_by_id: HashMap<TargetId, Handle>,
    targets_by_group: HashMap<GroupKey, Vec<Handle>>,
    target_by_address: HashMap<(GroupKey, SocketAddr), Handle>,
}

impl Table {
    /// An empty table of the proxy `self_id`.
    #[must_use]
    pub fn new(self_id: ProxyId, limits: Limits) -> Self {
        Self {
            self_id,
            limits,
            peers: Slots::default(),
            peer_by_id: HashMap::new(),
            peer_by_tunnel: HashMap::new(),
            heirs: Heirs::default(),
            groups: HashMap::new(),
            targets: Slots::default(),
            reserved: HashMap::new(),
            target_by_id: HashMap::new(),
            targets_by_group: HashMap::new(),
            target_by_address: HashMap::new(),
        }
    }

    /// A live proxy, or its new address.
    pub fn set_peer(&mut self, id: ProxyId, tunnel: IpAddr) {
        if id == self.self_id {
            return;
        }
        self.heirs.lives(id);
        if let Some(&handle) = self.peer_by_id.get(&id) {
            if let Some(peer) = self.peers.get_mut(handle) {
                if self.peer_by_tunnel.get(&peer.tunnel) == Some(&handle) {
                    self.peer_by_tunnel.remove(&peer.tunnel);
                }
                peer.tunnel = tunnel;
                self.peer_by_tunnel.insert(tunnel, handle);
            }
        } else if self.peers.count() < self.limits.members {
            let handle = self.peers.insert(Peer { id, tunnel, learnt_mtu: None });
            self.peer_by_id.insert(id, handle);
            self.peer_by_tunnel.insert(tunnel, handle);
        }
    }

    /// A peer of the process before, whose pins are used further on. To be called before other peers are
    /// set, in the order of their handles' indexes.
    pub fn restore_peer(&mut self, former: &Former) {
        let &Former { handle, id, tunnel } = former;
        let peer = tunnel.map(|tunnel| Peer { id, tunnel, learnt_mtu: None });
        if let (true, Some(tunnel)) = (self.peers.restore(handle, peer), tunnel) {
            self.peer_by_id.insert(id, handle);
            self.peer_by_tunnel.insert(tunnel, handle);
        }
    }

    /// A proxy is gone, maybe since before this process. Pins to it find that out by their handle,
    /// and who stands in for it.
    pub fn remove_peer(&mut self, id: ProxyId, heir: Option<ProxyId>) {
        let handle = self.peer_by_id.remove(&id).unwrap_or(Handle::NONE);
        self.heirs.died(id, handle, heir);
        if let Some(peer) = self.peers.remove(handle)
            && self.peer_by_tunnel.get(&peer.tunnel) == Some(&handle)
        {
            self.peer_by_tunnel.remove(&peer.tunnel);
        }
    }

    /// The peer, while it lives.
    #[must_use]
    pub fn peer(&self, handle: Handle) -> Option<&Peer> {
        self.peers.get(handle)
    }

    /// The peer, while it lives, to be changed.
    pub fn peer_mut(&mut self, handle: Handle) -> Option<&mut Peer> {
        self.peers.get_mut(handle)
    }

    /// The live peer of this id.
    #[must_use]
    pub fn peer_of(&self, id: ProxyId) -> Option<Handle> {
        self.peer_by_id.get(&id).copied()
    }

    /// The live peer with this tunnel endpoint.
    #[must_use]
    pub fn peer_at(&self, tunnel: IpAddr) -> Option<Handle> {
        self.peer_by_tunnel.get(&tunnel).copied()
    }

    /// Installs where a group's packets go.
    pub fn set_ingress(&mut self, group: GroupKey, entry: IngressEntry) {
        if let Some(known) = self.groups.get_mut(&group) {
            known.entry = entry;
        } else if self.groups.len() < self.limits.groups {
            let (rate, burst) = rates::INGRESS_USED;
            self.groups.insert(group, Group { entry, used: Bucket::new(rate, burst) });
        }
    }

    /// Forgets where a group's packets go.
    pub fn forget_ingress(&mut self, group: &GroupKey) {
        self.groups.remove(group);
    }

    /// What is known of a group as an ingress.
    #[must_use]
    pub fn group(&self, group: &GroupKey) -> Option<&Group> {
        self.groups.get(group)
    }

    /// Whether the use of a group's entry is to be reported now.
    pub fn report_use(&mut self, group: &GroupKey, now: Time) -> bool {
        self.groups.get_mut(group).is_some_and(|known| known.used.allow(now))
    }

    /// Where a flow without a pin goes.
    #[must_use]
    pub fn place(&self, group: &GroupKey, flow: FlowHash) -> Place {
        match self.groups.get(group).map(|known| &known.entry) {
            None => Place::Missed,
            Some(IngressEntry::Refuse) => Place::Refuse,
            Some(IngressEntry::Rendezvous(rap)) => {
                self.peer_of(*rap).map_or(Place::Missed, Place::Rendezvous)
            }
            Some(IngressEntry::Candidates(candidates)) => {
                let usable = |c: &placement::Candidate| self.stand_in(c.proxy).is_some();
                let chosen = placement::choose(candidates, flow, usable);
                let proxy = chosen.and_then(|chosen| self.stand_in(chosen.proxy));
                proxy.and_then(|proxy| self.as_join(proxy)).unwrap_or(Place::Missed)
            }
        }
    }

    /// What a group's flows are drawn from: its usable candidates of the lowest tier that has any.
    pub fn drawn(&self, group: &GroupKey) -> impl Iterator<Item = Drawn> {
        let listed = match self.groups.get(group).map(|known| &known.entry) {
            Some(IngressEntry::Candidates(candidates)) => candidates.as_slice(),
            _ => &[],
        };
        let usable = |&candidate: &placement::Candidate| {
            let place = self.as_join(self.stand_in(candidate.proxy)?)?;
            let peer = if let Place::Join(peer) = place { Some(peer) } else { None };
            Some(Drawn { candidate, peer })
        };
        let tier = listed.iter().filter_map(usable).map(|drawn| drawn.candidate.tier).min();
        listed.iter().filter_map(usable).filter(move |drawn| Some(drawn.candidate.tier) == tier)
    }

    /// The groups whose flows may go elsewhere because of what happened to a proxy: it is a candidate of
    /// theirs, or may stand in for one that is gone.
    pub fn groups_around(&self, id: ProxyId) -> impl Iterator<Item = &GroupKey> {
        let concerns = move |proxy: ProxyId| proxy == id || self.as_join(proxy).is_none();
        let listed = move |known: &Group| match &known.entry {
            IngressEntry::Candidates(candidates) => candidates.iter().any(|c| concerns(c.proxy)),
            _ => false,
        };
        self.groups.iter().filter(move |(_, known)| listed(known)).map(|(group, _)| group)
    }

    /// A live proxy as a flow's JAP.
    fn as_join(&self, proxy: ProxyId) -> Option<Place> {
        if proxy == self.self_id {
            return Some(Place::Here);
        }
        self.peer_of(proxy).map(Place::Join)
    }

    /// Where the flows go that were pinned to a proxy that is gone.
    #[must_use]
    pub fn heir_of(&self, gone: Handle) -> Option<Place> {
        self.as_join(self.heirs.of_life(gone, |id| self.is_live(id))?)
    }

    /// The proxy itself if it lives, else who stands in for it.
    #[must_use]
    pub fn stand_in(&self, id: ProxyId) -> Option<ProxyId> {
        self.heirs.stand_in(id, |id| self.is_live(id))
    }

    /// The tunnel endpoints of other proxies where flows of a group may live: its candidates, or
    /// where none is known, all; at most [`MAX_SEARCHED`].
    #[must_use]
    pub fn possible_joins(&self, group: &GroupKey) -> Vec<IpAddr> {
        let listed = match self.groups.get(group).map(|known| &known.entry) {
            Some(IngressEntry::Candidates(candidates)) => candidates.as_slice(),
            _ => &[],
        };
        let live = |c: &placement::Candidate| {
            Some(self.peer(self.peer_of(self.stand_in(c.proxy)?)?)?.tunnel)
        };
        let joins: Vec<_> = listed.iter().filter_map(live).take(MAX_SEARCHED).collect();
        if joins.is_empty() {
            return self.peers.iter().map(|(_, peer)| peer.tunnel).take(MAX_SEARCHED).collect();
        }
        joins
    }

    /// Whether a proxy is this one, or a live peer.
    #[must_use]
    pub fn is_live(&self, id: ProxyId) -> bool {
        id == self.self_id || self.peer_by_id.contains_key(&id)
    }

    /// A target, or its new state. A target with a new address or group is a new one: its flows
    /// end as those of a target that is gone.
    pub fn set_target(&mut self, target: Target) {
        if let Some(&handle) = self.target_by_id.get(&target.id)
            && let Some(known) = self.targets.get_mut(handle)
        {
            if (known.target.group, known.target.address) == (target.group, target.address) {
                known.target = target;
                return;
            }
            self.remove_target(target.id);
        }
        let reserved = self.reserved.remove(&target.id);
        if reserved.is_none() && self.targets.count() >= self.limits.members {
            return;
        }
        let (id, group, address) = (target.id, target.group, target.address);
        let bucket = |(rate, burst)| Bucket::new(rate, burst);
        let entry = TargetEntry {
            target,
            unanswered: 0,
            reported: false,
            used: bucket(rates::TARGET_USED),
            refuses: bucket(rates::TARGET_REFUSES),
            silent: bucket(rates::TARGET_SILENT),
        };
        let handle = match reserved {
            Some(handle) => {
                self.targets.fill(handle, entry);
                handle
            }
            None => self.targets.insert(entry),
        };
        self.target_by_id.insert(id, handle);
        self.target_by_address.insert((group, address), handle);
        self.targets_by_group.entry(group).or_default().push(handle);
    }

    /// A target of the process before, whose flows go on: it gets its handle again, if it is registered before
    /// [`Self::release_targets`]. To be called before others are set, in the order of the handles' indexes.
    pub fn reserve_target(&mut self, former: &FormerTarget) {
        match former.id {
            Some(id) if self.targets.reserve(former.handle) => {
                self.reserved.insert(id, former.handle);
            }
            Some(_) => {}
            None => drop(self.targets.restore(former.handle, None)),
        }
    }

    /// Targets of the process before that are not registered by now are gone.
    pub fn release_targets(&mut self) {
        for (_, handle) in self.reserved.drain() {
            self.targets.release(handle);
        }
    }

    /// A target is gone. Its flows find that out by their handle.
    pub fn remove_target(&mut self, id: TargetId) {
        let Some(handle) = self.target_by_id.remove(&id) else { return };
        let Some(entry) = self.targets.remove(handle) else { return };
        let place = (entry.target.group, entry.target.address);
        if self.target_by_address.get(&place) == Some(&handle) {
            self.target_by_address.remove(&place);
        }
        if let Some(members) = self.targets_by_group.get_mut(&entry.target.group) {
            members.retain(|&member| member != handle);
            if members.is_empty() {
                self.targets_by_group.remove(&entry.target.group);
            }
        }
    }

    /// The target, while it is a member.
    #[must_use]
    pub fn target(&self, handle: Handle) -> Option<&TargetEntry> {
        self.targets.get(handle)
    }

    /// The target, while it is a member, to be changed.
    pub fn target_mut(&mut self, handle: Handle) -> Option<&mut TargetEntry> {
        self.targets.get_mut(handle)
    }

    /// The member with this lease.
    #[must_use]
    pub fn target_of(&self, id: TargetId) -> Option<&Target> {
        self.targets.get(*self.target_by_id.get(&id)?).map(|entry| &entry.target)
    }

    /// The member with this lease, by its handle.
    #[must_use]
    pub fn handle_of(&self, id: TargetId) -> Option<Handle> {
        self.target_by_id.get(&id).copied()
    }

    /// The member of a group at this address, and its lease.
    #[must_use]
    pub fn target_at(&self, group: &GroupKey, address: SocketAddr) -> Option<(Handle, TargetId)> {
        let handle = *self.target_by_address.get(&(*group, address))?;
        Some((handle, self.targets.get(handle)?.target.id))
    }

    /// The members of a group here.
    pub fn targets_of(&self, group: &GroupKey) -> impl Iterator<Item = (Handle, &Target)> {
        let members = self.targets_by_group.get(group).map_or(&[][..], Vec::as_slice);
        members
            .iter()
            .filter_map(|&handle| self.targets.get(handle).map(|entry| (handle, &entry.target)))
    }

    /// Whether a target may get new flows.
    #[must_use]
    pub fn takes_flows(&self, target: Handle) -> bool {
        self.targets.get(target).is_some_and(|entry| takes_flows(&entry.target))
    }

    /// Which target takes a new flow of `client`: never the client itself.
    #[must_use]
    pub fn choose_target(&self, group: &GroupKey, client: SocketAddr, flow: FlowHash) -> Choice {
        let mut sender = false;
        let eligible = self.targets_of(group).filter(|(_, target)| {
            let open = takes_flows(target);
            let itself = target.address.ip() == client.ip();
            sender |= open && itself;
            open && !itself
        });
        let chosen =
            placement::weighted(eligible, flow, |(_, target)| target.id.0, |(_, t)| t.weight);
        match chosen {
            Some((handle, _)) => Choice::Target(handle),
            None if sender => Choice::OnlySender,
            None => Choice::NoTarget,
        }
    }
}

fn takes_flows(target: &Target) -> bool {
    target.state == TargetState::Up && target.weight > 0
}
