//! Where the parts of a node put what is to be done.

use std::collections::VecDeque;

use pias_protocol::{
    agent::JapMessage,
    forwarding::ForwardingUpdate,
    ids::ProxyId,
    overlay::{AgentLink, OverlayMessage},
};

use crate::{
    counters::Counters,
    effect::{AgentId, CloseReason, Delivery, Effect},
    limits::MAX_LOOPBACK,
    notice::Notice,
};

/// Something to do; a message still lacks its recipient's name and address.
#[derive(Debug)]
pub(crate) enum Queued {
    Message { to: ProxyId, delivery: Delivery, message: OverlayMessage },
    Effect(Effect),
}

/// Effects in order. What a node says to itself is kept apart and never leaves it, so that a proxy
/// that is its own RAP runs the same code as any other.
#[derive(Debug)]
pub(crate) struct Outbox {
    own: ProxyId,
    effects: VecDeque<Queued>,
    loopback: VecDeque<OverlayMessage>,
    pub(crate) counters: Counters,
}

impl Outbox {
    pub(crate) fn new(own: ProxyId) -> Self {
        Self {
            own,
            effects: VecDeque::new(),
            loopback: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Sends on a stream, or to this node itself.
    pub(crate) fn send(&mut self, to: ProxyId, message: impl Into<OverlayMessage>) {
        let message = message.into();
        if to != self.own {
            let delivery = Delivery::Stream;
            self.effects.push_back(Queued::Message { to, delivery, message });
        } else if self.loopback.len() < MAX_LOOPBACK {
            self.loopback.push_back(message);
        } else {
            self.counters.table_full += 1;
        }
    }

    /// Sends in a datagram.
    pub(crate) fn send_datagram(&mut self, to: ProxyId, message: impl Into<OverlayMessage>) {
        let (delivery, message) = (Delivery::Datagram, message.into());
        self.effects.push_back(Queued::Message { to, delivery, message });
    }

    pub(crate) fn forward(&mut self, update: ForwardingUpdate) {
        self.push(Effect::Forward(update));
    }

    pub(crate) fn agent(&mut self, agent: AgentId, message: impl Into<JapMessage>) {
        self.push(Effect::Agent { agent, message: message.into() });
    }

    pub(crate) fn close(&mut self, agent: AgentId, reason: CloseReason) {
        self.push(Effect::CloseAgent { agent, reason });
    }

    pub(crate) fn reset(&mut self, link: AgentLink) {
        self.push(Effect::ResetAgent(link));
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.push(Effect::Notice(notice));
    }

    pub(crate) fn announce(&mut self, ready: bool) {
        self.push(Effect::Announce(ready));
    }

    pub(crate) fn pop(&mut self) -> Option<Queued> {
        self.effects.pop_front()
    }

    pub(crate) fn pop_loopback(&mut self) -> Option<OverlayMessage> {
        self.loopback.pop_front()
    }

    pub(crate) fn push(&mut self, effect: Effect) {
        self.effects.push_back(Queued::Effect(effect));
    }
}
