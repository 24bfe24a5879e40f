//! The figures of the overlay's membership, measured in the simulator.
//!
//! Four worlds, two of them at a time:
//!
//! ```text
//!  memory   one node alone, with the tables of all           what membership costs
//!  pops     some hundred clusters, one crash in each          how soon mates know
//!  all      as many proxies as asked for                      idle traffic, crashes, a POP's loss
//!  day      a thousand proxies with loss and pauses           who is wrongly declared down
//! ```

mod all;
mod day;
mod memory;
mod pops;
pub mod report;

use std::{path::PathBuf, thread, time::Duration};

use self::report::Row;
use crate::topology::{ReadError, Topology, read};

/// Proxies of the world with loss and pauses.
const DAY_PROXIES: usize = 1_000;
/// Clusters of the world with one crash in each.
const POPS: usize = 200;

/// One of the worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// One node with the tables of all.
    Memory,
    /// Some hundred clusters with one crash in each.
    Pops,
    /// As many proxies as asked for.
    All,
    /// A thousand proxies with loss and pauses.
    Day,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Memory, Self::Pops, Self::All, Self::Day];
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// In which worlds.
    pub parts: Vec<Part>,
    /// How many proxies there are where all are asked for.
    pub proxies: usize,
    /// How many of them a cluster has.
    pub cluster_size: usize,
    /// How long the run with loss and pauses lasts, simulated.
    pub day: Duration,
    /// A file with POPs; without one they are made from the seed.
    pub topology: Option<PathBuf>,
    /// What all chance comes from.
    pub seed: u64,
}

impl Options {
    /// Proxies placed on the topology that was asked for.
    fn place(&self, proxies: usize) -> Result<Topology, ReadError> {
        let clusters = proxies.div_ceil(self.cluster_size);
        let topology = match &self.topology {
            Some(path) => read(path)?,
            None => Topology::synthetic(clusters, self.seed),
        };
        Ok(topology.populated(proxies, self.cluster_size, self.seed))
    }
}

/// Measures what is asked for; tells its progress on the standard error.
///
/// # Errors
/// Where the topology cannot be read.
pub fn run(options: &Options) -> Result<Vec<Row>, ReadError> {
    let wanted = |part| options.parts.contains(&part);
    let place = |part, proxies| wanted(part).then(|| options.place(proxies)).transpose();
    let mut rows = Vec::new();
    if wanted(Part::Memory) {
        // Before anything else took memory: it is read off the process.
        rows.extend(memory::measure(options.proxies, options.cluster_size));
    }
    let pops = place(Part::Pops, POPS * options.cluster_size)?;
    let all = place(Part::All, options.proxies)?;
    let day = place(Part::Day, DAY_PROXIES)?;
    let long = thread::scope(|scope| {
        let day = scope.spawn(|| day.map(|day| day::measure(day, options.seed, options.day)));
        rows.extend(pops.into_iter().flat_map(|pops| pops::measure(pops, options.seed)));
        rows.extend(all.into_iter().flat_map(|all| all::measure(all, options.seed)));
        day.join()
    });
    match long {
        Ok(day) => rows.extend(day.into_iter().flatten()),
        Err(panic) => std::panic::resume_unwind(panic),
    }
    Ok(rows)
}

/// The value below which `share` of all lie; 0 of none.
fn quantile(values: &mut [Duration], share: f64) -> Duration {
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    let index = ((values.len() as f64 * share).ceil() as usize).saturating_sub(1).min(last);
    values.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_value_that_so_many_do_not_exceed() {
        let mut values: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(quantile(&mut values, 0.99), Duration::from_millis(198));
        assert_eq!(quantile(&mut values, 1.0), Duration::from_millis(200));
        assert_eq!(quantile(&mut [], 0.5), Duration::ZERO);
    }
}
