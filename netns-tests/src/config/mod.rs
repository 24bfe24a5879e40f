//! The configuration files that the lab writes for its daemons. Pure text.

pub(crate) mod bird;
pub(crate) mod piasd;
pub(crate) mod servers;
