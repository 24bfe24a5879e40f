//! One translated flow as it was when it was looked at.

use std::net::SocketAddr;

use pias_protocol::{
    flow::{FlowPhase, FlowRecord},
    hash::{FlowHash, FlowKey},
    ids::{ProxyId, TargetId},
    time::Time,
};

use super::entry::Ends;
use crate::{
    flow::{Phase, pins::Coarse, replica::Told},
    limits::REPLICATED_AFTER,
    slots::Handle,
};

/// A translated flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatFlow {
    /// The client's side.
    pub key: FlowKey,
    /// The hash of that.
    pub hash: FlowHash,
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
    /// Whether both sides have shown once that they mean it: a UDP flow was answered, a TCP flow open.
    /// Until then it is embryonic.
    pub settled: bool,
    /// Whether its silence has been held against the target.
    pub judged: bool,
    /// When it began.
    pub created: Coarse,
    /// When its last packet came, of either side.
    pub last: Coarse,
    /// Whether another proxy, or a former life of this one, began it. Its target need not be
    /// registered here.
    pub adopted: bool,
    /// Whether it was taken over, and neither side has said anything since.
    pub(super) untouched: bool,
    /// What the mate that would go on with it has heard of it.
    pub(in crate::flow) told: Told,
    pub(super) client_finished: bool,
    pub(super) target_finished: bool,
}

impl NatFlow {
    pub(super) const fn ends(&self) -> Ends {
        Ends { key: self.key, hash: self.hash, target: self.address, nat: self.nat }
    }

    /// Whether both sides have shown that they mean it, and none that it has enough.
    pub(in crate::flow) const fn is_established(&self) -> bool {
        match self.phase {
            Phase::Open => true,
            Phase::Datagrams => self.answered,
            Phase::Opening | Phase::Closing => false,
        }
    }

    /// Whether it began longer ago than most flows last.
    pub(in crate::flow) fn is_old(&self, now: Time) -> bool {
        self.is_old_at(now.into())
    }

    fn is_old_at(&self, then: Coarse) -> bool {
        self.adopted || self.created.lies_before(then, REPLICATED_AFTER)
    }

    /// Whether it is worth telling a mate of: established, and longer than a question and its
    /// answer.
    pub(in crate::flow) fn outlasts(&self, now: Time) -> bool {
        // A UDP flow does not say that it is over.
        let until = if self.phase == Phase::Datagrams { self.last } else { now.into() };
        self.is_established() && self.is_old_at(until)
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
            client_finished: self.client_finished,
            target_finished: self.target_finished,
        }
    }

    /// How little it would be missed: the kind first, then for how many ticks it has been idle. `None`
    /// for an established TCP flow, which is never given up for another.
    pub(super) fn expendable(&self, now: Coarse) -> Option<(u8, u32)> {
        let rank = match self.phase {
            Phase::Open => return None,
            Phase::Closing => 2,
            _ if !self.settled => 1,
            _ => 0,
        };
        Some((rank, self.last.ticks_until(now)))
    }
}
