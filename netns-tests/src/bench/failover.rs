//! `pias-lab bench-failover`: what users of established connections notice when
//! the join proxy that carries them crashes.
//!
//! ```text
//! c-fra ══ 500 connections ══► fra1 or fra2 ══► join proxy, killed ══► fra-t1
//! ```
//! The rows join those of `pias-sim bench` in one file.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use clap::Args;
use serde_json::Value;

use super::report::Row;
use super::{BenchError, limits};
use crate::host::Signal;
use crate::join::Join;
use crate::lab::{Lab, Options};
use crate::tool::clock;
use crate::topology::Topology;
use crate::wait::wait_until;

/// Connections through the join proxy.
const CONNECTIONS: usize = 500;

/// The group, and where its echo server listens.
const GROUP: &str = "203.0.113.10:7007";

const ECHO_PORT: &str = "7007";

/// Time that connections are old before the crash: flow records are replicated
/// for those older than a second.
const SETTLED: Duration = Duration::from_secs(4);

/// Time that they are watched after it.
const WATCHED: Duration = Duration::from_secs(8);

/// A pause that users put up with.
const PAUSE_GOAL_MS: f64 = 1000.0;

/// How to measure.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The file that the rows go into, as JSON; its other rows stay
    #[arg(long, value_name = "FILE", default_value = "target/bench/overlay.json")]
    output: PathBuf,
    /// Crashes, one after another; the worst counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
}

/// What a crash did.
#[derive(Debug, Clone, Copy)]
struct Crash {
    lost: usize,
    pause: Duration,
}

/// Measures, prints the rows and writes them.
pub(super) fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let mut lab = Lab::up(&Topology::three_pops(), &Options::default())?;
    let target = lab.host("fra-t1");
    target.spawn("echo", &["pias-lab", "tool", "echo", ECHO_PORT])?;
    let join = target.join(&format!("{GROUP}/tcp"), &[])?;
    join.wait_resolvable()?;
    let mut crashes = Vec::new();
    for round in 1..=arguments.rounds {
        let crash = crash(&lab, &join)?;
        eprintln!("round {round} of {}: {crash:?}", arguments.rounds);
        crashes.push(crash);
    }
    join.leave()?;
    let logs = lab.logs();
    lab.down().map_err(|source| BenchError::TimedOut { source, logs })?;
    let rows = rows(&crashes);
    for row in &rows {
        let (name, value, unit) = (&row.name, row.value, row.unit);
        let verdict = if row.holds == Some(true) { "holds" } else { "DOES NOT HOLD" };
        println!("{name}: {value} {unit}, goal at most {}: {verdict}", row.goal.unwrap_or(0.0));
    }
    merge(&arguments.output, &rows)
}

/// Kills the target's join proxy under its connections, and starts it again.
fn crash(lab: &Lab, join: &Join<'_>) -> Result<Crash, BenchError> {
    let joins = join.joins();
    let proxy = joins.last().map(|joined| joined.proxy.clone()).unwrap_or_default();
    let crowd = lab.host("c-fra").hold(GROUP, CONNECTIONS, &["--every", "100ms"])?;
    crowd.watch_until(clock() + SETTLED)?;
    let event = clock();
    lab.host(&proxy).kill("piasd", Signal::SIGKILL)?;
    join.wait_rejoined(WATCHED, joins.len())?;
    crowd.watch_until(event + WATCHED)?;
    let held = crowd.stop()?.since(event);
    lab.host(&proxy).restart("piasd")?;
    let logs = lab.logs();
    lab.wait_proxies().map_err(|source| BenchError::NotReady { source, logs: logs.clone() })?;
    let back = || {
        let proxies = lab.host(&proxy).piasctl(&["proxies"]).unwrap_or_default();
        let rows = proxies["proxies"].as_array().cloned().unwrap_or_default();
        !rows.is_empty() && rows.iter().all(|row| row["state"] == "up")
    };
    wait_until(limits::CHANGE_LIMIT, format!("{proxy} to know all others"), back)
        .map_err(|source| BenchError::TimedOut { source, logs })?;
    Ok(Crash { lost: CONNECTIONS - held.open(), pause: held.longest_pause() })
}

/// The worst of all crashes.
fn rows(crashes: &[Crash]) -> [Row; 2] {
    let what = "a JAP's crash, 500 established TCP connections through it";
    let lost = crashes.iter().map(|crash| crash.lost).max().unwrap_or(0) as f64;
    let pause = crashes.iter().map(|crash| crash.pause).max().unwrap_or_default();
    [
        Row::at_most(format!("{what}: lost"), lost, "connections", 0.0),
        Row::at_most(
            format!("{what}: longest pause"),
            pause.as_secs_f64() * 1e3,
            "ms",
            PAUSE_GOAL_MS,
        ),
    ]
}

/// Puts rows into a file of rows: those of the same name are replaced, all
/// others stay as they are.
fn merge(path: &Path, rows: &[Row]) -> Result<(), BenchError> {
    let failed = |source| BenchError::File { path: path.to_owned(), source };
    let before = match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| failed(error.into()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(failed(error)),
    };
    let merged = merged(before, rows).map_err(|error| failed(error.into()))?;
    super::write_rows(path, &merged)
}

fn merged(before: Vec<Value>, rows: &[Row]) -> Result<Vec<Value>, serde_json::Error> {
    let is_new = |row: &Value| !rows.iter().any(|new| row["name"] == new.name.as_str());
    let mut all: Vec<_> = before.into_iter().filter(is_new).collect();
    for row in rows {
        all.push(serde_json::to_value(row)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_crash_counts_and_rows_of_the_same_name_are_replaced() {
        let crash = |lost, ms| Crash { lost, pause: Duration::from_millis(ms) };
        let rows = rows(&[crash(0, 900), crash(2, 400)]);
        assert_eq!((rows[0].value, rows[0].holds), (2.0, Some(false)));
        assert_eq!((rows[1].value, rows[1].holds), (900.0, Some(true)));
        let mine = serde_json::json!({"name": rows[0].name, "value": 7.0});
        let other = serde_json::json!({"name": "another suite's", "value": 1.0});
        let merged = merged(vec![mine, other.clone()], &rows).expect("rows are JSON");
        assert_eq!(merged.len(), 3);
        assert_eq!(merged[0], other);
        assert_eq!(merged[1]["value"], 2.0);
    }
}
