//! Where proxies stand: POPs, the links between them, and clusters of proxies at POPs.

mod read;
mod synthetic;

use std::{collections::BTreeSet, time::Duration};

pub use read::{ReadError, read};

use crate::random::Draws;

/// One-way delay between two proxies at one POP.
pub const WITHIN: Duration = Duration::from_micros(250);

/// A place where clusters may be: its name, in letters, digits and hyphens, ends in a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pop {
    /// Its name.
    pub name: String,
}

/// A link between two POPs, by index; both ways alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// One end.
    pub a: usize,
    /// The other.
    pub b: usize,
    /// One-way delay.
    pub delay: Duration,
}

/// The proxies of one operator at a POP, which watch each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name; its proxies are called after it, with a number from 1.
    pub name: String,
    /// How many proxies it has.
    pub proxies: usize,
    /// At which POP.
    pub pop: usize,
}

/// POPs and links, and the clusters at them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The POPs.
    pub pops: Vec<Pop>,
    /// The links; every POP is reached from every other.
    pub links: Vec<Link>,
    /// The clusters.
    pub clusters: Vec<Cluster>,
}

impl Topology {
    /// `fra`, `nyc` and `sin` with two proxies each, at measured distances.
    #[must_use]
    pub fn three_pops() -> Self {
        let link = |a, b, micros| Link { a, b, delay: Duration::from_micros(micros) };
        Self::one_each(
            ["fra", "nyc", "sin"].map(str::to_owned).to_vec(),
            vec![link(0, 1, 41_000), link(0, 2, 78_000), link(1, 2, 115_000)],
            2,
        )
    }

    /// `clusters` clusters of `proxies` on a circle: neighbours are 5 ms apart.
    #[must_use]
    pub fn circle(clusters: usize, proxies: usize) -> Self {
        let link = |a: usize| Link { a, b: (a + 1) % clusters, delay: Duration::from_millis(5) };
        let names = (0..clusters).map(|n| format!("c{n}x")).collect();
        Self::one_each(names, (0..clusters).map(link).collect(), proxies)
    }

    /// POPs on a sphere, after a seed: see `synthetic.rs`. Without clusters yet.
    #[must_use]
    pub fn synthetic(pops: usize, seed: u64) -> Self {
        synthetic::sphere(pops, seed)
    }

    fn one_each(names: Vec<String>, links: Vec<Link>, proxies: usize) -> Self {
        let pops = names.into_iter().map(|name| Pop { name }).collect();
        let mut topology = Self { pops, links, clusters: Vec::new() };
        topology.clusters = (0..topology.pops.len())
            .map(|pop| Cluster { name: topology.pops[pop].name.clone(), proxies, pop })
            .collect();
        topology
    }

    /// Places `proxies` in clusters of `size` (the last one may be smaller) at POPs drawn by the
    /// seed: every POP gets one cluster before any gets a second.
    ///
    /// # Panics
    /// If there is no POP, or `size` is 0.
    #[must_use]
    pub fn populated(mut self, proxies: usize, size: usize, seed: u64) -> Self {
        assert!(!self.pops.is_empty() && size > 0, "clusters need POPs and proxies");
        let mut order: Vec<usize> = (0..self.pops.len()).collect();
        let mut draws = Draws::new(seed, 0x706F_7073);
        for n in (1..order.len()).rev() {
            order.swap(n, draws.below(n + 1));
        }
        let count = proxies.div_ceil(size);
        self.clusters = (0..count)
            .map(|n| {
                let (pop, round) = (order[n % order.len()], n / order.len());
                let name = match round {
                    0 => self.pops[pop].name.clone(),
                    _ => format!("{}-{round}x", self.pops[pop].name),
                };
                Cluster { name, proxies: size.min(proxies - n * size), pop }
            })
            .collect();
        self
    }

    /// How many proxies there are.
    #[must_use]
    pub fn proxies(&self) -> usize {
        self.clusters.iter().map(|cluster| cluster.proxies).sum()
    }

    /// Leaves out what is not linked to the largest part.
    fn connected(self) -> Self {
        let part = largest_part(self.pops.len(), &self.links);
        let kept: Vec<usize> = part.iter().copied().collect();
        let renumber = |old: usize| kept.binary_search(&old).ok();
        let link = |link: &Link| {
            Some(Link { a: renumber(link.a)?, b: renumber(link.b)?, delay: link.delay })
        };
        Self {
            pops: kept.iter().map(|&pop| self.pops[pop].clone()).collect(),
            links: self.links.iter().filter_map(link).collect(),
            clusters: Vec::new(),
        }
    }
}

/// The POPs of the largest connected part.
fn largest_part(pops: usize, links: &[Link]) -> BTreeSet<usize> {
    let mut beside = vec![Vec::new(); pops];
    for link in links {
        beside[link.a].push(link.b);
        beside[link.b].push(link.a);
    }
    let (mut seen, mut largest) = (vec![false; pops], BTreeSet::new());
    for start in 0..pops {
        if seen[start] {
            continue;
        }
        seen[start] = true;
        let (mut part, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(pop) = open.pop() {
            part.insert(pop);
            for &next in &beside[pop] {
                if !std::mem::replace(&mut seen[next], true) {
                    open.push(next);
                }
            }
        }
        if part.len() > largest.len() {
            largest = part;
        }
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_spread_over_all_pops_first() {
        let topology = Topology::circle(10, 1).populated(50, 4, 1);
        assert_eq!(topology.proxies(), 50);
        assert_eq!(topology.clusters.len(), 13);
        let first: BTreeSet<_> = topology.clusters[..10].iter().map(|c| c.pop).collect();
        assert_eq!(first.len(), 10);
        let names: BTreeSet<_> = topology.clusters.iter().map(|c| &c.name).collect();
        assert_eq!(names.len(), 13);
        assert_eq!(topology.clusters[12].proxies, 2);
    }

    #[test]
    fn a_synthetic_topology_is_connected_and_repeats_with_its_seed() {
        let topology = Topology::synthetic(300, 5);
        assert_eq!(largest_part(300, &topology.links).len(), 300);
        assert_eq!(topology, Topology::synthetic(300, 5));
        assert_ne!(topology, Topology::synthetic(300, 6));
        assert!(topology.links.iter().all(|link| link.delay < Duration::from_millis(150)));
    }
}
