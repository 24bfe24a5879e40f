//! How far proxies are from each other, foretold by coordinates.

use serde::{Deserialize, Serialize};

/// A network coordinate after Vivaldi (Dabek et al., SIGCOMM 2004): four dimensions and a height,
/// in units of 0.1 ms. The round-trip time between two proxies is about the Euclidean distance of
/// their positions plus both heights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinate {
    /// The position.
    pub position: [i16; 4],
    /// The way from the proxy to where the position is: its access line, as it were. 0 where the proxy
    /// does not know yet where it is.
    pub height: u16,
}

impl Coordinate {
    /// Whether it says where the proxy is.
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.height > 0
    }
}
