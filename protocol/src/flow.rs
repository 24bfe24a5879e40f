//! A translated flow, as one proxy tells another of it.
//!
//! ```text
//! forward   client → group         becomes   nat → target
//! reverse   target → nat           becomes   group → client
//! ```

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{group::Protocol, hash::FlowKey, ids::ProxyId};

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlowPhase {
    /// UDP, and the target has not answered.
    Asked,
    /// UDP, and the target has answered.
    Answered,
    /// TCP, not established.
    Opening,
    /// TCP, established.
    Open,
    /// TCP, closed by both sides, or reset.
    Closing,
}

impl FlowPhase {
    /// Whose phase it is.
    #[must_use]
    pub const fn protocol(self) -> Protocol {
        match self {
            Self::Asked | Self::Answered => Protocol::Udp,
            Self::Opening | Self::Open | Self::Closing => Protocol::Tcp,
        }
    }
}

/// All that a proxy must know to go on with a flow that another proxy translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// The client's side.
    pub key: FlowKey,
    /// Where the target is; of the group's family.
    pub target: SocketAddr,
    /// What the target sees as the source; of the group's family. Its address tells whose flow it
    /// is.
    pub nat: SocketAddr,
    /// The proxy that it enters at, where that is another than the one that translates it.
    pub ingress: Option<ProxyId>,
    /// How far it has come; of the group's protocol.
    pub phase: FlowPhase,
    /// Whether the client has said that it will send no more (TCP's FIN).
    pub client_finished: bool,
    /// Whether the target has.
    pub target_finished: bool,
}

impl FlowRecord {
    /// What of it contradicts itself.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let group = self.key.group.socket();
        let sides = [self.key.client, self.target, self.nat];
        if sides.iter().any(|side| side.is_ipv4() != group.is_ipv4()) {
            return Err("family");
        }
        if group.port() == 0 || sides.iter().any(|side| side.port() == 0) {
            return Err("port 0");
        }
        if self.phase.protocol() == self.key.group.protocol { Ok(()) } else { Err("phase") }
    }
}
