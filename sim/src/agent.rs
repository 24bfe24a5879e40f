//! Scripted agents and the services beside them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use pias_overlay::AgentId;
use pias_protocol::{
    agent::JapMessage,
    agent::{AgentMessage, Join, KeepAlive, Pong},
    group::GroupKey,
    ids::TargetId,
    overlay::AgentLink,
    time::Time,
};

/// Within what time after a reset an agent joins anew, so that thousands do not come at once.
pub(crate) const RESET_SPREAD: Duration = Duration::from_millis(500);

/// How soon a new connection is kept alive, unless its proxy asks otherwise.
pub(crate) const FIRST_KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Keep-alives in a row that may stay unanswered before an agent connects anew.
pub(crate) const UNANSWERED: u32 = 3;

/// The simulator's number for an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgentNo(pub usize);

/// What a target's service does with a packet or a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Answers.
    Serves,
    /// Its machine says that nobody is there.
    Refuses,
    /// Nothing comes back.
    Silent,
}

/// An agent with one target.
#[derive(Debug)]
pub(crate) struct Agent {
    /// The cluster that it is near.
    pub(crate) cluster: usize,
    pub(crate) group: GroupKey,
    pub(crate) target: SocketAddr,
    pub(crate) service: Service,
    /// Whether the process runs.
    pub(crate) runs: bool,
    /// The host it is connected to, and the connection's number there.
    pub(crate) connection: Option<(usize, AgentId)>,
    pub(crate) lease: Option<TargetId>,
    pub(crate) keep_alive: Duration,
    /// Ticks of former connections are void.
    pub(crate) generation: u32,
    /// When its JAP was heard last, or the connection began.
    pub(crate) heard: Time,
    sequence: u64,
}

impl Agent {
    pub(crate) fn new(no: usize, cluster: usize, group: GroupKey) -> Self {
        let address = Ipv4Addr::from(0x0A00_0001 + no as u32);
        Self {
            cluster,
            group,
            target: SocketAddr::from((address, group.port)),
            service: Service::Serves,
            runs: true,
            connection: None,
            lease: None,
            keep_alive: FIRST_KEEP_ALIVE,
            generation: 0,
            heard: Time::ZERO,
            sequence: 0,
        }
    }

    /// The agent whose target is at an address.
    pub(crate) fn at(target: SocketAddr) -> Option<usize> {
        match target.ip() {
            std::net::IpAddr::V4(ip) => Some(u32::from(ip).checked_sub(0x0A00_0001)? as usize),
            std::net::IpAddr::V6(_) => None,
        }
    }

    /// Its connection of this number.
    pub(crate) fn link(&self, connection: AgentId) -> AgentLink {
        AgentLink {
            remote: SocketAddr::new(self.target.ip(), 50_000),
            anycast: self.group.address,
            connection: connection.0.to_be_bytes(),
        }
    }

    pub(crate) fn join(&self) -> AgentMessage {
        Join { request: 1, group: self.group, target: self.target, weight: 1, healthy: true }.into()
    }

    pub(crate) fn keep_alive(&mut self) -> AgentMessage {
        self.sequence += 1;
        KeepAlive { sequence: self.sequence }.into()
    }

    /// Hears its JAP; what it answers.
    pub(crate) fn hear(&mut self, message: &JapMessage) -> Option<AgentMessage> {
        match message {
            JapMessage::Joined(joined) => {
                self.lease = Some(joined.lease);
                self.keep_alive = Duration::from_millis(joined.keep_alive_ms.into());
                None
            }
            JapMessage::KeepAliveAck(ack) => {
                self.keep_alive = Duration::from_millis(ack.keep_alive_ms.into());
                None
            }
            JapMessage::Ping(ping) => Some(Pong { sequence: ping.sequence }.into()),
            JapMessage::Welcome(_)
            | JapMessage::Refused(_)
            | JapMessage::TargetChange(_)
            | JapMessage::Draining(_) => None,
        }
    }
}
