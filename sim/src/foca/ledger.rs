//! Who takes whom for gone, and what was sent, by foca's own word.

use std::collections::BTreeSet;

use super::identity::Id;
use crate::tally::DATAGRAM;

/// What is known about a run.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// By observer the members that it takes for gone.
    gone: Vec<BTreeSet<u32>>,
    /// By member how many take it for gone.
    disbelievers: Vec<u32>,
    /// Members that were declared down while they ran undisturbed; each life of them once.
    wrong: BTreeSet<Id>,
    /// How often a member learned that another is down.
    pub(super) verdicts: u64,
    /// Octets on the wire in all, and those between clusters.
    pub(super) octets: u64,
    pub(super) far_octets: u64,
    /// Whose death's copies are counted.
    pub(super) followed: Option<usize>,
    pub(super) copies: u64,
    /// Packets that foca did not take; a mistake of the driver.
    pub(super) refused: u64,
}

impl Ledger {
    pub(super) fn new(members: usize) -> Self {
        Self {
            gone: vec![BTreeSet::new(); members],
            disbelievers: vec![0; members],
            ..Self::default()
        }
    }

    /// A member sends a packet. It is counted as a datagram of the overlay's would be.
    pub(super) fn sent(&mut self, payload: usize, near: bool) {
        let octets = DATAGRAM + payload as u64;
        self.octets += octets;
        if !near {
            self.far_octets += octets;
        }
    }

    pub(super) fn up(&mut self, observer: usize, subject: Id) {
        if self.gone[observer].remove(&(subject.member() as u32)) {
            self.disbelievers[subject.member()] -= 1;
        }
    }

    pub(super) fn down(&mut self, observer: usize, subject: Id, innocent: bool) {
        self.verdicts += 1;
        if self.gone[observer].insert(subject.member() as u32) {
            self.disbelievers[subject.member()] += 1;
        }
        if innocent {
            self.wrong.insert(subject);
        }
    }

    /// How many members take this one for gone.
    pub(super) fn disbelievers(&self, member: usize) -> usize {
        self.disbelievers[member] as usize
    }

    /// How many members were declared down that ran undisturbed.
    pub(super) fn wrong(&self) -> usize {
        self.wrong.len()
    }

    /// What was wrong up to now is not counted.
    pub(super) fn count_anew(&mut self) {
        self.wrong.clear();
    }
}
