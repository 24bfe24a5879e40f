//! Deaths that a comparison of tables brought up, or that waited here while this proxy did not run:
//! they are not believed before the accused had time to deny them, for the teller may have been cut
//! off and hold half the world for dead, and old news may have been denied long ago.

use std::collections::BTreeMap;

use pias_protocol::{
    overlay::{ClusterRecord, MemberRecord},
    time::Time,
};

use super::spread::Subject;
use crate::{limits::MAX_DOUBTS, outbox::Outbox, timing::DOUBT};

/// What is said.
#[derive(Clone, Debug)]
pub(super) enum Claim {
    Member(MemberRecord),
    Cluster(ClusterRecord),
}

/// Claims, and when they are believed.
#[derive(Debug, Default)]
pub(super) struct Doubts(BTreeMap<Subject, (Time, Claim)>);

impl Doubts {
    /// Takes a claim. Whether it is doubted: not if there are too many.
    pub(super) fn doubt(
        &mut self,
        subject: Subject,
        claim: Claim,
        now: Time,
        out: &mut Outbox,
    ) -> bool {
        if self.0.len() >= MAX_DOUBTS && !self.0.contains_key(&subject) {
            out.counters.table_full += 1;
            return false;
        }
        self.0.entry(subject).or_insert((now + DOUBT, claim));
        true
    }

    /// When the first is believed.
    pub(super) fn next(&self) -> Option<Time> {
        self.0.values().map(|&(at, _)| at).min()
    }

    /// Those that are believed now, unless they were denied meanwhile.
    pub(super) fn ripe(&mut self, now: Time) -> Vec<Claim> {
        let ripe: Vec<_> =
            self.0.iter().filter(|(_, (at, _))| *at <= now).map(|(&subject, _)| subject).collect();
        ripe.iter().filter_map(|subject| self.0.remove(subject)).map(|(_, claim)| claim).collect()
    }
}
