//! Crowds of users while things break, and what they would have noticed: many
//! connections (`pias-lab tool hold`) and many questions (`... query`).

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;

use crate::host::Host;
use crate::stream::StreamError;
use crate::tool::{FailedQuery, HoldReport, QueryReport, clock};
use crate::wait::{TimedOut, wait_until};

/// Time that a crowd gets to begin, to report and to end.
const CROWD_LIMIT: Duration = Duration::from_secs(20);

/// A report in lines of JSON, one after another.
pub trait Report: DeserializeOwned {
    /// When it was made, in ms since the epoch.
    fn at_ms(&self) -> f64;
}

impl Report for HoldReport {
    fn at_ms(&self) -> f64 {
        self.at_ms
    }
}

impl Report for QueryReport {
    fn at_ms(&self) -> f64 {
        self.at_ms
    }
}

/// A load on the service that runs on a host until it is stopped.
#[derive(Debug)]
pub struct Crowd<'lab, R> {
    host: Host<'lab>,
    process: String,
    report: PhantomData<R>,
}

/// What a crowd reported, in order.
#[derive(Debug, Clone)]
pub struct Reports<R>(Vec<R>);

impl<'lab> Host<'lab> {
    /// Holds this many TCP connections to the echo server at `AA:port` and
    /// keeps them busy; `words` are further arguments of `pias-lab tool hold`.
    /// Returns when all are open.
    pub fn hold(
        &self,
        service: &str,
        count: usize,
        words: &[&str],
    ) -> Result<Crowd<'lab, HoldReport>, StreamError> {
        let count = count.to_string();
        self.crowd("hold", &[&[service, "--count", &count], words].concat())
    }

    /// Asks the DNS services at these `AA:port`s in turn, this many questions a
    /// second, each a new flow with a second for its answer. Returns when some
    /// were asked.
    pub fn query(
        &self,
        services: &[&str],
        rate: u32,
    ) -> Result<Crowd<'lab, QueryReport>, StreamError> {
        self.crowd("query", &[services, &["--rate", &rate.to_string()]].concat())
    }

    fn crowd<R: Report>(&self, tool: &str, words: &[&str]) -> Result<Crowd<'lab, R>, StreamError> {
        let process = format!("{tool}-{}", clock().as_micros());
        self.spawn(&process, &[&["pias-lab", "tool", tool], words].concat())?;
        let crowd = Crowd { host: self.clone(), process, report: PhantomData };
        crowd.watch_until(Duration::ZERO)?;
        Ok(crowd)
    }
}

impl<R: Report> Crowd<'_, R> {
    /// What it reported so far.
    pub fn reports(&self) -> Reports<R> {
        Reports::parse(&self.host.log(&self.process))
    }

    /// Lets it go on until it has reported what happened up to `moment` (time
    /// since the epoch).
    pub fn watch_until(&self, moment: Duration) -> Result<(), StreamError> {
        let waited = wait_until(
            CROWD_LIMIT + moment.saturating_sub(clock()),
            format!("{} to go on", self.process),
            || self.reports().0.last().is_some_and(|last| last.at_ms() >= millis(moment)),
        );
        waited.map(|_| ()).map_err(|source| self.timed_out(source))
    }

    /// Ends it; returns its reports.
    pub fn stop(self) -> Result<Reports<R>, StreamError> {
        self.host.kill(&self.process, Signal::SIGKILL)?;
        wait_until(CROWD_LIMIT, "the crowd to go", || !self.host.runs(&self.process))
            .map_err(|source| self.timed_out(source))?;
        Ok(self.reports())
    }

    fn timed_out(&self, source: TimedOut) -> StreamError {
        let client = format!("{} on {}", self.process, self.host.name());
        let last = self.host.log(&self.process).lines().last().unwrap_or_default().to_owned();
        StreamError::TimedOut { source, client, last }
    }
}

impl<R: Report> Reports<R> {
    /// Reads what the tool printed; a line that is cut is left out.
    pub fn parse(log: &str) -> Self {
        Self(log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Those made at `moment` (time since the epoch) or later.
    pub fn since(self, moment: Duration) -> Self {
        Self(self.0.into_iter().filter(|report| report.at_ms() >= millis(moment)).collect())
    }
}

fn millis(moment: Duration) -> f64 {
    moment.as_secs_f64() * 1e3
}

impl Reports<HoldReport> {
    /// Connections that are open at the end.
    pub fn open(&self) -> usize {
        self.0.last().map_or(0, |report| report.open)
    }

    /// How many connections ended in each way.
    pub fn lost(&self) -> BTreeMap<String, usize> {
        let mut lost = BTreeMap::new();
        for reason in self.0.iter().flat_map(|report| report.lost.values()) {
            *lost.entry(reason.clone()).or_default() += 1;
        }
        lost
    }

    /// Echoes heard.
    pub fn words(&self) -> u64 {
        self.0.iter().map(|report| report.words).sum()
    }

    /// The longest time that a connection waited for an echo.
    pub fn longest_pause(&self) -> Duration {
        let longest = self.0.iter().map(|report| report.longest_ms).fold(0.0, f64::max);
        Duration::from_secs_f64(longest / 1e3)
    }

    /// How long after `event` (time since the epoch) the last connection was
    /// reported lost; zero if none was.
    pub fn last_loss(&self, event: Duration) -> Duration {
        let lossy = self.0.iter().filter(|report| !report.lost.is_empty());
        let last = lossy.map(|report| report.at_ms - millis(event)).fold(0.0, f64::max);
        Duration::from_secs_f64(last / 1e3)
    }
}

impl Reports<QueryReport> {
    /// Questions asked.
    pub fn asked(&self) -> u64 {
        self.0.iter().map(|report| report.asked).sum()
    }

    /// How many answers each target gave.
    pub fn by_target(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (target, answers) in self.0.iter().flat_map(|report| &report.answers) {
            *counts.entry(target.clone()).or_default() += answers;
        }
        counts
    }

    /// How many questions failed in each way.
    pub fn failures(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for failed in self.failed() {
            *counts.entry(failed.reason.clone()).or_default() += 1;
        }
        counts
    }

    /// When the first and the last question were asked that failed, after
    /// `event` (both times since the epoch).
    pub fn outage(&self, event: Duration) -> Option<(Duration, Duration)> {
        let since = |failed: &FailedQuery| failed.asked_ms - millis(event);
        let first = self.failed().map(since).min_by(f64::total_cmp)?;
        let last = self.failed().map(since).max_by(f64::total_cmp)?;
        let at = |ms: f64| Duration::from_secs_f64(ms.max(0.0) / 1e3);
        Some((at(first), at(last)))
    }

    /// For each service of which questions failed: how long after `event` (time
    /// since the epoch) the last of those was asked.
    pub fn outage_of_each(&self, event: Duration) -> BTreeMap<SocketAddr, Duration> {
        let mut outages = BTreeMap::new();
        for failed in self.failed() {
            let after = Duration::from_secs_f64((failed.asked_ms - millis(event)).max(0.0) / 1e3);
            let outage = outages.entry(failed.to).or_insert(after);
            *outage = after.max(*outage);
        }
        outages
    }

    fn failed(&self) -> impl Iterator<Item = &FailedQuery> {
        self.0.iter().flat_map(|report| &report.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn losses_and_pauses_are_those_since_the_event() {
        let log = r#"{"at_ms":100,"open":3,"words":9,"longest_ms":700,"lost":{}}
{"at_ms":300,"open":2,"words":4,"longest_ms":40,"lost":{"4001":"reset"}}
{"at_ms":500,"open":2,"words":5,"longest_ms":30,"lost":{}}
{"at_ms":70"#;
        let reports = Reports::<HoldReport>::parse(log).since(AT(200));
        assert_eq!((reports.open(), reports.words()), (2, 9));
        assert_eq!(reports.longest_pause(), AT(40));
        assert_eq!(reports.lost()["reset"], 1);
        assert_eq!(reports.last_loss(AT(200)), AT(100));
    }

    #[test]
    fn an_outage_lasts_from_the_first_failure_to_the_last() {
        let log = r#"{"at_ms":100,"asked":20,"answers":{"a":20},"slowest_ms":1,"failed":[]}
{"at_ms":500,"asked":2,"answers":{},"slowest_ms":1,"failed":[{"asked_ms":260,"to":"203.0.113.9:53","port":1,"reason":"silence"},{"asked_ms":270,"to":"203.0.113.9:53","port":2,"reason":"refused"}]}"#;
        let reports = Reports::<QueryReport>::parse(log);
        assert_eq!(reports.outage(AT(250)), Some((AT(10), AT(20))));
        assert_eq!(reports.outage_of_each(AT(250)).into_values().collect::<Vec<_>>(), [AT(20)]);
        assert_eq!(reports.asked(), 22);
        assert_eq!(reports.by_target()["a"], 20);
        assert_eq!(reports.failures().values().sum::<usize>(), 2);
    }
}
