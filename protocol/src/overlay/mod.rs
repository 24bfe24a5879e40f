//! What proxies say to each other.
//!
//! Heartbeats, their answers and words travel in QUIC datagrams, all else on streams.
//!
//! ```text
//!  every proxy      Heartbeat ⇄ HeartbeatAck, Word, ClusterWord          (membership)
//!                   MemberUpdate, Have, Want, Prune                      (gossip)
//!                   Compare, Buckets, Differ, Keys                       (gossip)
//!  JAP  → RAP       CountReport,  answered by CountAck;  CountsWanted, answered by CountReport
//!  IAP  → RAP       Resolve (or in-band, by a tunnel packet), answered by CandidateList
//!  JAP  → IAP       NoTarget
//!  JAP  → its heir  LeaseReplica, answered by LeaseAck
//!  JAP  → mates     LeaseTaken
//!  JAP  → mate      FlowRecords, FlowsGone;  FlowsWanted, answered by FlowRecords and FlowsHanded
//! ```

/// Gives messages without bounds of their own the `check` that [`messages!`] calls.
macro_rules! unbounded {
    ($($message:ident),+) => {
        $(impl $message {
            #[allow(clippy::unused_self, reason = "the same shape as the bounded messages")]
            pub(super) fn check(&self) -> Result<(), &'static str> {
                Ok(())
            }
        })+
    };
}

mod flows;
mod gossip;
mod leases;
mod membership;
mod proximity;
mod rendezvous;

use crate::envelope::messages;

pub use flows::{FlowRecords, FlowsGone, FlowsHanded, FlowsWanted};
pub use gossip::{Buckets, ClusterKey, Compare, Differ, Have, Keys, MemberKey, Prune, Want};
pub use leases::{AgentLink, Lease, LeaseAck, LeaseReplica, LeaseState, LeaseTaken};
pub use membership::{
    ClusterRecord, ClusterWord, Heartbeat, HeartbeatAck, MemberRecord, MemberState, MemberUpdate,
    Word,
};
pub use proximity::Coordinate;
pub use rendezvous::{CandidateList, CountAck, CountReport, CountsWanted, NoTarget, Resolve};

messages! {
    /// What a proxy says to another. Kind 4 is not used any more.
    OverlayMessage {
        /// Are you there?
        1 => Heartbeat,
        /// Answers [`Heartbeat`].
        2 => HeartbeatAck,
        /// News of members.
        3 => MemberUpdate,
        /// How many targets the sender holds for a group.
        5 => CountReport,
        /// Answers [`CountReport`].
        6 => CountAck,
        /// The sender wishes the list of a group.
        7 => Resolve,
        /// The list of a group.
        8 => CandidateList,
        /// The sender has no target of a group, though a packet came for one.
        9 => NoTarget,
        /// Whether the sender hears a mate.
        10 => Word,
        /// Whether the sender hears a cluster.
        11 => ClusterWord,
        /// Records that the sender could push.
        12 => Have,
        /// Records that the sender wishes.
        13 => Want,
        /// What was pushed was known.
        14 => Prune,
        /// Is your table like mine?
        15 => Compare,
        /// Answers [`Compare`].
        16 => Buckets,
        /// Answers [`Buckets`].
        17 => Differ,
        /// Answers [`Differ`].
        18 => Keys,
        /// Leases of the sender, to its heir.
        20 => LeaseReplica,
        /// Answers [`LeaseReplica`].
        21 => LeaseAck,
        /// Targets joined at the sender.
        22 => LeaseTaken,
        /// Flows that the receiver shall go on with when the sender is gone, or take back.
        25 => FlowRecords,
        /// Flows of these that have ended.
        26 => FlowsGone,
        /// The sender has started, and wants its flows back.
        27 => FlowsWanted,
        /// Answers [`FlowsWanted`], after the records.
        28 => FlowsHanded,
        /// The sender forgot what the receiver had reported.
        29 => CountsWanted,
    }
}
