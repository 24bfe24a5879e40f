//! Who takes whom for gone: as the nodes say themselves, event by event.

use std::collections::{BTreeMap, BTreeSet};

use pias_overlay::{GoneWhy, Notice};
use pias_protocol::{ids::ProxyId, time::Time};

use crate::{ids::Ids, topology::Topology};

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

/// What one proxy takes for gone.
#[derive(Clone, Debug, Default)]
struct Gone {
    proxies: BTreeSet<u32>,
    clusters: BTreeSet<u32>,
}

/// Who takes whom for gone.
#[derive(Debug)]
pub struct Beliefs {
    /// By observer.
    gone: Vec<Gone>,
    /// By subject how many take it for gone.
    disbelievers: Vec<u32>,
    /// The cluster of each host, and the first host of each cluster, and one beyond the last.
    cluster_of: Vec<u32>,
    first: Vec<usize>,
    clusters: BTreeMap<String, usize>,
    wrong: Vec<Wrong>,
    wrong_count: u64,
    verdicts: u64,
    singles: u64,
}

impl Beliefs {
    pub(crate) fn new(topology: &Topology, first: &[usize]) -> Self {
        let clusters = topology.clusters.iter().enumerate();
        let cluster_of: Vec<u32> =
            clusters.clone().flat_map(|(n, c)| std::iter::repeat_n(n as u32, c.proxies)).collect();
        Self {
            gone: vec![Gone::default(); cluster_of.len()],
            disbelievers: vec![0; cluster_of.len()],
            cluster_of,
            first: first.to_vec(),
            clusters: clusters.map(|(n, c)| (c.name.clone(), n)).collect(),
            wrong: Vec::new(),
            wrong_count: 0,
            verdicts: 0,
            singles: 0,
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
        let gone = &self.gone[observer];
        gone.proxies.contains(&(subject as u32))
            || gone.clusters.contains(&self.cluster_of[subject])
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

    /// How often a proxy noted that a single other one, not a whole cluster, is dead.
    #[must_use]
    pub const fn single_verdicts(&self) -> u64 {
        self.singles
    }

    pub(crate) fn count_anew(&mut self) {
        self.wrong.clear();
        (self.wrong_count, self.verdicts, self.singles) = (0, 0, 0);
    }

    /// A node says something.
    pub(crate) fn hear(
        &mut self,
        observer: usize,
        notice: &Notice,
        now: Time,
        ids: &Ids,
        innocent: impl Fn(usize) -> bool,
    ) {
        let wrong = |subject, judged| Wrong { at: now, observer, subject, judged };
        match notice {
            Notice::ProxyUp { name, .. } | Notice::ProxyDraining { name } => {
                if let Some(subject) = ids.get(ProxyId::of(name)) {
                    self.change(observer, subject, |gone| gone.proxies.remove(&(subject as u32)));
                }
            }
            Notice::ProxyGone { name, why } => {
                let Some(subject) = ids.get(ProxyId::of(name)) else { return };
                self.change(observer, subject, |gone| gone.proxies.insert(subject as u32));
                let judged = *why == GoneWhy::Silent;
                self.verdicts += u64::from(judged);
                if judged || *why == GoneWhy::Rumour {
                    self.singles += 1;
                    if innocent(subject) {
                        self.accuse(wrong(subject, judged));
                    }
                }
            }
            Notice::ClusterGone { name, .. } => {
                let Some(&cluster) = self.clusters.get(name) else { return };
                self.change_cluster(observer, cluster, true);
                let mut members = self.first[cluster]..self.first[cluster + 1];
                if let Some(subject) = members.find(|&subject| innocent(subject)) {
                    self.accuse(wrong(subject, false));
                }
            }
            Notice::ClusterUp { name, .. } => {
                if let Some(&cluster) = self.clusters.get(name) {
                    self.change_cluster(observer, cluster, false);
                }
            }
            _ => {}
        }
    }

    fn accuse(&mut self, wrong: Wrong) {
        self.wrong_count += 1;
        if self.wrong.len() < KEPT {
            self.wrong.push(wrong);
        }
    }

    /// Changes what an observer believes of a proxy, and the count of those who do.
    fn change(&mut self, observer: usize, subject: usize, act: impl FnOnce(&mut Gone) -> bool) {
        let before = self.takes_for_gone(observer, subject);
        act(&mut self.gone[observer]);
        match (before, self.takes_for_gone(observer, subject)) {
            (false, true) => self.disbelievers[subject] += 1,
            (true, false) => self.disbelievers[subject] -= 1,
            _ => {}
        }
    }

    fn change_cluster(&mut self, observer: usize, cluster: usize, is_gone: bool) {
        let gone = &mut self.gone[observer];
        let number = cluster as u32;
        let changed =
            if is_gone { gone.clusters.insert(number) } else { gone.clusters.remove(&number) };
        if !changed {
            return;
        }
        for subject in self.first[cluster]..self.first[cluster + 1] {
            if self.gone[observer].proxies.contains(&(subject as u32)) {
                continue;
            }
            let count = &mut self.disbelievers[subject];
            *count = if is_gone { *count + 1 } else { *count - 1 };
        }
    }

    /// An observer died, or starts: it believes nothing any more.
    pub(crate) fn forget_observer(&mut self, observer: usize) {
        for cluster in self.gone[observer].clusters.clone() {
            self.change_cluster(observer, cluster as usize, false);
        }
        for subject in std::mem::take(&mut self.gone[observer].proxies) {
            self.disbelievers[subject as usize] -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_gone_by_itself_or_with_its_cluster() {
        let topology = Topology::circle(2, 3);
        let names: Vec<String> = (0..6).map(|n| format!("c{}x{}", n / 3, n % 3 + 1)).collect();
        let ids = Ids::new(names.iter());
        let mut beliefs = Beliefs::new(&topology, &[0, 3, 6]);
        let hear = |beliefs: &mut Beliefs, notice| {
            beliefs.hear(0, &notice, Time::ZERO, &ids, |subject| subject == 5);
        };
        let name = "c1x1".to_owned();
        hear(&mut beliefs, Notice::ProxyGone { name, why: GoneWhy::Rumour });
        assert_eq!((beliefs.disbelievers(3), beliefs.wrong_count()), (1, 0));
        let name = "c1x".to_owned();
        hear(&mut beliefs, Notice::ClusterGone { name: name.clone(), proxies: 3 });
        assert_eq!((3..6).map(|n| beliefs.disbelievers(n)).sum::<usize>(), 3);
        assert_eq!(beliefs.wrong_count(), 1, "one of them runs");
        hear(&mut beliefs, Notice::ClusterUp { name, proxies: 3 });
        assert!(beliefs.takes_for_gone(0, 3) && !beliefs.takes_for_gone(0, 4));
        beliefs.forget_observer(0);
        assert_eq!((0..6).map(|n| beliefs.disbelievers(n)).sum::<usize>(), 0);
    }
}
