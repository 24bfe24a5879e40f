//! Tier one: the proxies of a cluster watch each other, all of them all others.
//!
//! ```text
//!  heard ──350 ms of silence──► suspected: six beats that ask, 12 ms apart; Word to the mates
//!    ▲                             │  about 420 ms of silence
//!    │  any sign of life, or       ▼
//!    ├──a mate's word that ────  ripe ──a second mate says so, or there is no other──► dead
//!    │  it hears the proxy         │
//!    └─────────────────────────────┘
//! ```
//! A proxy that was not running, or is slow, blames itself: see [`Health`]. It says nothing of
//! others until it has listened for as long as their silence would have to last.

use std::{collections::BTreeMap, time::Duration};

use pias_protocol::{
    ids::ProxyId,
    overlay::{Heartbeat, Word},
    time::Time,
};

use super::{
    ask,
    lifeguard::Health,
    peer::{Mate, Peers},
};
use crate::{
    outbox::Outbox,
    timing::{ASK_BURST, ASK_EVERY, ASK_GAP, HEARSAY_BEATS, SILENT_BEATS, WORD_LIFETIME},
};

/// A mate that is not heard.
#[derive(Clone, Debug, Default)]
struct Suspect {
    /// When it became silent here; `None` while only others say so.
    since: Option<Time>,
    /// Beats that asked it since.
    asked: u32,
    /// When to go on asking, or to repeat the word.
    next: Time,
    /// Who else does not hear it, and when that was said.
    others: BTreeMap<ProxyId, Time>,
}

/// A proxy is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) proxy: ProxyId,
    /// Whether another proxy agrees, or there is none: else the word stays in the cluster.
    pub(crate) witnessed: bool,
}

/// The watch over the mates.
#[derive(Debug)]
pub(crate) struct Observe {
    own: ProxyId,
    heartbeat: Duration,
    /// How long a mate may be silent, as well as this proxy feels.
    silence: Duration,
    next_beat: Time,
    /// No mate is silent before.
    next_judge: Time,
    /// What comes before was perhaps said while this proxy did not run.
    caught_up: Time,
    beats: u64,
    suspects: BTreeMap<ProxyId, Suspect>,
    health: Health,
}

impl Observe {
    /// Beats begin at `first`.
    pub(crate) fn new(own: ProxyId, heartbeat: Duration, first: Time) -> Self {
        Self {
            own,
            heartbeat,
            silence: heartbeat.mul_f64(SILENT_BEATS),
            next_beat: first,
            next_judge: first,
            caught_up: Time::ZERO,
            beats: 0,
            suspects: BTreeMap::new(),
            health: Health::default(),
        }
    }

    /// When [`Observe::tick`] is due.
    pub(crate) fn next(&self) -> Time {
        self.next_beat.min(self.next_judge)
    }

    /// Whether this proxy has not run for a while, so that it cannot tell who is silent.
    pub(crate) fn away(&self, now: Time) -> bool {
        self.late_by(now) > self.heartbeat
    }

    /// Whether what others say may have waited here while this proxy did not run, and be old.
    pub(crate) fn catches_up(&self, now: Time) -> bool {
        self.away(now) || now < self.caught_up
    }

    /// How long ago it should have beaten; zero if it has.
    pub(crate) fn late_by(&self, now: Time) -> Duration {
        now - self.next_beat
    }

    /// Whether news of a proxy's death is not believed, as it was heard a moment ago.
    pub(crate) fn just_heard(&self, peers: &Peers, id: ProxyId, now: Time) -> bool {
        let within = self.heartbeat.mul_f64(HEARSAY_BEATS);
        peers.get(&id).is_some_and(|peer| peer.heard_within(within, now))
    }

    /// A mate was heard.
    pub(crate) fn heard(&mut self, id: ProxyId, mate: &mut Mate, rtt: Option<Duration>, now: Time) {
        mate.met = true;
        mate.silent_at = now + self.silence + rtt.unwrap_or_default();
        if !self.suspects.is_empty() {
            self.suspects.remove(&id);
        }
    }

    /// A mate is dead or forgotten, or has come up: what was suspected of it is void.
    pub(crate) fn settled(&mut self, id: ProxyId) {
        self.suspects.remove(&id);
        for suspect in self.suspects.values_mut() {
            suspect.others.remove(&id);
        }
    }

    /// A mate may be silent from `at` on.
    pub(crate) fn look_at(&mut self, at: Time) {
        self.next_judge = self.next_judge.min(at);
    }

    /// The driver cannot reach a mate: half the patience is left.
    pub(crate) fn unreachable(&mut self, mate: &mut Mate, rtt: Option<Duration>, now: Time) {
        mate.silent_at = mate.silent_at.min(now + self.silence / 2 + rtt.unwrap_or_default());
        self.look_at(mate.silent_at);
    }

    /// This proxy was taken for dead.
    pub(crate) fn accused(&mut self) {
        self.feel(Health::worse);
    }

    fn feel(&mut self, change: impl Fn(&mut Health)) {
        change(&mut self.health);
        self.silence = self.health.stretch(self.heartbeat.mul_f64(SILENT_BEATS));
    }

    /// Beats and judges. Whether this proxy had not run for a while, and who is dead.
    pub(crate) fn tick(
        &mut self,
        peers: &mut Peers,
        now: Time,
        out: &mut Outbox,
    ) -> (bool, Vec<Verdict>) {
        let mut away = false;
        if now >= self.next_beat {
            away = self.late(peers, now);
            self.beat(peers, now, out);
        }
        if now >= self.next_judge {
            return (away, self.judge(peers, now, out));
        }
        (away, Vec::new())
    }

    /// A beat that comes late blames this proxy; after a pause all others have fresh patience, for
    /// nothing could be heard while nobody listened.
    fn late(&mut self, peers: &mut Peers, now: Time) -> bool {
        if now - self.next_beat > self.heartbeat / 2 {
            self.feel(Health::worse);
        }
        let away = self.away(now);
        if away {
            self.suspects.clear();
            self.caught_up = now + self.silence;
            for peer in peers.values_mut() {
                if let Some(mate) = &mut peer.mate {
                    mate.silent_at = mate.silent_at.max(now + self.silence);
                    mate.answered = true;
                }
            }
        }
        away
    }

    fn beat(&mut self, peers: &mut Peers, now: Time, out: &mut Outbox) {
        let asks = self.beats.is_multiple_of(ASK_EVERY);
        self.beats += 1;
        let (mut asked, mut missed) = (0, 0);
        let mut judge = now + self.silence;
        for (&id, peer) in peers.iter_mut() {
            let Some(mate) = peer.mate.as_mut().filter(|mate| mate.alive) else { continue };
            out.send_datagram(id, Heartbeat { sequence: now.as_micros(), asks });
            if asks {
                asked += 1;
                missed += u32::from(!mate.answered);
                mate.answered = false;
            }
            judge = judge.min(mate.silent_at);
        }
        if asks {
            // Many that do not answer at once: it may be this proxy that is not heard.
            self.feel(if missed >= 3 && missed * 2 > asked {
                Health::worse
            } else {
                Health::better
            });
        }
        let pending = self.suspects.values().filter(|suspect| suspect.since.is_some());
        self.next_judge =
            pending.map(|suspect| suspect.next).min().map_or(judge, |at| at.min(judge));
        self.next_beat = (self.next_beat + self.heartbeat).max(now + self.heartbeat / 2);
    }

    /// Asks the silent, and says who is dead.
    fn judge(&mut self, peers: &Peers, now: Time, out: &mut Outbox) -> Vec<Verdict> {
        let mates = living(peers);
        for &(id, silent_at) in mates.iter().filter(|(_, silent_at)| *silent_at <= now) {
            let suspect = self.suspects.entry(id).or_default();
            if suspect.since.is_none() {
                suspect.since = Some(silent_at);
                suspect.next = now;
            }
        }
        let mut verdicts = Vec::new();
        for &(id, _) in mates.iter().filter(|(_, silent_at)| *silent_at <= now) {
            let rtt = peers.get(&id).and_then(|peer| peer.rtt).unwrap_or_default();
            verdicts.extend(self.pursue(id, rtt, &mates, now, out));
        }
        let awaited = mates.iter().map(|&(id, silent_at)| {
            let suspected = self.suspects.get(&id).filter(|suspect| suspect.since.is_some());
            suspected.map_or(silent_at, |suspect| suspect.next)
        });
        self.next_judge = awaited.min().unwrap_or(self.next_beat).max(now + ASK_GAP / 2);
        verdicts
    }

    /// The next step with a silent mate.
    fn pursue(
        &mut self,
        id: ProxyId,
        rtt: Duration,
        mates: &[(ProxyId, Time)],
        now: Time,
        out: &mut Outbox,
    ) -> Option<Verdict> {
        let suspect = self.suspects.get_mut(&id).filter(|suspect| suspect.next <= now)?;
        if suspect.asked < ASK_BURST {
            ask(id, now, out);
            suspect.asked += 1;
            // The answer to the last one is waited for, too.
            suspect.next = now + if suspect.asked < ASK_BURST { ASK_GAP } else { ASK_GAP + rtt };
            if suspect.asked == 1 {
                self.tell(id, mates, out);
            }
            return None;
        }
        suspect.next = now + self.heartbeat / 2;
        let verdict = self.verdict(id, mates, now);
        if verdict.is_none() {
            self.tell(id, mates, out);
        }
        verdict
    }

    /// Whether a mate is dead, which takes a second witness where there is one to be had.
    fn verdict(&self, id: ProxyId, mates: &[(ProxyId, Time)], now: Time) -> Option<Verdict> {
        let suspect = self.suspects.get(&id)?;
        let ripe = suspect.since.is_some() && suspect.asked >= ASK_BURST;
        if !ripe {
            return None;
        }
        let agree =
            suspect.others.iter().any(|(_, &said)| now - said < self.health.stretch(WORD_LIFETIME));
        if agree {
            return Some(Verdict { proxy: id, witnessed: true });
        }
        let observers = mates.iter().filter(|&&(mate, silent_at)| mate != id && silent_at > now);
        (observers.count() == 0).then_some(Verdict { proxy: id, witnessed: mates.len() == 1 })
    }

    /// Tells the mates that are heard that one is not.
    fn tell(&self, silent: ProxyId, mates: &[(ProxyId, Time)], out: &mut Outbox) {
        for &(mate, _) in mates.iter().filter(|(mate, _)| *mate != silent) {
            out.send_datagram(mate, Word { proxy: silent, silent: true });
        }
    }

    /// A mate's word about another one.
    pub(crate) fn word(
        &mut self,
        from: ProxyId,
        word: &Word,
        peers: &mut Peers,
        now: Time,
        out: &mut Outbox,
    ) -> Option<Verdict> {
        if word.proxy == self.own || self.away(now) {
            return None;
        }
        let heard = self.just_heard(peers, word.proxy, now);
        let peer = peers.get_mut(&word.proxy)?;
        let mate = peer.mate.as_mut().filter(|mate| mate.alive)?;
        if !word.silent {
            self.suspects.remove(&word.proxy);
            mate.silent_at = mate.silent_at.max(now + self.silence);
            return None;
        }
        if heard {
            out.send_datagram(from, Word { silent: false, ..*word });
            return None;
        }
        let suspect = self.suspects.entry(word.proxy).or_default();
        let before = suspect.others.insert(from, now);
        // The answer to an answer would never end.
        let told = before.is_some_and(|before| now - before < self.heartbeat / 2);
        if suspect.since.is_some() && !told {
            out.send_datagram(from, *word);
        }
        self.verdict(word.proxy, &living(peers), now)
    }
}

/// The mates that are taken to be alive, and when each is silent.
fn living(peers: &Peers) -> Vec<(ProxyId, Time)> {
    let living = peers.iter().filter_map(|(&id, peer)| Some((id, peer.mate.as_ref()?)));
    living.filter(|(_, mate)| mate.alive).map(|(id, mate)| (id, mate.silent_at)).collect()
}
