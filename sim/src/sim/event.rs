//! What may happen. Events are small, so that the queue moves little: what is large is boxed, what
//! is frequent is not.

use pias_overlay::AgentId;
use pias_protocol::{
    agent::{AgentMessage, JapMessage},
    forwarding::ForwardingEvent,
    overlay::{Heartbeat, HeartbeatAck, OverlayMessage},
};

use crate::{
    agent::AgentNo,
    datapath::{Arrival, Packet},
};

/// A message on its way: heartbeats, nearly all there are, without an allocation.
#[derive(Clone, Debug)]
pub(crate) enum Carried {
    Heartbeat(Heartbeat),
    HeartbeatAck(HeartbeatAck),
    Datagram(Box<OverlayMessage>),
    Stream(Box<OverlayMessage>),
}

impl Carried {
    pub(crate) fn datagram(message: OverlayMessage) -> Self {
        match message {
            OverlayMessage::Heartbeat(beat) => Self::Heartbeat(beat),
            OverlayMessage::HeartbeatAck(ack) => Self::HeartbeatAck(ack),
            other => Self::Datagram(Box::new(other)),
        }
    }

    pub(crate) fn message(self) -> OverlayMessage {
        match self {
            Self::Heartbeat(beat) => OverlayMessage::Heartbeat(beat),
            Self::HeartbeatAck(ack) => OverlayMessage::HeartbeatAck(ack),
            Self::Datagram(message) | Self::Stream(message) => *message,
        }
    }
}

/// What is to happen. `life` and `generation` make void what was meant for a former life of a
/// proxy, or a former connection of an agent.
#[derive(Debug)]
pub(crate) enum Event {
    Timeout {
        host: u32,
    },
    Message {
        host: u32,
        from: u32,
        life: u32,
        message: Carried,
    },
    Packet {
        host: u32,
        packet: Box<Packet>,
        arrival: Arrival,
    },
    Forwarding {
        host: u32,
        life: u32,
        event: Box<ForwardingEvent>,
    },
    Unpark {
        host: u32,
        life: u32,
    },
    Opened {
        agent: AgentNo,
        generation: u32,
    },
    FromAgent {
        agent: AgentNo,
        generation: u32,
        message: Option<Box<AgentMessage>>,
    },
    ToAgent {
        agent: AgentNo,
        generation: u32,
        message: Box<JapMessage>,
    },
    AgentTick {
        agent: AgentNo,
        generation: u32,
    },
    Reconnect {
        agent: AgentNo,
        generation: u32,
    },
    /// A stateless reset for this connection.
    Reset {
        agent: AgentNo,
        connection: AgentId,
    },
    /// A paused or busy process goes on.
    Wake {
        host: u32,
    },
    /// Routing follows what a proxy announces.
    Route {
        host: u32,
    },
}

impl Event {
    /// Whether a full socket buffer drops it.
    pub(crate) const fn may_be_lost(&self) -> bool {
        match self {
            Self::Message { message, .. } => !matches!(message, Carried::Stream(_)),
            Self::Packet { .. } => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_small() {
        assert!(size_of::<Event>() <= 48, "{} octets", size_of::<Event>());
    }
}
