//! Tier two: clusters watch clusters, so that the loss of a POP is one event.
//!
//! ```text
//!  heard ──2.2 s of silence of both contacts──► asked: all members, three times within 0.5 s
//!    ▲                                            │ still silent
//!    │  any sign of life,                         ▼
//!    ├──a watcher's word that it hears it──── ripe: ClusterWord to the other watchers
//!    │                                            │ one agrees, none is left, or none answers
//!    │                                            ▼
//!    └──────── its members deny it ─────────── down: one record; called on, every two seconds
//! ```
//! Of a watching cluster one proxy does it, of the watched one two contacts answer: see
//! [`duty`](super::duty).

use std::{collections::BTreeMap, time::Duration};

use pias_protocol::{
    hash,
    ids::{ClusterId, ProxyId},
    overlay::{ClusterWord, MemberUpdate},
    time::Time,
};

use super::{ask, duty, peer::Peers, table::Table};
use crate::{
    limits::{CONTACTS, MAX_ASKED_MEMBERS},
    outbox::Outbox,
    random::Random,
    timing::{
        CLUSTER_ASK_GAP, CLUSTER_ASKS, CLUSTER_CALL, CLUSTER_SILENCE, CLUSTER_WORD_GAP,
        CLUSTER_WORD_LIFETIME, CLUSTER_WORDS, RECONSIDER, WATCH_BEAT,
    },
};

/// How far the suspicion of a cluster has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It is heard.
    Calm,
    /// All its members were asked so many times.
    Asked(u32),
    /// The other watchers were told so many times.
    Ripe(u32),
    /// It is down, and was called so many times.
    Down(usize),
}

/// A cluster that this proxy watches.
#[derive(Debug)]
struct Watched {
    contacts: Vec<ProxyId>,
    heard: Time,
    stage: Stage,
    /// When the next step is due.
    next: Time,
    /// Other watchers that do not hear it, and when they said so.
    words: BTreeMap<ClusterId, Time>,
}

/// A cluster is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClusterVerdict {
    pub(crate) cluster: ClusterId,
    /// Whether another watcher agrees, or there is none: else the word stays in the own cluster.
    pub(crate) witnessed: bool,
}

/// The watch over other clusters.
#[derive(Debug)]
pub(crate) struct Watch {
    own: ProxyId,
    cluster: ClusterId,
    watched: BTreeMap<ClusterId, Watched>,
    /// Whether duties may have changed.
    stale: bool,
    next_beat: Time,
    /// The earliest step of any watched cluster.
    next_step: Time,
}

impl Watch {
    pub(crate) fn new(own: ProxyId, cluster: ClusterId, first: Time) -> Self {
        Self {
            own,
            cluster,
            watched: BTreeMap::new(),
            stale: true,
            next_beat: first,
            next_step: first,
        }
    }

    /// When [`Watch::tick`] is due.
    pub(crate) fn next(&self) -> Time {
        self.next_beat.min(self.next_step)
    }

    /// Clusters, mates or contacts came or went.
    pub(crate) fn reconsider(&mut self, now: Time) {
        self.stale = true;
        self.next_step = self.next_step.min(now + RECONSIDER);
    }

    /// Whether the coming or going of this proxy may change what is watched how.
    pub(crate) fn concerns(&self, cluster: ClusterId) -> bool {
        cluster == self.cluster || self.watched.contains_key(&cluster)
    }

    /// The proxies that are asked for a sign of life.
    pub(crate) fn contacts(&self) -> impl Iterator<Item = ProxyId> + '_ {
        self.watched.values().flat_map(|watched| watched.contacts.iter().copied())
    }

    /// A proxy of another cluster was heard.
    pub(crate) fn heard(&mut self, cluster: ClusterId, now: Time) {
        if let Some(watched) = self.watched.get_mut(&cluster) {
            watched.heard = now;
            if matches!(watched.stage, Stage::Asked(_) | Stage::Ripe(_)) {
                watched.calm(now);
            }
        }
    }

    /// Whether this proxy watches a cluster, and has heard it lately.
    pub(crate) fn hears(&self, cluster: ClusterId, now: Time) -> bool {
        let watched = self.watched.get(&cluster);
        watched.is_some_and(|w| w.stage == Stage::Calm && w.hears(now))
    }

    /// This proxy had not run for a while: nobody could be heard.
    pub(crate) fn was_away(&mut self, now: Time) {
        for watched in self.watched.values_mut() {
            watched.heard = now;
            if !matches!(watched.stage, Stage::Down(_)) {
                watched.calm(now);
            }
        }
    }

    /// Beats, asks, tells, and says which clusters are down.
    pub(crate) fn tick(
        &mut self,
        table: &Table,
        peers: &Peers,
        random: &mut Random,
        now: Time,
        out: &mut Outbox,
    ) -> Vec<ClusterVerdict> {
        if now < self.next() {
            return Vec::new();
        }
        if self.stale {
            self.stale = false;
            self.assign(table, random, now);
        }
        if now >= self.next_beat {
            for watched in self.watched.values().filter(|w| !matches!(w.stage, Stage::Down(_))) {
                for &contact in &watched.contacts {
                    ask(contact, now, out);
                }
            }
            self.next_beat = (self.next_beat + WATCH_BEAT).max(now + WATCH_BEAT / 2);
        }
        let due: Vec<_> =
            self.watched.iter().filter(|(_, w)| w.next <= now).map(|(&id, _)| id).collect();
        let verdicts =
            due.into_iter().filter_map(|id| self.step(id, table, peers, now, out)).collect();
        let next = self.watched.values().map(|watched| watched.next).min();
        self.next_step = next.unwrap_or(self.next_beat);
        verdicts
    }

    /// Takes up what this proxy has to watch as the table stands.
    fn assign(&mut self, table: &Table, random: &mut Random, now: Time) {
        let Some(own) = table.cluster(self.cluster) else { return };
        let duties: Vec<_> = duty::watched(table, self.cluster)
            .into_iter()
            .filter(|&cluster| duty::delegate(own, cluster) == Some(self.own))
            .filter_map(|cluster| table.cluster(cluster))
            .collect();
        self.watched.retain(|id, _| duties.iter().any(|cluster| cluster.id == *id));
        // Where most are down this proxy may be cut off: who is new here has to answer at once.
        let cut_off = duties.iter().filter(|cluster| cluster.down).count() * 2 > duties.len();
        for cluster in duties {
            let mut contacts: Vec<_> = cluster.standing().map(|member| member.id).collect();
            contacts.sort_by_key(|id| std::cmp::Reverse(hash::mix(self.own.0, id.0)));
            contacts.truncate(CONTACTS);
            let fresh = || Watched {
                contacts: Vec::new(),
                heard: now,
                stage: if cut_off { Stage::Asked(0) } else { Stage::Calm },
                next: now,
                words: BTreeMap::new(),
            };
            let watched = self.watched.entry(cluster.id).or_insert_with(fresh);
            watched.contacts = contacts;
            match (cluster.down, watched.stage) {
                (true, Stage::Down(_)) => {}
                (true, _) => {
                    watched.stage = Stage::Down(0);
                    watched.next = now + random.around(CLUSTER_CALL / 2);
                }
                // It is said to live: that shows.
                (false, Stage::Down(_)) => watched.calm(now),
                (false, Stage::Calm) => watched.next = watched.silent_at(None),
                (false, _) => {}
            }
        }
    }

    /// The next step with a watched cluster.
    fn step(
        &mut self,
        id: ClusterId,
        table: &Table,
        peers: &Peers,
        now: Time,
        out: &mut Outbox,
    ) -> Option<ClusterVerdict> {
        let Some(cluster) = table.cluster(id) else {
            // All its proxies moved away, or were forgotten.
            self.watched.remove(&id);
            return None;
        };
        let watched = self.watched.get_mut(&id)?;
        match watched.stage {
            Stage::Calm => {
                let rtt = watched.contacts.iter().filter_map(|id| peers.get(id)?.rtt).max();
                watched.next = watched.silent_at(rtt);
                if watched.next <= now {
                    watched.suspect(now);
                    return self.step(id, table, peers, now, out);
                }
            }
            Stage::Asked(times) if times < CLUSTER_ASKS => {
                for member in cluster.alive().take(MAX_ASKED_MEMBERS) {
                    ask(member.id, now, out);
                }
                watched.stage = Stage::Asked(times + 1);
                watched.next = now + CLUSTER_ASK_GAP;
            }
            Stage::Asked(_) => {
                watched.stage = Stage::Ripe(0);
                return self.speak(id, table, now, out);
            }
            Stage::Ripe(_) => return self.speak(id, table, now, out),
            Stage::Down(calls) => {
                // Who is dead for long need not be called by all its watchers all the time.
                let standing: Vec<_> = cluster.standing().map(|member| member.id).collect();
                if let Some(&member) = standing.get(calls % standing.len().max(1)) {
                    // One that starts anew may know nobody: it is told who calls.
                    let own = table.get(self.own).map(|(cluster, own)| own.record(cluster));
                    let members = own.into_iter().collect();
                    out.send(member, MemberUpdate { pushed: true, clusters: vec![], members });
                    ask(member, now, out);
                }
                watched.stage = Stage::Down(calls + 1);
                watched.next = now + CLUSTER_CALL;
            }
        }
        None
    }

    /// Tells the other watchers that a cluster is silent, or draws the conclusion.
    fn speak(
        &mut self,
        id: ClusterId,
        table: &Table,
        now: Time,
        out: &mut Outbox,
    ) -> Option<ClusterVerdict> {
        if let Some(watched) = self.watched.get_mut(&id) {
            watched.next = now + CLUSTER_WORD_GAP;
        }
        if let Some(verdict) = self.verdict(id, table, now) {
            return Some(verdict);
        }
        let version = table.cluster(id)?.version;
        for watcher in duty::watchers(table, id).filter(|watcher| watcher.id != self.cluster) {
            if let Some(delegate) = duty::delegate(watcher, id) {
                out.send_datagram(delegate, ClusterWord { cluster: id, version, silent: true });
            }
        }
        let watched = self.watched.get_mut(&id)?;
        if let Stage::Ripe(times) = watched.stage {
            watched.stage = Stage::Ripe(times + 1);
        }
        None
    }

    /// Whether a cluster is down: two watchers say so where there are two to be had.
    fn verdict(&self, id: ClusterId, table: &Table, now: Time) -> Option<ClusterVerdict> {
        let watched = self.watched.get(&id)?;
        let Stage::Ripe(told) = watched.stage else { return None };
        if watched.words.values().any(|&said| now - said < CLUSTER_WORD_LIFETIME) {
            return Some(ClusterVerdict { cluster: id, witnessed: true });
        }
        let mut others = duty::watchers(table, id).filter(|watcher| watcher.id != self.cluster);
        let Some(first) = others.next() else {
            return Some(ClusterVerdict { cluster: id, witnessed: true });
        };
        // Those that are suspected themselves, or do not answer, are no help.
        let silent = |id| {
            let stage = self.watched.get(&id).map(|watched| watched.stage);
            matches!(stage, Some(Stage::Asked(CLUSTER_ASKS..) | Stage::Ripe(_)))
        };
        let none_left = std::iter::once(first).chain(others).all(|watcher| silent(watcher.id));
        let alone = none_left || told >= CLUSTER_WORDS;
        alone.then_some(ClusterVerdict { cluster: id, witnessed: false })
    }

    /// Another watcher's word.
    pub(crate) fn word(
        &mut self,
        (from, of): (ProxyId, ClusterId),
        word: &ClusterWord,
        table: &Table,
        now: Time,
        out: &mut Outbox,
    ) -> Option<ClusterVerdict> {
        let cluster = table.cluster(word.cluster)?;
        let watched = self.watched.get_mut(&word.cluster)?;
        if cluster.version != word.version || cluster.down {
            return None;
        }
        if !word.silent {
            if matches!(watched.stage, Stage::Asked(_) | Stage::Ripe(_)) {
                watched.heard = now;
                watched.calm(now);
            }
            return None;
        }
        let before = watched.words.insert(of, now);
        match watched.stage {
            Stage::Calm if watched.hears(now) => {
                watched.words.remove(&of);
                out.send_datagram(from, ClusterWord { silent: false, ..*word });
            }
            Stage::Calm => {
                watched.suspect(now);
                self.next_step = self.next_step.min(now);
            }
            Stage::Ripe(_) => {
                // The answer to an answer would never end.
                if before.is_none_or(|before| now - before > CLUSTER_WORD_GAP / 2) {
                    out.send_datagram(from, *word);
                }
                return self.verdict(word.cluster, table, now);
            }
            Stage::Asked(_) | Stage::Down(_) => {}
        }
        None
    }
}

impl Watched {
    fn silent_at(&self, rtt: Option<Duration>) -> Time {
        self.heard + CLUSTER_SILENCE + rtt.unwrap_or_default()
    }

    /// Whether a beat or two ago.
    fn hears(&self, now: Time) -> bool {
        now - self.heard < WATCH_BEAT * 3 / 2
    }

    fn suspect(&mut self, now: Time) {
        self.stage = Stage::Asked(0);
        self.next = now;
    }

    fn calm(&mut self, now: Time) {
        self.stage = Stage::Calm;
        self.heard = now;
        self.next = self.silent_at(None);
        self.words.clear();
    }
}
