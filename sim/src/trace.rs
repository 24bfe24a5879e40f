//! What happened: as text for people, as a digest for comparisons.

use std::{collections::VecDeque, fmt::Write as _};

use pias_protocol::time::Time;
use xxhash_rust::xxh3::Xxh3Default;

use crate::limits::TAIL_LINES;

/// How much of a run is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Every line, and the digest.
    #[default]
    All,
    /// The last lines, for the report of a failure, and the digest.
    Tail,
    /// The digest.
    Digest,
    /// Nothing: the fastest.
    Nothing,
}

/// The trace of a run, line by line.
#[derive(Default)]
pub(crate) struct Trace {
    keep: Keep,
    text: String,
    tail: VecDeque<String>,
    line: String,
    digest: Xxh3Default,
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Trace({:?}, {} octets)", self.keep, self.text.len())
    }
}

impl Trace {
    pub(crate) fn keep(&mut self, keep: Keep) {
        self.keep = keep;
        self.text = String::new();
        self.tail.clear();
    }

    /// Whether lines are of any use.
    pub(crate) fn wanted(&self) -> bool {
        self.keep != Keep::Nothing
    }

    pub(crate) fn note(&mut self, now: Time, line: std::fmt::Arguments<'_>) {
        if !self.wanted() {
            return;
        }
        self.line.clear();
        // Writing to a String cannot fail.
        let _ = writeln!(self.line, "{now} {line}");
        self.digest.update(self.line.as_bytes());
        match self.keep {
            Keep::All => self.text.push_str(&self.line),
            Keep::Tail => {
                if self.tail.len() == TAIL_LINES {
                    self.tail.pop_front();
                }
                self.tail.push_back(self.line.clone());
            }
            Keep::Digest | Keep::Nothing => {}
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn tail(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(|line| line.trim_end())
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest.digest()
    }
}
