//! How far proxies are from each other.

use serde::{Deserialize, Serialize};

use crate::{ids::ClusterId, limits::MAX_CLUSTERS};

/// How far clusters are from the sender's: the least round-trip time to a proxy of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proximity {
    /// Cluster and round-trip time in units of 0.1 ms; at most [`MAX_CLUSTERS`].
    pub round_trips: Vec<(ClusterId, u16)>,
}

impl Proximity {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.round_trips.len() > MAX_CLUSTERS { Err("clusters") } else { Ok(()) }
    }
}
