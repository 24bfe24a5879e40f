//! A queue of named timers: each name has at most one.

use std::collections::{BTreeMap, BTreeSet};

use pias_protocol::time::Time;

/// Timers named by `K`; ties fire in the order of the names, so that runs repeat.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    by_name: BTreeMap<K, Time>,
    queue: BTreeSet<(Time, K)>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { by_name: BTreeMap::new(), queue: BTreeSet::new() }
    }
}

impl<K: Ord + Copy> Timers<K> {
    /// Sets the timer, in place of what it was set to.
    pub(crate) fn set(&mut self, name: K, at: Time) {
        if let Some(before) = self.by_name.insert(name, at) {
            self.queue.remove(&(before, name));
        }
        self.queue.insert((at, name));
    }

    /// Sets the timer unless it is due earlier already.
    pub(crate) fn set_by(&mut self, name: K, at: Time) {
        if self.by_name.get(&name).is_none_or(|&before| at < before) {
            self.set(name, at);
        }
    }

    pub(crate) fn cancel(&mut self, name: K) {
        if let Some(at) = self.by_name.remove(&name) {
            self.queue.remove(&(at, name));
        }
    }

    pub(crate) fn next(&self) -> Option<Time> {
        self.queue.first().map(|&(at, _)| at)
    }

    /// Takes out the first timer that is due.
    pub(crate) fn pop(&mut self, now: Time) -> Option<K> {
        let &(at, name) = self.queue.first()?;
        if at > now {
            return None;
        }
        self.cancel(name);
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_fires_once_at_its_last_setting() {
        let at = Time::from_micros;
        let mut timers = Timers::default();
        timers.set("b", at(5));
        timers.set("a", at(5));
        timers.set("c", at(1));
        timers.set("c", at(9));
        timers.set_by("c", at(10));
        timers.cancel("b");
        assert_eq!(timers.next(), Some(at(5)));
        assert_eq!(timers.pop(at(4)), None);
        assert_eq!(timers.pop(at(9)), Some("a"));
        assert_eq!(timers.pop(at(9)), Some("c"));
        assert_eq!(timers.next(), None);
    }
}
