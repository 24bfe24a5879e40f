//! Who serves which group: JAPs, RAPs and ingresses.

use serde::{Deserialize, Serialize};

use crate::{group::GroupKey, limits::MAX_CANDIDATES, placement::Candidate};

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
    /// The count that was reported: of two reports under way each has its own answer.
    pub count: u32,
    /// How far the count may move before it is reported again, in percent: 25, 50 or 100
    /// by the RAP's load, or what its operator fixed, from 0 (every change) to 100.
    pub band_percent: u8,
}

/// The sender, a RAP, took the receiver for gone, and forgot what it had reported: it is to report
/// all of that again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountsWanted {}

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
    pub(super) fn check(&self) -> Result<(), &'static str> {
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

unbounded!(CountReport, CountAck, CountsWanted, Resolve, NoTarget);
