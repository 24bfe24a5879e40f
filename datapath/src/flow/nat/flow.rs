//! One translated flow, and how far it has come.

use std::{net::SocketAddr, time::Duration};

use pias_protocol::{
    flow::{FlowPhase, FlowRecord},
    hash::FlowKey,
    ids::{ProxyId, TargetId},
    time::Time,
};

use crate::{
    flow::{Phase, replica::Told, sides::Ends},
    limits::REPLICATED_AFTER,
    slots::Handle,
    wire::tcp,
};

/// A translated flow.
#[derive(Clone, Copy, Debug)]
pub struct NatFlow {
    /// The client's side.
    pub key: FlowKey,
    /// Its target.
    pub target: Handle,
    /// The target's lease.
    pub lease: TargetId,
    /// Where the target is.
    pub address: SocketAddr,
    /// What the target sees as the source.
    pub nat: SocketAddr,
    /// The ingress, where it is another proxy.
    pub ingress: Option<Handle>,
    /// How far it has come.
    pub phase: Phase,
    /// Whether the target has ever sent anything.
    pub answered: bool,
    /// Whether its silence has been held against the target.
    pub judged: bool,
    /// When it began.
    pub created: Time,
    /// When its last packet came, of either side.
    pub last: Time,
    /// When the ingress was last told to pin it.
    pub pinned: Option<Time>,
    /// Whether another proxy, or a former life of this one, began it. Its target need not be
    /// registered here.
    pub adopted: bool,
    /// Whether it was taken over, and neither side has said anything since.
    pub(super) untouched: bool,
    /// What the mate that would go on with it has heard of it.
    pub(in crate::flow) told: Told,
    pub(super) client: Side,
    pub(super) server: Side,
    /// Its place among the embryonic flows, while it is one.
    pub(super) embryonic: Option<u32>,
}

/// What one side of a TCP flow has said about its end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Side {
    pub(super) fin: bool,
    /// Its last segment was a reset. Anyone can forge one; who goes on sending has sent none.
    pub(super) reset: bool,
}

impl Side {
    const fn hear(&mut self, flags: u8) {
        self.fin |= flags & tcp::FIN != 0;
        self.reset = flags & tcp::RST != 0;
    }
}

/// What of a flow the mate that would go on with it must know when it changes.
pub(super) type Stage = (Phase, bool, bool);

impl NatFlow {
    pub(super) const fn stage(&self) -> Stage {
        (self.phase, self.client.fin, self.server.fin)
    }

    /// Whether both sides have shown that they mean it.
    pub(in crate::flow) const fn is_settled(&self) -> bool {
        match self.phase {
            Phase::Open => true,
            Phase::Datagrams => self.answered,
            Phase::Opening | Phase::Closing => false,
        }
    }

    /// Whether it began longer ago than most flows last.
    pub(in crate::flow) fn is_old(&self, now: Time) -> bool {
        self.adopted || now.since(self.created) >= REPLICATED_AFTER
    }

    /// Whether it is worth telling a mate of: established, and longer than a question and its
    /// answer.
    pub(in crate::flow) fn outlasts(&self, now: Time) -> bool {
        // A UDP flow does not say that it is over.
        let until = if self.phase == Phase::Datagrams { self.last } else { now };
        self.is_settled() && self.is_old(until)
    }

    /// Whether nothing speaks for its being more than a memory: it is closing, or it was taken over
    /// and neither side has said anything since.
    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Closing || self.untouched
    }

    /// As another proxy is told of it.
    #[must_use]
    pub const fn record(&self, ingress: Option<ProxyId>) -> FlowRecord {
        FlowRecord {
            key: self.key,
            target: self.address,
            nat: self.nat,
            ingress,
            phase: match self.phase {
                Phase::Datagrams if self.answered => FlowPhase::Answered,
                Phase::Datagrams => FlowPhase::Asked,
                Phase::Opening => FlowPhase::Opening,
                Phase::Open => FlowPhase::Open,
                Phase::Closing => FlowPhase::Closing,
            },
            client_finished: self.client.fin,
            target_finished: self.server.fin,
        }
    }

    /// A segment of the client with these flags came.
    pub fn client_sent(&mut self, flags: u8, now: Time) {
        self.refresh(flags, now);
        self.client.hear(flags);
        // Only the third segment opens a flow: a forged SYN is answered with a SYN-ACK, too.
        if self.phase == Phase::Opening && self.answered && flags & tcp::SYN == 0 {
            self.phase = Phase::Open;
        }
        self.advance();
    }

    /// A segment of the target with these flags came.
    pub fn target_sent(&mut self, flags: u8, now: Time) {
        self.refresh(flags, now);
        self.server.hear(flags);
        self.advance();
    }

    /// RFC 7857 section 7.1: a reset that only answers the other side keeps nothing alive.
    fn refresh(&mut self, flags: u8, now: Time) {
        self.untouched = false;
        if self.phase != Phase::Closing || flags & tcp::RST == 0 {
            self.last = now;
        }
    }

    /// RFC 7857 section 2: a reset leads to the transitory timer, and a segment behind it, of the
    /// side that seemed to send it, back again.
    fn advance(&mut self) {
        let over = self.client.reset || self.server.reset || (self.client.fin && self.server.fin);
        self.phase = match self.phase {
            Phase::Datagrams => Phase::Datagrams,
            _ if over => Phase::Closing,
            Phase::Closing if self.answered => Phase::Open,
            Phase::Closing => Phase::Opening,
            same => same,
        };
    }

    /// How little it would be missed: the kind first, then how long it has been idle. `None` for
    /// an established TCP flow, which is never given up for another.
    pub(super) fn expendable(&self, now: Time) -> Option<(u8, Duration)> {
        let rank = match self.phase {
            Phase::Open => return None,
            Phase::Closing => 2,
            _ if self.embryonic.is_some() => 1,
            _ => 0,
        };
        Some((rank, now.since(self.last)))
    }
}

impl Ends for NatFlow {
    fn key(&self) -> &FlowKey {
        &self.key
    }

    fn target(&self) -> SocketAddr {
        self.address
    }

    fn nat(&self) -> SocketAddr {
        self.nat
    }
}
