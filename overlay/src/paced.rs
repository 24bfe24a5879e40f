//! What each proxy is told only so often, however often there is a reason.

use std::{collections::BTreeMap, time::Duration};

use pias_protocol::{ids::ProxyId, time::Time};

use crate::{limits::MAX_TOLD, outbox::Outbox};

/// When each proxy was told something; at most [`MAX_TOLD`] of them.
#[derive(Debug)]
pub(crate) struct Paced {
    /// After so long nothing is remembered.
    pause: Duration,
    told: BTreeMap<ProxyId, Time>,
}

impl Paced {
    /// Nobody was told anything.
    pub(crate) const fn new(pause: Duration) -> Self {
        Self { pause, told: BTreeMap::new() }
    }

    /// Whether a proxy may be told something `now`, as it was not within the last `pause`, at most
    /// the one that this was made with. If so, it is.
    pub(crate) fn allow(
        &mut self,
        id: ProxyId,
        pause: Duration,
        now: Time,
        out: &mut Outbox,
    ) -> bool {
        if self.told.get(&id).is_some_and(|&told| now - told < pause) {
            return false;
        }
        if self.told.len() >= MAX_TOLD {
            self.told.retain(|_, &mut told| now - told < self.pause);
        }
        if self.told.len() >= MAX_TOLD && !self.told.contains_key(&id) {
            out.counters.table_full += 1;
            return false;
        }
        self.told.insert(id, now);
        true
    }

    /// A proxy is another than it was: what it was told does not count.
    pub(crate) fn forget(&mut self, id: ProxyId) {
        self.told.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(1);

    #[test]
    fn each_is_told_once_in_a_while() {
        let (mut paced, mut out) = (Paced::new(PAUSE), Outbox::new(ProxyId(0)));
        let mut tell = |id, now| paced.allow(ProxyId(id), PAUSE, now, &mut out);
        assert!(tell(1, Time::ZERO) && tell(2, Time::ZERO));
        assert!(!tell(1, Time::from_micros(999_999)));
        assert!(tell(1, Time::ZERO + PAUSE));
    }

    #[test]
    fn a_full_table_says_no_until_there_is_room() {
        let (mut paced, mut out) = (Paced::new(PAUSE), Outbox::new(ProxyId(0)));
        let mut told = |now| {
            let ids = (0..MAX_TOLD as u64 + 10).map(ProxyId);
            ids.filter(|&id| paced.allow(id, PAUSE, now, &mut out)).count()
        };
        assert_eq!(told(Time::ZERO), MAX_TOLD);
        assert_eq!(told(Time::from_micros(1)), 0);
        assert_eq!(told(Time::ZERO + PAUSE), MAX_TOLD);
        assert_eq!(out.counters.table_full, 30);
    }
}
