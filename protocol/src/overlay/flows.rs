//! Flows that a mate shall go on with when their proxy dies.

use serde::{Deserialize, Serialize};

use crate::{
    flow::FlowRecord,
    hash::FlowKey,
    limits::{MAX_FLOWS_PER_MESSAGE, MAX_GONE_PER_MESSAGE},
};

/// Flows that the sender translates: the receiver holds them, and goes on with them when the sender
/// is gone. Those with a NAT address of the receiver are its own from a former life, which the
/// sender went on with: the receiver takes them back. Told when they are new or changed, and again
/// from time to time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecords {
    /// At most [`MAX_FLOWS_PER_MESSAGE`].
    pub records: Vec<FlowRecord>,
}

impl FlowRecords {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.records.len() > MAX_FLOWS_PER_MESSAGE {
            return Err("flows");
        }
        self.records.iter().try_for_each(FlowRecord::check)
    }
}

/// Flows that were told and have ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsGone {
    /// At most [`MAX_GONE_PER_MESSAGE`].
    pub flows: Vec<FlowKey>,
}

impl FlowsGone {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.flows.len() > MAX_GONE_PER_MESSAGE { Err("flows") } else { Ok(()) }
    }
}

/// The sender has just started, and asks its mate for the flows of its former life: they come as
/// [`FlowRecords`], and then [`FlowsHanded`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsWanted {}

/// Answers [`FlowsWanted`]: there are no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsHanded {}

unbounded!(FlowsWanted, FlowsHanded);
