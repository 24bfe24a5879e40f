//! How foca is set up: as it recommends itself, and as tight as the overlay's goals ask for.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use foca::{Config, PeriodicParams};

/// A choice of foca's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settings {
    /// `Config::new_lan`: memberlist's defaults for one site. Probes every second, with 500 ms for
    /// the answer; 4 s times the members' decimal logarithm between suspicion and death.
    Lan,
    /// `Config::new_wan`: memberlist's defaults for many sites. Probes every 5 s, with 3 s for the
    /// answer; 30 s times the logarithm until death.
    Wan,
    /// The overlay's goal for a crash, 3 s, divided: a probe period of 700 ms, half of it for the
    /// answer, 800 ms until death, gossip to four every 100 ms; all else as [`Settings::Lan`].
    Tight,
}

impl Settings {
    /// Those that foca recommends, then the other.
    pub const ALL: [Self; 3] = [Self::Lan, Self::Wan, Self::Tight];

    /// Its name in tables.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Lan => "LAN settings",
            Self::Wan => "WAN settings",
            Self::Tight => "tight settings",
        }
    }

    /// The parameters for so many members.
    pub(super) fn config(self, members: usize) -> Config {
        let members = NonZeroU32::new(members as u32).unwrap_or(NonZeroU32::MIN);
        match self {
            Self::Lan => Config::new_lan(members),
            Self::Wan => Config::new_wan(members),
            Self::Tight => Config {
                probe_period: Duration::from_millis(700),
                probe_rtt: Duration::from_millis(350),
                suspect_to_down_after: Duration::from_millis(800),
                periodic_gossip: NonZeroUsize::new(4).map(|num_members| PeriodicParams {
                    frequency: Duration::from_millis(100),
                    num_members,
                }),
                ..Config::new_lan(members)
            },
        }
    }
}
