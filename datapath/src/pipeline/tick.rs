//! What time does to the tables.

use pias_protocol::time::Time;

use super::{Pipeline, Side, Verdict};
use crate::{
    counters::Path, drop_reason::DropReason, fragment::Follow, health, limits::JUDGED_PER_TICK,
    xdp::News,
};

impl Pipeline {
    /// Ages tables in bounded steps, ends waits that were in vain, and repeats probes; to be called
    /// about every 50 ms.
    pub fn tick(&mut self, now: Time, side: &mut Side) {
        for _ in 0..self.pins.age(now) {
            self.count(Path::FlowEvicted);
        }
        self.nat.age(now);
        self.forget_path_mtus(now);
        self.expire_parked(now);
        let orphans = self.fragments.expire(now);
        self.counters.count_drops(DropReason::FragmentOrphan, orphans);
        self.judge_unanswered(now, side);
        self.tick_probes(now, side);
        self.tick_standby(now, side);
    }

    /// XDP tells of a translated flow: it is new, was answered for the first time, or is another than it was. That
    /// it was answered some time ago says nothing of its target now.
    pub fn noticed(&mut self, News { flow, answered }: News, now: Time, side: &mut Side) {
        let Some(known) = self.nat.get(flow) else { return };
        let event = if answered { health::answered(&mut self.table, known.target) } else { None };
        if !known.answered {
            self.watch.watch(flow, now);
        }
        self.event(event, side);
        let used = health::used(&mut self.table, known.target, now);
        self.event(used, side);
        self.nat.note(flow, now);
    }

    fn expire_parked(&mut self, now: Time) {
        while let Some(parked) = self.parking.expire(now) {
            self.counters.count_drop(DropReason::ParkedExpired);
            if let Some(train) = parked.train {
                let follow = Follow::Drop(DropReason::ParkedExpired);
                let (held, dropped) = self.fragments.decide(train, follow, now);
                self.counters.count_drops(DropReason::ParkedExpired, held.len() as u64);
                self.counters.count_drops(DropReason::FragmentOrphan, dropped);
            }
        }
    }

    fn judge_unanswered(&mut self, now: Time, side: &mut Side) {
        for _ in 0..JUDGED_PER_TICK {
            let Some(flow) = self.watch.due(now) else { return };
            let silent = health::unanswered(&mut self.nat, &mut self.table, flow, now);
            self.event(silent, side);
        }
    }

    fn tick_probes(&mut self, now: Time, side: &mut Side) {
        let (silent, again) = self.probes.tick(now);
        for event in silent {
            self.event(event, side);
        }
        for packet in again {
            self.count(Path::Probe);
            self.emit(Verdict::Tun, packet, now, side);
        }
    }
}
