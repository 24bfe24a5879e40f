//! What proxies say to each other.
//!
//! Heartbeats and their answers travel in QUIC datagrams, all else on streams.
//!
//! ```text
//!  every proxy      Heartbeat ⇄ HeartbeatAck, MemberUpdate (flooded), Proximity
//!  JAP  → RAP       CountReport,  answered by CountAck
//!  IAP  → RAP       Resolve (or in-band, by a tunnel packet), answered by CandidateList
//!  JAP  → IAP       NoTarget
//! ```

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    envelope::messages,
    group::GroupKey,
    ids::ClusterId,
    limits::{MAX_CANDIDATES, MAX_CLUSTERS, MAX_MEMBERS_PER_MESSAGE, MAX_NAME},
    placement::Candidate,
};

messages! {
    /// What a proxy says to another.
    OverlayMessage {
        /// Are you there?
        1 => Heartbeat,
        /// Answers [`Heartbeat`].
        2 => HeartbeatAck,
        /// News of members.
        3 => MemberUpdate,
        /// How far clusters are from the sender.
        4 => Proximity,
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
    }
}

/// Are you there?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Repeated in the answer.
    pub sequence: u64,
}

/// Answers [`Heartbeat`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAck {
    /// That of the heartbeat.
    pub sequence: u64,
}

/// News of members, flooded: a proxy passes on what was news to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberUpdate {
    /// At most [`MAX_MEMBERS_PER_MESSAGE`].
    pub members: Vec<MemberRecord>,
}

impl MemberUpdate {
    fn check(&self) -> Result<(), &'static str> {
        if self.members.len() > MAX_MEMBERS_PER_MESSAGE {
            return Err("members");
        }
        self.members.iter().try_for_each(MemberRecord::check)
    }
}

/// What is known of one proxy. Of two records the one with the higher incarnation counts; at the
/// same incarnation the graver state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Its name; its id follows from it.
    pub name: String,
    /// The name of its cluster.
    pub cluster: String,
    /// Its unicast addresses, at most one a family.
    pub unicast: Vec<IpAddr>,
    /// Raised by the proxy itself at each start, and to refute a rumour of its death.
    pub incarnation: u64,
    /// What it is said to be.
    pub state: MemberState,
}

impl MemberRecord {
    fn check(&self) -> Result<(), &'static str> {
        let named = |name: &str| !name.is_empty() && name.len() <= MAX_NAME;
        if !named(&self.name) || !named(&self.cluster) {
            return Err("name");
        }
        if self.unicast.is_empty() || self.unicast.len() > 2 {
            return Err("addresses");
        }
        Ok(())
    }
}

/// What a proxy is, in rising gravity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MemberState {
    /// Takes part in everything.
    Up,
    /// Serves what it has; takes no new targets or groups.
    Draining,
    /// Did not answer.
    Down,
    /// Said goodbye.
    Left,
}

/// How far clusters are from the sender's: the least round-trip time to a proxy of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proximity {
    /// Cluster and round-trip time in units of 0.1 ms; at most [`MAX_CLUSTERS`].
    pub round_trips: Vec<(ClusterId, u16)>,
}

impl Proximity {
    fn check(&self) -> Result<(), &'static str> {
        if self.round_trips.len() > MAX_CLUSTERS { Err("clusters") } else { Ok(()) }
    }
}

/// How many targets the sender holds for a group, as a JAP. 0 withdraws it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountReport {
    /// Which group.
    pub group: GroupKey,
    /// The weight of its targets, summed; the number of targets where all have the weight 1.
    pub count: u32,
}

/// Answers [`CountReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountAck {
    /// Which group.
    pub group: GroupKey,
    /// How far the count may move before it is reported again, in percent (25, 50 or 100).
    pub band_percent: u8,
}

/// The sender wishes the list of a group, as an ingress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolve {
    /// Which group.
    pub group: GroupKey,
}

/// The list of a group, in the order that fits the receiver's cluster. Empty: nobody serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateList {
    /// Which group.
    pub group: GroupKey,
    /// At most [`MAX_CANDIDATES`].
    pub candidates: Vec<Candidate>,
    /// After how many milliseconds of use to ask again.
    pub fresh_ms: u32,
}

impl CandidateList {
    fn check(&self) -> Result<(), &'static str> {
        if self.candidates.len() > MAX_CANDIDATES {
            return Err("candidates");
        }
        if self.candidates.iter().any(|candidate| candidate.weight == 0) {
            return Err("weight");
        }
        Ok(())
    }
}

/// The sender has no target of a group, though a packet came for one: leave it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoTarget {
    /// Which group.
    pub group: GroupKey,
}

macro_rules! unbounded {
    ($($message:ident),+) => {
        $(impl $message {
            #[allow(clippy::unused_self, reason = "the same shape as the bounded messages")]
            fn check(&self) -> Result<(), &'static str> {
                Ok(())
            }
        })+
    };
}
unbounded!(Heartbeat, HeartbeatAck, CountReport, CountAck, Resolve, NoTarget);
