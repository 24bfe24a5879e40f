//! The link emulator: delay, jitter, loss, rate and reordering between two
//! hosts, because not every kernel has netem.
//!
//! [`emulator`] decides (pure), [`tap`] carries (two TAP devices and a thread).

pub mod emulator;
pub(crate) mod random;
pub mod tap;

pub use emulator::{Direction, LinkCounters, Shape, ShapeError};
pub use tap::EmulatedLink;
