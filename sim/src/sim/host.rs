//! A proxy's machine: its process, its clock, and how it is doing.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use pias_overlay::{AgentId, Node};
use pias_protocol::{ids::ProxyId, time::Time};

use super::event::Event;
use crate::{agent::AgentNo, datapath::Datapath};

/// The simulator's number for a proxy: those of one cluster follow each other.
pub type HostNo = usize;

/// A running piasd.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) node: Node,
    pub(crate) datapath: Datapath,
}

/// A clock that runs fast or slow.
#[derive(Clone, Copy, Debug, Default)]
struct Skew {
    parts_per_million: i64,
    /// When it began to, by the true clock and by this one.
    since: Time,
    showed: Time,
}

/// A proxy's machine.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) id: ProxyId,
    pub(crate) cluster: usize,
    /// `None` while it is dead.
    pub(crate) running: Option<Box<Running>>,
    /// Counts starts and deaths.
    pub(crate) life: u32,
    /// What it wishes routing to do, and what routing does.
    pub(crate) announced: bool,
    pub(crate) routed: bool,
    pub(crate) paused_until: Time,
    /// How long it takes for anything.
    pub(crate) slow: Duration,
    busy_until: Time,
    /// Up to here others may take it for dead without being wrong.
    pub(crate) disturbed_until: Time,
    skew: Skew,
    /// When its timer event comes, and when (by its own clock) its node wishes to be called.
    pub(crate) armed: Option<Time>,
    pub(crate) wanted: Option<Time>,
    /// What happened while it was paused or busy.
    pub(crate) inbox: VecDeque<Event>,
    pub(crate) waking: bool,
    pub(crate) agents: BTreeMap<AgentId, AgentNo>,
}

impl Host {
    pub(crate) fn new(name: String, cluster: usize) -> Self {
        Self {
            id: ProxyId::of(&name),
            name,
            cluster,
            running: None,
            life: 0,
            announced: false,
            routed: false,
            paused_until: Time::ZERO,
            slow: Duration::ZERO,
            busy_until: Time::ZERO,
            disturbed_until: Time::ZERO,
            skew: Skew::default(),
            armed: None,
            wanted: None,
            inbox: VecDeque::new(),
            waking: false,
            agents: BTreeMap::new(),
        }
    }

    /// When its process gets to something new.
    pub(crate) fn free_at(&self) -> Time {
        self.paused_until.max(self.busy_until)
    }

    /// It did something.
    pub(crate) fn worked(&mut self, now: Time) {
        if !self.slow.is_zero() {
            self.busy_until = now + self.slow;
        }
    }

    /// Whether it runs, undisturbed for a while: then nobody has a reason to take it for dead.
    pub(crate) fn innocent(&self, now: Time) -> bool {
        self.running.is_some() && self.slow.is_zero() && now > self.disturbed_until
    }

    /// The process is gone, or new.
    pub(crate) fn renew(&mut self, running: Option<Box<Running>>) {
        self.running = running;
        self.life += 1;
        self.announced = false;
        self.paused_until = Time::ZERO;
        self.busy_until = Time::ZERO;
        (self.armed, self.wanted) = (None, None);
        self.inbox.clear();
        self.agents.clear();
    }

    /// Routing does what it was told.
    pub(crate) const fn follow(&mut self) {
        self.routed = self.announced;
    }

    /// From `now` on its clock runs fast by so many parts in a million; or slow.
    pub(crate) fn skew(&mut self, parts_per_million: i64, now: Time) {
        let showed = self.local(now);
        self.skew = Skew { parts_per_million, since: now, showed };
    }

    /// What its clock shows.
    pub(crate) fn local(&self, now: Time) -> Time {
        let Skew { parts_per_million, since, showed } = self.skew;
        if parts_per_million == 0 && since == showed {
            return now;
        }
        let elapsed = (now - since).as_micros() as i64;
        let shown = elapsed + elapsed * parts_per_million / 1_000_000;
        showed + Duration::from_micros(shown.max(0) as u64)
    }

    /// About when its clock shows `local`; never so early that it would not be asked again.
    pub(crate) fn global(&self, local: Time) -> Time {
        let Skew { parts_per_million, since, showed } = self.skew;
        if parts_per_million == 0 && since == showed {
            return local;
        }
        let to_show = (local - showed).as_micros() as i64;
        let elapsed = to_show * 1_000_000 / (1_000_000 + parts_per_million) + 1;
        since + Duration::from_micros(elapsed.max(0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_clock_gains_and_its_timers_ring_early() {
        let mut host = Host::new("fra1".into(), 0);
        let at = |secs| Time::ZERO + Duration::from_secs(secs);
        host.skew(1_000, at(10));
        assert_eq!(host.local(at(1_010)) - at(1_010), Duration::from_secs(1));
        host.skew(-500, at(1_010));
        assert_eq!(host.local(at(3_010)), at(3_010));
        for secs in 3_011..3_050 {
            let rings = host.global(at(secs));
            assert!(
                host.local(rings) >= at(secs)
                    && host.local(rings) - at(secs) < Duration::from_millis(1)
            );
        }
    }
}
