//! What the engine's tests stand on.

pub(crate) mod bed;
pub(crate) mod hosts;
pub(crate) mod traffic;
