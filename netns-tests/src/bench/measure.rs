//! Measures one candidate once.

use std::time::Duration;

use serde::de::DeserializeOwned;

use super::BenchError;
use super::baseline::own_path;
use super::candidate::Candidate;
use super::figures::Figures;
use super::limits::{CHANGE_LIMIT, GRACE};
use super::load::{ConnectReport, RateReport, RttReport};
use super::metric::Metric;
use super::places::{ACCEPT_PORT, BULK_PORT, CLIENT, ECHO_PORT, at};
use crate::host::Output;
use crate::lab::Lab;
use crate::wait::{wait_for, wait_until};

/// How long each part of a turn takes.
#[derive(Debug)]
pub(super) struct Effort {
    round_trips: usize,
    round_trip_time: Duration,
    rate_time: Duration,
    bulk_time: Duration,
    connect_time: Duration,
}

impl Effort {
    /// For figures that mean something.
    pub(super) const FULL: Effort = Effort {
        round_trips: 50_000,
        round_trip_time: Duration::from_secs(5),
        rate_time: Duration::from_secs(3),
        bulk_time: Duration::from_secs(4),
        connect_time: Duration::from_secs(3),
    };

    /// To see that everything works.
    pub(super) const QUICK: Effort = Effort {
        round_trips: 2_000,
        round_trip_time: Duration::from_secs(1),
        rate_time: Duration::from_millis(500),
        bulk_time: Duration::from_secs(1),
        connect_time: Duration::from_millis(500),
    };
}

/// Measures a candidate that is started.
pub(super) fn measure(
    lab: &Lab,
    candidate: Candidate,
    effort: &Effort,
    figures: &mut Figures,
) -> Result<(), BenchError> {
    let load = |words: &[&str], time| load(lab, candidate, words, time);
    let echo = at(candidate.address(), ECHO_PORT);
    let accept = at(candidate.address(), ACCEPT_PORT);

    let (count, time) = (effort.round_trips.to_string(), effort.round_trip_time);
    let words = ["udp-rtt", &echo, "--count", &count];
    let rtt: RttReport = parse(candidate, &words, &load(&words, time)?)?;
    figures.add(Metric::RoundTripMedian, candidate, rtt.p50 as f64 / 1e3);
    figures.add(Metric::RoundTripTail, candidate, rtt.p99 as f64 / 1e3);
    figures.note_losses(candidate, "round trips lost", rtt.lost as u64, rtt.samples as u64);

    let words = ["udp-rate", &echo];
    let rate: RateReport = parse(candidate, &words, &load(&words, effort.rate_time)?)?;
    figures.add(Metric::Replies, candidate, rate.per_second);
    figures.note_losses(candidate, "requests lost at saturation", rate.lost, rate.replies);

    for (metric, reverse) in [(Metric::BulkToTarget, false), (Metric::BulkToClient, true)] {
        let (gigabits, failures) = bulk(lab, candidate, reverse, effort.bulk_time)?;
        figures.add(metric, candidate, gigabits);
        figures.note_losses(candidate, "attempts of iperf3 turned away", failures, 1);
    }

    let words = ["tcp-connect", &accept, "--count", "10000000"];
    let connect: ConnectReport = parse(candidate, &words, &load(&words, effort.connect_time)?)?;
    figures.add(Metric::Connections, candidate, connect.per_second);
    figures.note_losses(candidate, "connections failed", connect.failed, connect.connections);
    Ok(())
}

/// Waits until the client is served at the candidate's address.
pub(super) fn wait_served(lab: &Lab, candidate: Candidate) -> Result<(), BenchError> {
    let echo = at(candidate.address(), ECHO_PORT);
    let accept = at(candidate.address(), ACCEPT_PORT);
    let probes: [&[&str]; 2] =
        [&["udp-rtt", &echo, "--count", "1"], &["tcp-connect", &accept, "--count", "1"]];
    let what = format!("{} to serve the client", candidate.title());
    wait_until(CHANGE_LIMIT, what, || {
        let served = |words: &&[&str]| {
            load(lab, candidate, words, Duration::from_millis(500))
                .is_ok_and(|output| output.success())
        };
        probes.iter().all(served)
    })
    .map(|_| ())
    .map_err(|source| BenchError::TimedOut { source, logs: lab.logs() })
}

/// Runs a load generator for `time` on the client.
fn load(
    lab: &Lab,
    candidate: Candidate,
    words: &[&str],
    time: Duration,
) -> Result<Output, BenchError> {
    let (program, lasting) = (own_path()?, format!("{}ms", time.as_millis()));
    let mut command = vec![program.as_str(), "load"];
    command.extend(words);
    command.extend(["--time", &lasting]);
    let output = lab.host(CLIENT).run_for(2 * time + GRACE, &command);
    output.map_err(|error| failed(candidate, words, &error.to_string()))
}

fn parse<T: DeserializeOwned>(
    candidate: Candidate,
    words: &[&str],
    output: &Output,
) -> Result<T, BenchError> {
    if !output.success() {
        return Err(failed(candidate, words, output.stderr.trim()));
    }
    serde_json::from_str(&output.stdout)
        .map_err(|error| failed(candidate, words, &error.to_string()))
}

fn failed(candidate: Candidate, words: &[&str], message: &str) -> BenchError {
    BenchError::Measurement {
        candidate: candidate.title(),
        command: words.join(" "),
        message: message.to_owned(),
    }
}

/// Gb/s that arrived of one TCP stream, and how many attempts failed before.
/// An iperf3 server serves one client, and turns the next one away until it is
/// done with the one before; behind a proxy that looks like a broken
/// connection.
fn bulk(
    lab: &Lab,
    candidate: Candidate,
    reverse: bool,
    time: Duration,
) -> Result<(f64, u64), BenchError> {
    let (address, port) = (candidate.address().to_string(), BULK_PORT.to_string());
    let seconds = time.as_secs().to_string();
    let mut words = vec!["iperf3", "-J", "-c", &address, "-p", &port, "-t", &seconds];
    if reverse {
        words.push("-R");
    }
    let client = lab.host(CLIENT);
    let (mut attempts, mut last) = (0, String::new());
    let attempt = || {
        attempts += 1;
        let output = client.run_for(2 * time + GRACE, &words);
        let text = output.map(|output| output.stdout).map_err(|error| error.to_string());
        text.and_then(|text| arrived(&text)).map_err(|message| last = message).ok()
    };
    match wait_for(CHANGE_LIMIT, "iperf3", attempt) {
        Ok((gigabits, _)) => Ok((gigabits, attempts - 1)),
        Err(_) => Err(failed(candidate, &words, &last)),
    }
}

/// The Gb/s at the receiver in iperf3's report, or its error.
fn arrived(report: &str) -> Result<f64, String> {
    let report: serde_json::Value =
        serde_json::from_str(report).map_err(|error| error.to_string())?;
    if let Some(error) = report["error"].as_str() {
        return Err(error.to_owned());
    }
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    bits.map(|bits| bits / 1e9).ok_or_else(|| "its report has no figure of the receiver".to_owned())
}

#[cfg(test)]
mod tests {
    use super::arrived;

    #[test]
    fn what_arrived_is_taken_and_not_what_was_sent() {
        let report = r#"{"end": {"sum_sent": {"bits_per_second": 9e9},
                                 "sum_received": {"bits_per_second": 8.5e9}}}"#;
        assert_eq!(arrived(report), Ok(8.5));
    }

    #[test]
    fn an_error_of_iperf3_is_passed_on() {
        let report = r#"{"end": {}, "error": "unable to connect to server"}"#;
        assert_eq!(arrived(report), Err("unable to connect to server".to_owned()));
    }
}
