//! The contract between the overlay, which decides, and the datapath, which forwards.
//!
//! They relate as the routing and the forwarding table of a router do. The overlay emits
//! [`ForwardingUpdate`]s, never a whole table: each is small, idempotent, and applies to the TUN
//! engine's tables and to the XDP engine's maps alike. The datapath emits [`ForwardingEvent`]s.
//!
//! ```text
//!                 ForwardingUpdate: peers, ingress entries, targets; verdicts on parked packets
//!    overlay  ───────────────────────────────────────────────────────────────────►  datapath
//!             ◄───────────────────────────────────────────────────────────────────
//!                 ForwardingEvent: a group missed, a target refused, what a probe found
//! ```
//!
//! A packet that needs the overlay's word is *parked*: the datapath keeps the bytes (in a bounded
//! room, for at most a second) and the event names them by a [`ParkedId`]. Exactly one of
//! [`ForwardingUpdate::Relay`], [`Deliver`](ForwardingUpdate::Deliver) and
//! [`Refuse`](ForwardingUpdate::Refuse) answers it; a verdict on a packet that is gone is ignored.

use std::net::{IpAddr, SocketAddr};

use crate::{
    flow::FlowRecord,
    group::GroupKey,
    hash::{FlowHash, FlowKey},
    ids::{ParkedId, ProxyId, TargetId},
    placement::Candidate,
};

/// What the overlay tells the datapath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardingUpdate {
    /// A live proxy, or its new addresses. Tunnel packets of others are dropped.
    Peer {
        /// Which proxy.
        id: ProxyId,
        /// Its tunnel endpoint: the address that it sends from and is sent to.
        tunnel: IpAddr,
    },
    /// A proxy died or left: its tunnel packets are dropped. With an heir, flows pinned to it are
    /// pinned to the heir, and in ingress entries the heir takes the place of the candidate (drawn
    /// by the dead one's id, so that the same flows go there). Without, the candidate is skipped and
    /// its flows are placed anew. An heir that dies hands on what it inherited.
    PeerGone {
        /// Which proxy.
        id: ProxyId,
        /// Which mate stands in for it; this proxy itself, maybe.
        heir: Option<ProxyId>,
    },
    /// Where packets of a group go that enter here.
    Ingress {
        /// Which group.
        group: GroupKey,
        /// Where to.
        entry: IngressEntry,
    },
    /// Forget the ingress entry: the next packet of the group is a [`ForwardingEvent::Missed`].
    IngressForget(GroupKey),
    /// A target of this proxy, or its new state.
    Target(Target),
    /// The target is gone: its TCP flows are answered with a reset on their next segment, its UDP
    /// flows are placed anew.
    TargetGone(TargetId),
    /// Send the parked packet to another proxy, in the tunnel.
    Relay {
        /// Which packet.
        parked: ParkedId,
        /// To which proxy.
        to: ProxyId,
        /// What the option says; `None` for a packet that goes without one.
        how: RelayHow,
    },
    /// Deliver the parked packet to a target here, as a JAP; the ingress hears of it by a pin
    /// notice if it is another proxy.
    Deliver {
        /// Which packet.
        parked: ParkedId,
    },
    /// Nobody can take the parked packet: answer with a TCP reset or an ICMP port-unreachable.
    Refuse {
        /// Which packet.
        parked: ParkedId,
    },
    /// Whether flows are told to a mate: all that are established and older than a second, at once
    /// and when they change ([`ForwardingEvent::Flows`]). Said again, all are told again.
    Replicate {
        /// Whether there is a mate to tell.
        wanted: bool,
        /// Whether flows younger than a second are told, too: this proxy drains, and their next
        /// packets may enter at the mate.
        young: bool,
    },
    /// NAT addresses of mates that may come to this proxy, and whose they are: it goes on with the
    /// flows of those that are gone, and passes packets on to those that live. Replaces those said
    /// before.
    StandbyNat(Vec<(ProxyId, IpAddr)>),
    /// Flows of a mate, to be gone on with when it is gone.
    Standby {
        /// Which mate.
        of: ProxyId,
        /// Its flows.
        records: Vec<FlowRecord>,
    },
    /// Flows of a mate that ended.
    StandbyEnded {
        /// Which mate.
        of: ProxyId,
        /// Its flows.
        flows: Vec<FlowKey>,
    },
    /// Flows that are this proxy's own from now on: from a former life of it, or from the process
    /// before it. Those with a NAT address of another proxy are left out.
    Adopt(Vec<FlowRecord>),
    /// Tell all flows with these NAT addresses, whose proxy is back
    /// ([`ForwardingEvent::HandedBack`]). They go on here until that proxy tells of them itself.
    HandBack {
        /// To whom.
        to: ProxyId,
        /// Its NAT addresses.
        nat: Vec<IpAddr>,
    },
    /// Find out whether a target's service answers: a SYN (TCP) or an empty datagram (UDP) from
    /// the NAT address, answered by [`ForwardingEvent::ProbeDone`].
    Probe {
        /// Which target.
        target: TargetId,
    },
}

/// Why a parked packet travels on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayHow {
    /// To a RAP, which shall resolve the group.
    Resolve {
        /// The JAP that could not take it, when the packet gets a second chance.
        tried: Option<ProxyId>,
    },
    /// From a RAP to a JAP, on behalf of the ingress.
    Join,
}

/// Where packets of a group go that enter at this proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IngressEntry {
    /// To one of these, chosen by [`placement::choose`](crate::placement::choose). This proxy may
    /// be among them.
    Candidates(Vec<Candidate>),
    /// The list is on its way; until then to this RAP, with the wish to resolve. If the RAP is
    /// this proxy, packets are parked and reported as [`ForwardingEvent::Missed`].
    Rendezvous(ProxyId),
    /// Nobody serves the group: refuse.
    Refuse,
}

/// What a JAP may do with a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetState {
    /// Gets new flows.
    Up,
    /// Gets no new flows; keeps those it has.
    Draining,
    /// Gets nothing: TCP flows are reset on their next segment, UDP flows are placed anew.
    Down,
}

/// A target that registered with this proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its membership.
    pub id: TargetId,
    /// The group it serves.
    pub group: GroupKey,
    /// Where it is reached; of the same family as the group.
    pub address: SocketAddr,
    /// Its share of new flows relative to others, 0 to [`crate::limits::MAX_WEIGHT`].
    pub weight: u32,
    /// What it may get.
    pub state: TargetState,
}

/// What the datapath tells the overlay. All are rate limited per subject by the datapath, and a
/// full queue drops them (counted): nothing may depend on a single one arriving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardingEvent {
    /// A client's packet for a group without an ingress entry.
    Missed {
        /// Which group.
        group: GroupKey,
        /// Its flow.
        flow: FlowHash,
        /// The packet.
        parked: ParkedId,
    },
    /// Another ingress asks this proxy, as a RAP, to resolve.
    Resolve {
        /// Which group.
        group: GroupKey,
        /// The flow of the packet.
        flow: FlowHash,
        /// The proxy that the client's packet entered at.
        ingress: ProxyId,
        /// The JAP that could not take the packet.
        tried: Option<ProxyId>,
        /// Whether the packet may open a flow (a SYN, or any datagram).
        opens: bool,
        /// How many proxies the packet has visited.
        hops: u8,
        /// The packet.
        parked: ParkedId,
    },
    /// This proxy, as a JAP, cannot take a packet.
    SecondChance {
        /// Which group.
        group: GroupKey,
        /// The flow of the packet.
        flow: FlowHash,
        /// The proxy that the client's packet entered at; this one, maybe.
        ingress: ProxyId,
        /// Whether the packet may open a flow.
        opens: bool,
        /// How many proxies the packet has visited.
        hops: u8,
        /// What was wrong.
        cause: SecondChanceCause,
        /// The packet.
        parked: ParkedId,
    },
    /// Packets used an ingress entry since it was installed or last reported (at most once a
    /// second per group).
    IngressUsed(GroupKey),
    /// A target answers for the first time since a report of the two below.
    TargetAnswers(TargetId),
    /// A target refused a flow: an ICMP unreachable, or a reset to a SYN.
    TargetRefuses(TargetId),
    /// New flows to a target stay unanswered.
    TargetSilent {
        /// Which target.
        target: TargetId,
        /// How many flows in a row.
        unanswered: u32,
    },
    /// New flows were placed on a target (at most five times a second per target).
    TargetUsed(TargetId),
    /// What a probe found.
    ProbeDone {
        /// Which target.
        target: TargetId,
        /// What came back.
        outcome: ProbeOutcome,
    },
    /// Flows that are new or changed, or told again, and flows that ended.
    Flows {
        /// At most [`MAX_FLOWS_PER_MESSAGE`](crate::limits::MAX_FLOWS_PER_MESSAGE).
        records: Vec<FlowRecord>,
        /// At most [`MAX_GONE_PER_MESSAGE`](crate::limits::MAX_GONE_PER_MESSAGE).
        ended: Vec<FlowKey>,
    },
    /// Flows of a proxy that is back, asked for by [`ForwardingUpdate::HandBack`].
    HandedBack {
        /// Whose they are.
        to: ProxyId,
        /// At most [`MAX_FLOWS_PER_MESSAGE`](crate::limits::MAX_FLOWS_PER_MESSAGE).
        records: Vec<FlowRecord>,
        /// Whether there are no more.
        last: bool,
    },
    /// An ICMP error says that an agent's port is closed (a hint: anyone can send one).
    AgentUnreachable(SocketAddr),
}

/// Why a JAP could not take a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondChanceCause {
    /// It has no target of the group that may take new flows.
    NoTarget,
    /// Its only targets are the sender itself.
    OnlySender,
    /// A TCP segment that opens nothing, of a flow it does not know.
    UnknownFlow,
}

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// A SYN-ACK, or any datagram.
    Answered,
    /// A reset, or an ICMP unreachable.
    Refused,
    /// Nothing within a second. For UDP that says little: services ignore empty datagrams.
    Silent,
}
