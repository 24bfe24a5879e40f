//! Where proxies stand, and how long the ways between clusters are.

use std::time::Duration;

/// A POP and its proxies.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its name; its proxies are called after it, with a number from 1.
    pub name: String,
    /// How many proxies it has.
    pub proxies: usize,
}

/// Clusters, and one-way delays between them.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The clusters.
    pub clusters: Vec<Cluster>,
    /// One-way delay between clusters by index; on the diagonal that within a cluster.
    pub delay: Vec<Vec<Duration>>,
}

impl Topology {
    /// `fra`, `nyc` and `sin` with two proxies each, at measured distances.
    #[must_use]
    pub fn three_pops() -> Self {
        let cluster = |name: &str| Cluster { name: name.to_owned(), proxies: 2 };
        let ms = |micros: [u64; 3]| micros.map(Duration::from_micros).to_vec();
        Self {
            clusters: ["fra", "nyc", "sin"].map(cluster).to_vec(),
            delay: vec![
                ms([250, 41_000, 78_000]),
                ms([41_000, 250, 115_000]),
                ms([78_000, 115_000, 250]),
            ],
        }
    }

    /// `clusters` clusters of `proxies` on a circle: neighbours are 5 ms apart.
    #[must_use]
    pub fn circle(clusters: usize, proxies: usize) -> Self {
        let apart = |a: usize, b: usize| a.abs_diff(b).min(clusters - a.abs_diff(b)) as u64;
        let delay = |a, b| Duration::from_micros(250 + 5_000 * apart(a, b));
        Self {
            clusters: (0..clusters).map(|n| Cluster { name: format!("c{n}x"), proxies }).collect(),
            delay: (0..clusters).map(|a| (0..clusters).map(|b| delay(a, b)).collect()).collect(),
        }
    }

    /// Clusters by index, nearest first.
    #[must_use]
    pub fn by_distance(&self, from: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.clusters.len()).collect();
        order.sort_by_key(|&to| (self.delay[from][to], to));
        order
    }
}
