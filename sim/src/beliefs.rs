//! Who takes whom for gone: as the nodes say themselves, event by event.

use std::collections::BTreeSet;

use pias_overlay::{GoneWhy, Notice};
use pias_protocol::{ids::ProxyId, time::Time};

use crate::ids::Ids;

/// Most wrong verdicts that are kept for a report; all are counted.
const KEPT: usize = 64;

/// A proxy took another for dead that ran, undisturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// When.
    pub at: Time,
    /// Who says so.
    pub observer: usize,
    /// Of whom.
    pub subject: usize,
    /// Whether it judged itself, or believed others.
    pub judged: bool,
}

/// Who takes whom for gone.
#[derive(Debug)]
pub struct Beliefs {
    /// By observer the subjects that it takes for gone.
    gone: Vec<BTreeSet<u32>>,
    /// By subject how many take it for gone.
    disbelievers: Vec<u32>,
    wrong: Vec<Wrong>,
    wrong_count: u64,
    verdicts: u64,
}

impl Beliefs {
    pub(crate) fn new(hosts: usize) -> Self {
        Self {
            gone: vec![BTreeSet::new(); hosts],
            disbelievers: vec![0; hosts],
            wrong: Vec::new(),
            wrong_count: 0,
            verdicts: 0,
        }
    }

    /// How many proxies take this one for gone.
    #[must_use]
    pub fn disbelievers(&self, subject: usize) -> usize {
        self.disbelievers[subject] as usize
    }

    /// Whether a proxy takes another for gone.
    #[must_use]
    pub fn takes_for_gone(&self, observer: usize, subject: usize) -> bool {
        self.gone[observer].contains(&(subject as u32))
    }

    /// The first wrong verdicts.
    #[must_use]
    pub fn wrong(&self) -> &[Wrong] {
        &self.wrong
    }

    /// How many wrong verdicts there were.
    #[must_use]
    pub const fn wrong_count(&self) -> u64 {
        self.wrong_count
    }

    /// How often a proxy judged another dead by its silence, rightly or wrongly.
    #[must_use]
    pub const fn verdicts(&self) -> u64 {
        self.verdicts
    }

    pub(crate) fn count_anew(&mut self) {
        self.wrong.clear();
        (self.wrong_count, self.verdicts) = (0, 0);
    }

    /// A node says something.
    pub(crate) fn hear(
        &mut self,
        observer: usize,
        notice: &Notice,
        now: Time,
        ids: &Ids,
        innocent: impl FnOnce(usize) -> bool,
    ) {
        match notice {
            Notice::ProxyUp { name, .. } | Notice::ProxyDraining { name } => {
                if let Some(subject) = ids.get(ProxyId::of(name)) {
                    self.believe(observer, subject);
                }
            }
            Notice::ProxyGone { name, why } => {
                let Some(subject) = ids.get(ProxyId::of(name)) else { return };
                self.disbelieve(observer, subject);
                let judged = *why == GoneWhy::Silent;
                self.verdicts += u64::from(judged);
                if (judged || *why == GoneWhy::Rumour) && innocent(subject) {
                    self.wrong_count += 1;
                    if self.wrong.len() < KEPT {
                        self.wrong.push(Wrong { at: now, observer, subject, judged });
                    }
                }
            }
            _ => {}
        }
    }

    fn disbelieve(&mut self, observer: usize, subject: usize) {
        if self.gone[observer].insert(subject as u32) {
            self.disbelievers[subject] += 1;
        }
    }

    fn believe(&mut self, observer: usize, subject: usize) {
        if self.gone[observer].remove(&(subject as u32)) {
            self.disbelievers[subject] -= 1;
        }
    }

    /// An observer died, or starts: it believes nothing any more.
    pub(crate) fn forget_observer(&mut self, observer: usize) {
        for subject in std::mem::take(&mut self.gone[observer]) {
            self.disbelievers[subject as usize] -= 1;
        }
    }
}
