//! What the demo prints: a numbered line a step, with its figures and its time.

use std::time::Instant;

use anyhow::Context;

/// The steps so far.
#[derive(Debug)]
pub(crate) struct Report {
    start: Instant,
    steps: usize,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), steps: 0 }
    }

    /// Announces a step, runs it and prints the lines that it returns. The
    /// first line belongs beside the title.
    pub(crate) fn step<T>(
        &mut self,
        title: &str,
        work: impl FnOnce(&mut Vec<String>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.steps += 1;
        let number = self.steps;
        println!("{number:>2}. {title}");
        let begin = Instant::now();
        let mut lines = Vec::new();
        let result = work(&mut lines);
        for line in lines {
            println!("      {line}");
        }
        if result.is_ok() {
            println!("      ok, {:.1} s", begin.elapsed().as_secs_f64());
        }
        result.with_context(|| format!("step {number}, {title}"))
    }

    /// The last line of a demo in which everything held.
    pub(crate) fn finish(&self) {
        let seconds = self.start.elapsed().as_secs_f64();
        println!("all {} steps held, {seconds:.1} s", self.steps);
    }
}
