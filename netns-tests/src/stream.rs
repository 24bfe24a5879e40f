//! A client that asks a service again and again while things break, and what
//! its users would have noticed.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::control::ControlError;
use crate::host::Host;
use crate::tool::{Answered, clock};
use crate::wait::{TimedOut, wait_until};

/// Time that the stream gets for its first answer, and to end.
const STREAM_LIMIT: Duration = Duration::from_secs(10);

/// Why a stream of questions broke off.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The lab did not start or stop it.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// What was waited for did not come.
    #[error("{source}; {client} wrote last: {last}")]
    TimedOut {
        /// What was waited for.
        source: TimedOut,
        /// Host and process.
        client: String,
        /// Its last line.
        last: String,
    },
}

/// A client's steady DNS questions, each a new flow.
#[derive(Debug)]
pub struct Stream<'lab> {
    host: Host<'lab>,
    process: String,
}

/// Questions and how they went, in the order in which they were asked.
#[derive(Debug, Clone, Default)]
pub struct Questions(Vec<Answered>);

impl<'lab> Host<'lab> {
    /// Starts to ask the DNS service at `AA:port` 50 times a second, with half
    /// a second for each answer; `words` change that, see `pias-lab tool ask`.
    /// Returns when the first answer is there.
    pub fn ask_steadily(&self, service: &str, words: &[&str]) -> Result<Stream<'lab>, StreamError> {
        let process = format!("ask-{}", clock().as_millis());
        let command = [&["pias-lab", "tool", "ask", service], words].concat();
        self.spawn(&process, &command)?;
        let stream = Stream { host: self.clone(), process };
        stream.wait("a first answer", |questions| questions.answered() > 0)?;
        Ok(stream)
    }
}

impl Stream<'_> {
    /// The questions so far that were answered or given up.
    pub fn questions(&self) -> Questions {
        Questions::parse(&self.host.log(&self.process))
    }

    /// Lets the stream go on until it has seen how a question went that was
    /// asked at `moment` (time since the epoch) or later.
    pub fn watch_until(&self, moment: Duration) -> Result<(), StreamError> {
        self.wait("the stream to go on", |questions| !questions.since(moment).0.is_empty())
    }

    /// Ends the stream; returns its questions.
    pub fn stop(self) -> Result<Questions, StreamError> {
        self.host.kill(&self.process, Signal::SIGKILL)?;
        wait_until(STREAM_LIMIT, "the stream to end", || !self.host.runs(&self.process))
            .map_err(|source| self.timed_out(source))?;
        Ok(self.questions())
    }

    fn wait(&self, what: &str, done: impl Fn(&Questions) -> bool) -> Result<(), StreamError> {
        wait_until(STREAM_LIMIT, what, || done(&self.questions()))
            .map(|_| ())
            .map_err(|source| self.timed_out(source))
    }

    fn timed_out(&self, source: TimedOut) -> StreamError {
        let client = format!("{} on {}", self.process, self.host.name());
        let last = self.host.log(&self.process).lines().last().unwrap_or_default().to_owned();
        StreamError::TimedOut { source, client, last }
    }
}

impl Questions {
    /// Reads what `pias-lab tool ask` printed.
    pub fn parse(log: &str) -> Self {
        let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        let mut questions: Vec<Answered> = lines.collect();
        questions.sort_by(|one, other| one.asked_ms.total_cmp(&other.asked_ms));
        Self(questions)
    }

    /// Those asked at `moment` (time since the epoch) or later.
    pub fn since(&self, moment: Duration) -> Self {
        let moment = moment.as_secs_f64() * 1e3;
        Self(self.0.iter().filter(|question| question.asked_ms >= moment).cloned().collect())
    }

    /// How many there are.
    pub fn asked(&self) -> usize {
        self.0.len()
    }

    /// How many were answered.
    pub fn answered(&self) -> usize {
        self.0.iter().filter(|question| question.answer.is_some()).count()
    }

    /// How many answers each target gave.
    pub fn by_target(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for answer in self.0.iter().filter_map(|question| question.answer.clone()) {
            *counts.entry(answer).or_default() += 1;
        }
        counts
    }

    /// How many failed in each way.
    pub fn failures(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for failure in self.0.iter().filter_map(|question| question.failure.clone()) {
            *counts.entry(failure).or_default() += 1;
        }
        counts
    }

    /// The slowest answer.
    pub fn slowest(&self) -> Duration {
        let answered = self.0.iter().filter(|question| question.answer.is_some());
        let slowest = answered.map(|question| question.took_ms).fold(0.0, f64::max);
        Duration::from_secs_f64(slowest / 1e3)
    }

    /// How long after `event` (time since the epoch) the last flow began that a
    /// target served. Zero if it served none.
    pub fn last_of(&self, target: &str, event: Duration) -> Duration {
        self.last(event, |question| question.answer.as_deref() == Some(target))
    }

    /// How long after `event` (time since the epoch) the last flow began that
    /// failed: from then on, every new flow was served. Zero if none failed.
    pub fn outage(&self, event: Duration) -> Duration {
        self.last(event, |question| question.answer.is_none())
    }

    fn last(&self, event: Duration, which: impl Fn(&Answered) -> bool) -> Duration {
        let event = event.as_secs_f64() * 1e3;
        let asked = self.0.iter().filter(|question| which(question));
        let last = asked.map(|question| question.asked_ms - event).fold(0.0, f64::max);
        Duration::from_secs_f64(last / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Questions asked at these milliseconds; those marked with `None` failed.
    fn questions(asked: &[(f64, Option<&str>)]) -> Questions {
        let question = |(asked_ms, answer): &(f64, Option<&str>)| Answered {
            asked_ms: *asked_ms,
            took_ms: 2.0,
            answer: answer.map(str::to_owned),
            failure: answer.is_none().then(|| "silence".to_owned()),
        };
        Questions(asked.iter().map(question).collect())
    }

    #[test]
    fn an_outage_lasts_to_the_last_failure() {
        let asked = [(100.0, Some("a")), (120.0, None), (140.0, Some("b")), (160.0, None)];
        let questions = questions(&asked);
        let at = Duration::from_millis;
        assert_eq!(questions.outage(at(110)), at(50));
        assert_eq!(questions.since(at(161)).outage(at(110)), Duration::ZERO);
        assert_eq!(questions.failures()["silence"], 2);
        assert_eq!(questions.since(at(120)).by_target().keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_log_is_read_in_the_order_of_asking_and_a_cut_line_is_left_out() {
        let log = "{\"asked_ms\":2,\"took_ms\":1,\"answer\":\"a\",\"failure\":null}\n\
                   {\"asked_ms\":1,\"took_ms\":9,\"answer\":null,\"failure\":\"silence\"}\n\
                   {\"asked_ms\":3,\"to";
        let questions = Questions::parse(log);
        assert_eq!(questions.asked(), 2);
        assert_eq!(questions.outage(Duration::ZERO), Duration::from_millis(1));
    }
}
