//! Which proxy a client joins at: the nearest by routing, of several alike any.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::crowd::Member;
use crate::{random::Draws, topology::Topology};

/// How many proxies stand together in a cluster.
const CLUSTER: usize = 4;

/// How clients are spread over proxies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clients {
    /// They live at the POPs, and reach the nearest proxy. As cities have inhabitants, the second POP
    /// has half as many as the first, the third a third and so on (Zipf's law), in an order drawn by
    /// the seed.
    #[default]
    Cities,
    /// Every proxy has as many, wherever it stands.
    Even,
}

/// Proxies on a topology, and whose clients reach which of them.
#[derive(Debug)]
pub struct Catchment {
    /// The POPs and links, populated.
    pub(super) topology: Topology,
    /// Per POP, the share of clients at it and those before it.
    below: Vec<f64>,
    /// Per POP, the POP with proxies that its clients are routed to.
    nearest: Vec<usize>,
    /// Per POP, its proxies.
    proxies: Vec<Vec<u32>>,
    clients: Clients,
}

impl Catchment {
    /// Places `proxies` in clusters of four at POPs drawn by the seed, and clients.
    #[must_use]
    pub fn new(pops: &Topology, proxies: usize, clients: Clients, seed: u64) -> Self {
        let topology = pops.clone().populated(proxies, CLUSTER, seed);
        let mut at_pop = vec![Vec::new(); topology.pops.len()];
        let mut next = 0;
        for cluster in &topology.clusters {
            at_pop[cluster.pop].extend(next..next + cluster.proxies as u32);
            next += cluster.proxies as u32;
        }
        let sources: Vec<usize> = (0..at_pop.len()).filter(|&p| !at_pop[p].is_empty()).collect();
        Self {
            below: shares(topology.pops.len(), seed),
            nearest: nearest(&topology, &sources),
            proxies: at_pop,
            topology,
            clients,
        }
    }

    /// The proxy that a member's packets reach.
    pub(super) fn proxy(&self, member: &Member) -> usize {
        if self.clients == Clients::Even {
            return (member.flow % self.topology.proxies() as u64) as usize;
        }
        let pop = self.below.partition_point(|&share| share <= member.place);
        let proxies = &self.proxies[self.nearest[pop.min(self.nearest.len() - 1)]];
        proxies[(member.flow % proxies.len() as u64) as usize] as usize
    }

    /// The POP of each proxy.
    pub(super) fn pops(&self) -> Vec<usize> {
        let clusters = self.topology.clusters.iter();
        clusters.flat_map(|cluster| vec![cluster.pop; cluster.proxies]).collect()
    }
}

/// Running sums of the POPs' shares of clients.
fn shares(pops: usize, seed: u64) -> Vec<f64> {
    let mut draws = Draws::new(seed, 0x7A69_7066);
    let mut weights: Vec<f64> = (1..=pops).map(|rank| 1.0 / rank as f64).collect();
    let sum: f64 = weights.iter().sum();
    for n in (1..pops).rev() {
        weights.swap(n, draws.below(n + 1));
    }
    let mut below = 0.0;
    weights
        .iter()
        .map(|weight| {
            below += weight / sum;
            below
        })
        .collect()
}

/// Per POP, the nearest of the sources; of two as near the one of lower index.
fn nearest(topology: &Topology, sources: &[usize]) -> Vec<usize> {
    let mut beside = vec![Vec::new(); topology.pops.len()];
    for link in &topology.links {
        beside[link.a].push((link.b, link.delay));
        beside[link.b].push((link.a, link.delay));
    }
    let mut best = vec![None; topology.pops.len()];
    let mut open: BinaryHeap<_> = sources
        .iter()
        .map(|&source| Reverse((std::time::Duration::ZERO, source, source)))
        .collect();
    while let Some(Reverse((far, source, pop))) = open.pop() {
        if best[pop].is_none() {
            best[pop] = Some(source);
            let further = beside[pop].iter().map(|&(to, delay)| Reverse((far + delay, source, to)));
            open.extend(further.filter(|Reverse((.., to))| best[*to].is_none()));
        }
    }
    best.into_iter().map(|best| best.expect("a topology is connected")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_reach_the_nearest_pop_with_proxies() {
        let circle = Topology::circle(6, 1);
        assert_eq!(nearest(&circle, &[0, 3]), [0, 0, 3, 3, 3, 0]);
    }

    /// How many of 100,000 members each of 200 proxies has, the fewest first.
    fn members(clients: Clients) -> Vec<u32> {
        let catchment = Catchment::new(&Topology::circle(50, 1), 200, clients, 3);
        assert_eq!(catchment.pops().len(), 200);
        let mut draws = Draws::new(1, 1);
        let mut members = vec![0_u32; 200];
        for _ in 0..100_000 {
            let member = Member { place: draws.unit(), flow: draws.next() };
            members[catchment.proxy(&member)] += 1;
        }
        members.sort_unstable();
        members
    }

    #[test]
    fn all_proxies_of_a_pop_share_its_clients_and_pops_have_few_or_many() {
        let members = members(Clients::Cities);
        assert!(members[0] > 0 && members[199] > 20 * members[0], "{members:?}");
    }

    #[test]
    fn evenly_spread_clients_are_as_many_at_every_proxy() {
        let members = members(Clients::Even);
        assert!(members[0] > 350 && members[199] < 650, "{members:?}");
    }
}
