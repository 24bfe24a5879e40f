//! Many runs: for each number of proxies and each band, averaged over seeds.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    catchment::{Catchment, Clients},
    crowd::Crowd,
    flash::{Flash, Heard, run},
};
use crate::topology::Topology;

/// The bands of the figures, in percent.
pub const BANDS: [u8; 6] = [0, 10, 25, 50, 75, 100];

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Study<'a> {
    /// The POPs and their links; proxies are placed by each seed.
    pub pops: &'a Topology,
    /// How clients are spread over proxies.
    pub clients: Clients,
    /// Numbers of proxies.
    pub proxies: &'a [usize],
    /// How many seeds to average over.
    pub runs: usize,
    /// The first seed.
    pub seed: u64,
    /// How long the event lasts.
    pub length: Duration,
    /// The bands of which one more run of the first seed is made, with refreshes.
    pub refreshed: &'a [u8],
    /// How many runs at once. It changes nothing but the time.
    pub jobs: usize,
}

/// A mean and a standard deviation over runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// The standard deviation; 0 of a single run.
    pub deviation: f64,
}

/// What RAPs heard in the run with refreshes, per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refreshed {
    /// Reports of changes.
    pub changes: f64,
    /// Refreshes.
    pub refreshes: f64,
}

/// One number of proxies, one band.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// How many proxies.
    pub proxies: usize,
    /// The band, in percent.
    pub band: u8,
    /// Reports of changes per second, over the whole event.
    pub per_second: Mean,
    /// Reports of changes in each minute, averaged over the runs.
    pub minutes: Vec<f64>,
    /// Where a run with refreshes was made.
    pub refreshed: Option<Refreshed>,
}

/// One number of proxies, one seed: by band without refreshes, and those asked for with.
type Job = (Vec<Heard>, Vec<(u8, Heard)>);

impl Study<'_> {
    /// Runs all; `done` is told how many of how many jobs are done.
    pub fn run(&self, done: impl Fn(usize, usize) + Sync) -> Vec<Cell> {
        let jobs = self.proxies.len() * self.runs;
        let (next, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let results: Mutex<Vec<Option<Job>>> = Mutex::new(vec![None; jobs]);
        let work = || {
            loop {
                // The last ones, of the most proxies, take longest: they go first.
                let n = next.fetch_add(1, Ordering::Relaxed);
                let Some(n) = jobs.checked_sub(n + 1) else { return };
                let job = self.job(self.proxies[n / self.runs], n % self.runs);
                results.lock().unwrap_or_else(PoisonError::into_inner)[n] = Some(job);
                done(finished.fetch_add(1, Ordering::Relaxed) + 1, jobs);
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(work);
            }
        });
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        let results: Vec<Job> = results.into_iter().flatten().collect();
        let per_proxies = self.proxies.iter().zip(results.chunks(self.runs));
        per_proxies.flat_map(|(&proxies, runs)| self.cells(proxies, runs)).collect()
    }

    /// All bands see the same crowd at the same places.
    fn job(&self, proxies: usize, n: usize) -> Job {
        let seed = self.seed + n as u64;
        let crowd = Crowd::new(seed, self.length);
        let catchment = Catchment::new(self.pops, proxies, self.clients, seed);
        let heard = |band, refreshes| run(&crowd, &catchment, Flash { seed, band, refreshes });
        let refreshed = if n == 0 { self.refreshed } else { &[] };
        (
            BANDS.iter().map(|&band| heard(band, false)).collect(),
            refreshed.iter().map(|&band| (band, heard(band, true))).collect(),
        )
    }

    fn cells(&self, proxies: usize, runs: &[Job]) -> Vec<Cell> {
        let seconds = self.length.as_secs_f64();
        let rate = |messages: &[u64]| messages.iter().sum::<u64>() as f64 / seconds;
        let cell = |(n, &band): (usize, &u8)| {
            let heard: Vec<&Heard> = runs.iter().map(|(by_band, _)| &by_band[n]).collect();
            let rates: Vec<f64> = heard.iter().map(|heard| rate(&heard.changes)).collect();
            let refreshed = runs.iter().flat_map(|(_, refreshed)| refreshed);
            Cell {
                proxies,
                band,
                per_second: Mean::of(&rates),
                minutes: minutes(&heard),
                refreshed: refreshed
                    .filter(|(of, _)| *of == band)
                    .map(|(_, heard)| heard)
                    .next()
                    .map(|heard| Refreshed {
                        changes: rate(&heard.changes),
                        refreshes: rate(&heard.refreshes),
                    }),
            }
        };
        BANDS.iter().enumerate().map(cell).collect()
    }
}

impl Mean {
    fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
        let deviation = if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 };
        Self { mean, deviation }
    }
}

fn minutes(runs: &[&Heard]) -> Vec<f64> {
    let Some(first) = runs.first() else { return Vec::new() };
    let minute = |n: usize| runs.iter().map(|heard| heard.changes[n]).sum::<u64>() as f64;
    (0..first.changes.len()).map(|n| minute(n) / runs.len() as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_knows_its_deviation() {
        assert_eq!(Mean::of(&[1.0, 2.0, 3.0]), Mean { mean: 2.0, deviation: 1.0 });
        assert_eq!(Mean::of(&[5.0]), Mean { mean: 5.0, deviation: 0.0 });
    }

    #[test]
    fn how_many_runs_go_at_once_changes_nothing() {
        let pops = Topology::circle(8, 1);
        let study = Study {
            pops: &pops,
            clients: Clients::Cities,
            proxies: &[8, 40],
            runs: 2,
            seed: 1,
            length: Duration::from_secs(120),
            refreshed: &[25],
            jobs: 1,
        };
        let cells = study.run(|_, _| {});
        assert_eq!(cells, Study { jobs: 2, ..study }.run(|_, _| {}));
        assert_eq!(cells.len(), 2 * BANDS.len());
        assert_eq!(cells.iter().filter(|cell| cell.refreshed.is_some()).count(), 2);
    }
}
