//! Agents in a lab: `pias-join` on a target, and what it reports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::control::ControlError;
use crate::host::Host;
use crate::wait::{TimedOut, wait_for, wait_until};

/// Time that a join gets in a healthy lab: it crosses the farthest link a few
/// times.
const JOIN_LIMIT: Duration = Duration::from_secs(10);

/// Why an agent did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The lab did not start or signal it.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// It did not join or leave in time.
    #[error("{source}; {agent} wrote: {log}")]
    TimedOut {
        /// What was waited for.
        source: TimedOut,
        /// Host and process.
        agent: String,
        /// The agent's output.
        log: String,
    },
}

/// What an agent says of a join.
#[derive(Debug, Clone, PartialEq)]
pub struct Joined {
    /// The group with its protocol: `203.0.113.10:53/udp`.
    pub group: String,
    /// The proxy that took it, its JAP.
    pub proxy: String,
    /// That proxy's cluster.
    pub cluster: String,
    /// Round trip to it, in milliseconds.
    pub rtt_ms: f64,
    /// How long it lasts without a keep-alive, in milliseconds.
    pub lease_ms: u64,
}

/// An agent that runs on a host.
#[derive(Debug)]
pub struct Join<'lab> {
    host: Host<'lab>,
    process: String,
    /// Memberships that its group stands for: one with a protocol named, two
    /// without.
    memberships: usize,
}

impl<'lab> Host<'lab> {
    /// Starts `pias-join GROUP ...` here; returns at once.
    pub fn start_join(&self, group: &str, words: &[&str]) -> Result<Join<'lab>, JoinError> {
        static NUMBER: AtomicUsize = AtomicUsize::new(1);
        let process = format!("join-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let command = [&["pias-join", group, "--ca", "/etc/pias/ca.pem", "--json"], words].concat();
        self.spawn(&process, &command)?;
        let memberships = if group.contains('/') { 1 } else { 2 };
        Ok(Join { host: self.clone(), process, memberships })
    }

    /// Starts `pias-join GROUP ...` here, and waits until it is a member with
    /// every protocol of the group.
    pub fn join(&self, group: &str, words: &[&str]) -> Result<Join<'lab>, JoinError> {
        let join = self.start_join(group, words)?;
        join.wait_joined(JOIN_LIMIT)?;
        Ok(join)
    }
}

impl Join<'_> {
    /// The process's name, for [`Host::kill`] and [`Host::log`].
    pub fn process(&self) -> &str {
        &self.process
    }

    /// The host that it runs on.
    pub fn host(&self) -> &Host<'_> {
        &self.host
    }

    /// All events so far, in order.
    pub fn events(&self) -> Vec<Value> {
        let log = self.host.log(&self.process);
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The joins so far, in order; a re-join is one more.
    pub fn joins(&self) -> Vec<Joined> {
        let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
        self.events()
            .iter()
            .filter(|event| event["event"] == "joined")
            .map(|event| Joined {
                group: text(event, "group"),
                proxy: text(event, "proxy"),
                cluster: text(event, "cluster"),
                rtt_ms: event["rtt_ms"].as_f64().unwrap_or_default(),
                lease_ms: event["lease_ms"].as_u64().unwrap_or_default(),
            })
            .collect()
    }

    /// Waits for the first join with every protocol of the group.
    pub fn wait_joined(&self, limit: Duration) -> Result<Vec<Joined>, JoinError> {
        self.wait(limit, "the join", |joins| {
            let groups: BTreeSet<_> = joins.iter().map(|joined| &joined.group).collect();
            groups.len() >= self.memberships
        })
    }

    /// Waits until there are more joins than `before`, which is what
    /// [`Join::joins`] held, with every protocol of the group.
    pub fn wait_rejoined(&self, limit: Duration, before: usize) -> Result<Vec<Joined>, JoinError> {
        self.wait(limit, "the join after a loss", |joins| joins.len() >= before + self.memberships)
    }

    /// Waits until every RAP of its groups has heard of its JAP of now. An agent is told
    /// that it has joined before that, and a client far away could be refused
    /// in between.
    pub fn wait_resolvable(&self) -> Result<(), JoinError> {
        let last = || self.joins().into_iter().map(|joined| (joined.group.clone(), joined));
        wait_until(JOIN_LIMIT, "the RAPs to hear of the join", || {
            last().collect::<BTreeMap<_, _>>().values().all(|joined| self.is_resolvable(joined))
        })
        .map_err(|source| self.timed_out(source))
        .map(|_| ())
    }

    fn is_resolvable(&self, joined: &Joined) -> bool {
        let details = |proxy: &str| {
            let answer = self.host.lab().host(proxy).piasctl(&["group", &joined.group]);
            answer.unwrap_or_default()["groups"][0].clone()
        };
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let raps = list(&details(&joined.proxy)["raps"]);
        !raps.is_empty()
            && raps.iter().filter_map(Value::as_str).all(|rap| {
                let counts = list(&details(rap)["counts"]);
                counts.iter().any(|count| count["proxy"] == joined.proxy.as_str())
            })
    }

    fn wait(
        &self,
        limit: Duration,
        what: &str,
        enough: impl Fn(&[Joined]) -> bool,
    ) -> Result<Vec<Joined>, JoinError> {
        let look = || Some(self.joins()).filter(|joins| enough(joins));
        let found = wait_for(limit, what, look).map_err(|source| self.timed_out(source));
        found.map(|(joins, _)| joins)
    }

    /// Stops it as an operator would, and waits until it has left.
    pub fn leave(self) -> Result<(), JoinError> {
        self.host.kill(&self.process, Signal::SIGTERM)?;
        wait_until(JOIN_LIMIT, "the agent to leave", || !self.host.runs(&self.process))
            .map_err(|source| self.timed_out(source))
            .map(|_| ())
    }

    /// Kills it: it does not get to say goodbye.
    pub fn kill(&self) -> Result<(), ControlError> {
        self.host.kill(&self.process, Signal::SIGKILL)
    }

    fn timed_out(&self, source: TimedOut) -> JoinError {
        JoinError::TimedOut {
            source,
            agent: format!("{} on {}", self.process, self.host.name()),
            log: self.host.log(&self.process),
        }
    }
}
