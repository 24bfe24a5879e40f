//! What XDP is measured with. No part of a proxy.
//!
//! | module | subject |
//! | --- | --- |
//! | [`cost`] | nanoseconds per packet, without a network |
//! | [`memory`] | what tables of a size take |
//! | `bed` | XDP and the pipeline for both |
//! | [`traffic`] | packets at the rate that a core can make them, and counting what comes out |

mod bed;
pub mod cost;
pub mod memory;
pub mod traffic;

pub use bed::BedError;
