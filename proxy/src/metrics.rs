//! What the daemon itself counts. The datapath's and the overlay's counters are theirs, and join
//! these when they are asked for.

use pias_protocol::overlay::OverlayMessage;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Which way a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To a peer.
    Sent,
    /// From one.
    Received,
}

impl Direction {
    const fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

/// A bounded queue that can be full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Inputs of the overlay.
    Brain,
    /// Messages to one peer.
    Peer,
    /// The table of peers.
    Peers,
    /// Messages to a peer that cannot be reached.
    Unreachable,
}

impl Queue {
    const ALL: [Self; 4] = [Self::Brain, Self::Peer, Self::Peers, Self::Unreachable];

    const fn name(self) -> &'static str {
        match self {
            Self::Brain => "brain",
            Self::Peer => "peer",
            Self::Peers => "peers",
            Self::Unreachable => "unreachable",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MessageLabels {
    direction: &'static str,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    queue: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// Counters of the connections between proxies. Clones count together.
#[derive(Clone, Default)]
pub struct OverlayCounters {
    messages: Family<MessageLabels, Counter>,
    queue_drops: Family<QueueLabels, Counter>,
    malformed: Counter,
    unknown: Counter,
    refused: Counter,
    dial_failures: Counter,
}

impl OverlayCounters {
    /// A message went out or came in.
    pub fn message(&self, direction: Direction, message: &OverlayMessage) {
        self.messages
            .get_or_create(&MessageLabels { direction: direction.name(), kind: kind(message) })
            .inc();
    }

    /// Something found a queue full.
    pub fn dropped(&self, queue: Queue) {
        self.queue_drops.get_or_create(&QueueLabels { queue: queue.name() }).inc();
    }

    /// A peer sent what cannot be read.
    pub fn malformed(&self) {
        self.malformed.inc();
    }

    /// A peer sent a message of an unknown kind.
    pub fn unknown(&self) {
        self.unknown.inc();
    }

    /// A peer's connection was not taken.
    pub fn refused(&self) {
        self.refused.inc();
    }

    /// A peer could not be reached.
    pub fn dial_failed(&self) {
        self.dial_failures.inc();
    }

    /// How often a queue was full so far.
    #[must_use]
    pub fn drops(&self, queue: Queue) -> u64 {
        self.queue_drops.get_or_create(&QueueLabels { queue: queue.name() }).get()
    }

    /// Connections of peers that were not taken so far.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refused.get()
    }

    fn register(&self, registry: &mut Registry) {
        // Every queue appears from the start, so that a first drop shows as an increase.
        for queue in Queue::ALL {
            let _ = self.queue_drops.get_or_create(&QueueLabels { queue: queue.name() });
        }
        registry.register(
            "overlay_messages",
            "Messages between proxies, by direction and kind",
            self.messages.clone(),
        );
        registry.register(
            "queue_drops",
            "What was dropped because a bounded queue of the daemon was full, by queue",
            self.queue_drops.clone(),
        );
        registry.register(
            "overlay_malformed",
            "Messages of proxies that could not be read; each ends its connection",
            self.malformed.clone(),
        );
        registry.register(
            "overlay_unknown",
            "Messages of proxies of a kind that this version does not know, skipped",
            self.unknown.clone(),
        );
        registry.register(
            "overlay_connections_refused",
            "Connections of proxies that were not taken: a wrong certificate, or too many",
            self.refused.clone(),
        );
        registry.register(
            "overlay_dial_failures",
            "Attempts to reach a proxy that failed",
            self.dial_failures.clone(),
        );
    }
}

/// Why an agent was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentRefusal {
    /// As many agents as there may be.
    Total,
    /// As many of one address as there may be.
    Source,
    /// As many handshakes at once as there may be.
    Handshakes,
    /// The handshake failed, or took too long.
    Handshake,
}

impl AgentRefusal {
    const ALL: [Self; 4] = [Self::Total, Self::Source, Self::Handshakes, Self::Handshake];

    const fn name(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Source => "source",
            Self::Handshakes => "handshakes",
            Self::Handshake => "handshake",
        }
    }
}

/// Why an agent's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentEnd {
    /// The agent closed it, or it was lost.
    Agent,
    /// The overlay wished so.
    Overlay,
    /// The agent sent what cannot be read.
    Malformed,
    /// The agent did not read what it was sent.
    Slow,
}

impl AgentEnd {
    const ALL: [Self; 4] = [Self::Agent, Self::Overlay, Self::Malformed, Self::Slow];

    const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Overlay => "overlay",
            Self::Malformed => "malformed",
            Self::Slow => "slow",
        }
    }
}

/// Counters of the registration port. Clones count together.
#[derive(Clone, Default)]
pub struct JoinCounters {
    refused: Family<ReasonLabels, Counter>,
    closed: Family<ReasonLabels, Counter>,
    retries: Counter,
    unknown: Counter,
    connected: Gauge,
    send_drops: Counter,
}

impl JoinCounters {
    /// An agent was not let in.
    pub fn refused(&self, why: AgentRefusal) {
        self.refused.get_or_create(&ReasonLabels { reason: why.name() }).inc();
    }

    /// An agent was let in.
    pub fn connected(&self) {
        self.connected.inc();
    }

    /// An agent that was let in is gone.
    pub fn closed(&self, why: AgentEnd) {
        self.connected.dec();
        self.closed.get_or_create(&ReasonLabels { reason: why.name() }).inc();
    }

    /// An agent had to prove its address.
    pub fn retried(&self) {
        self.retries.inc();
    }

    /// An agent sent a message of an unknown kind.
    pub fn unknown(&self) {
        self.unknown.inc();
    }

    /// The datapath did not take a datagram.
    pub fn send_dropped(&self) {
        self.send_drops.inc();
    }

    /// Agents connected now.
    #[must_use]
    pub fn agents(&self) -> i64 {
        self.connected.get()
    }

    /// Agents' connections that ended for this reason so far.
    #[must_use]
    pub fn ended(&self, why: AgentEnd) -> u64 {
        self.closed.get_or_create(&ReasonLabels { reason: why.name() }).get()
    }

    fn register(&self, registry: &mut Registry) {
        for why in AgentRefusal::ALL {
            let _ = self.refused.get_or_create(&ReasonLabels { reason: why.name() });
        }
        for why in AgentEnd::ALL {
            let _ = self.closed.get_or_create(&ReasonLabels { reason: why.name() });
        }
        registry.register(
            "agents_refused",
            "Agents' connections that were not taken, by reason",
            self.refused.clone(),
        );
        registry.register(
            "agents_closed",
            "Agents' connections that ended, by who or what ended them",
            self.closed.clone(),
        );
        registry.register(
            "agents_retries",
            "Agents that had to prove their address first, because many came at once",
            self.retries.clone(),
        );
        registry.register(
            "agents_unknown_messages",
            "Messages of agents of a kind that this version does not know, skipped",
            self.unknown.clone(),
        );
        registry.register("agents_connected", "Agents connected now", self.connected.clone());
        registry.register(
            "registration_send_drops",
            "Datagrams to agents that the datapath's full queue did not take",
            self.send_drops.clone(),
        );
    }
}

/// All that the daemon counts.
#[derive(Clone, Default)]
pub struct DaemonCounters {
    /// Connections between proxies.
    pub overlay: OverlayCounters,
    /// The registration port.
    pub join: JoinCounters,
}

impl DaemonCounters {
    /// Enters all counters.
    pub fn register(&self, registry: &mut Registry) {
        self.overlay.register(registry);
        self.join.register(registry);
    }
}

/// The name of a message's kind.
const fn kind(message: &OverlayMessage) -> &'static str {
    match message {
        OverlayMessage::Heartbeat(_) => "heartbeat",
        OverlayMessage::HeartbeatAck(_) => "heartbeat_ack",
        OverlayMessage::MemberUpdate(_) => "member_update",
        OverlayMessage::CountReport(_) => "count_report",
        OverlayMessage::CountAck(_) => "count_ack",
        OverlayMessage::Resolve(_) => "resolve",
        OverlayMessage::CandidateList(_) => "candidate_list",
        OverlayMessage::NoTarget(_) => "no_target",
        OverlayMessage::Word(_) => "word",
        OverlayMessage::ClusterWord(_) => "cluster_word",
        OverlayMessage::Have(_) => "have",
        OverlayMessage::Want(_) => "want",
        OverlayMessage::Prune(_) => "prune",
        OverlayMessage::Compare(_) => "compare",
        OverlayMessage::Buckets(_) => "buckets",
        OverlayMessage::Differ(_) => "differ",
        OverlayMessage::Keys(_) => "keys",
        OverlayMessage::LeaseReplica(_) => "lease_replica",
        OverlayMessage::LeaseAck(_) => "lease_ack",
        OverlayMessage::LeaseTaken(_) => "lease_taken",
        OverlayMessage::FlowRecords(_) => "flow_records",
        OverlayMessage::FlowsGone(_) => "flows_gone",
        OverlayMessage::FlowsWanted(_) => "flows_wanted",
        OverlayMessage::FlowsHanded(_) => "flows_handed",
        OverlayMessage::CountsWanted(_) => "counts_wanted",
    }
}
