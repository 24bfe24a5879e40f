//! Whether to look again before going to sleep.
//!
//! To be woken costs several microseconds, more in a virtual machine, and every packet of a
//! conversation that goes back and forth would pay it. So where the last wait was short, the next
//! one begins with looking, and with yielding the processor to whoever wants it; where it was long,
//! the thread sleeps at once. A proxy with nothing to do spends nothing.

use std::time::Duration;

use crate::limits::engine::LINGER;

/// How the last wait went.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Linger {
    short: bool,
}

impl Linger {
    /// For how long to look before sleeping.
    pub(super) const fn span(self) -> Duration {
        if self.short { LINGER } else { Duration::ZERO }
    }

    /// Something came after a wait of `waited`, looking and sleeping.
    pub(super) fn came_after(&mut self, waited: Duration) {
        self.short = waited <= LINGER;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_only_after_a_short_wait() {
        let mut linger = Linger::default();
        assert_eq!(linger.span(), Duration::ZERO);
        linger.came_after(LINGER);
        assert_eq!(linger.span(), LINGER);
        linger.came_after(LINGER + Duration::from_micros(1));
        assert_eq!(linger.span(), Duration::ZERO);
    }
}
