//! What was measured in all rounds, and what follows from it. Pure.

use std::collections::BTreeMap;

use super::candidate::Candidate;
use super::metric::Metric;

/// The values of every metric and candidate, in the order of the rounds.
#[derive(Debug, Default)]
pub(super) struct Figures {
    values: BTreeMap<(Metric, Candidate), Vec<f64>>,
    losses: BTreeMap<(Candidate, &'static str), (u64, u64)>,
}

/// A median and what it is the median of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Summary {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Figures {
    /// Adds a round's value.
    pub(super) fn add(&mut self, metric: Metric, candidate: Candidate, value: f64) {
        self.values.entry((metric, candidate)).or_default().push(value);
    }

    /// Notes how many of something got lost, beside how many did not.
    pub(super) fn note_losses(
        &mut self,
        candidate: Candidate,
        what: &'static str,
        lost: u64,
        others: u64,
    ) {
        let sums = self.losses.entry((candidate, what)).or_default();
        *sums = (sums.0 + lost, sums.1 + others);
    }

    /// The losses that there were: candidate, what, how many, beside how many.
    pub(super) fn losses(&self) -> impl Iterator<Item = (Candidate, &'static str, u64, u64)> {
        let there_were = self.losses.iter().filter(|(_, (lost, _))| *lost > 0);
        there_were.map(|((candidate, what), (lost, others))| (*candidate, *what, *lost, *others))
    }

    /// A candidate's values; none if it was not measured.
    pub(super) fn summary(&self, metric: Metric, candidate: Candidate) -> Option<Summary> {
        summary(self.values.get(&(metric, candidate))?)
    }

    /// How many times as good `candidate` was as `other`, round by round: the
    /// machine's drift over the rounds cancels out.
    pub(super) fn ratio(
        &self,
        metric: Metric,
        candidate: Candidate,
        other: Candidate,
    ) -> Option<Summary> {
        let values = self.values.get(&(metric, candidate))?;
        let others = self.values.get(&(metric, other))?;
        let ratios: Vec<_> = values
            .iter()
            .zip(others)
            .map(|(value, other)| metric.times_as_good(*value, *other))
            .collect();
        summary(&ratios)
    }
}

/// Median (of an even number, the mean of the middle two), least and most.
pub(super) fn summary(values: &[f64]) -> Option<Summary> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some(Summary {
        median: (lower + upper) / 2.0,
        least: sorted[0],
        most: sorted[sorted.len() - 1],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        let median = |values: &[f64]| summary(values).map(|summary| summary.median);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        let mut figures = Figures::default();
        for (pias, nginx) in [(100.0, 50.0), (10.0, 5.0), (30.0, 10.0)] {
            figures.add(Metric::Replies, Candidate::Pias, pias);
            figures.add(Metric::Replies, Candidate::Nginx, nginx);
        }
        let ratio = figures.ratio(Metric::Replies, Candidate::Pias, Candidate::Nginx);
        assert_eq!(ratio, Some(Summary { median: 2.0, least: 2.0, most: 3.0 }));
    }

    #[test]
    fn only_losses_that_there_were_are_told() {
        let mut figures = Figures::default();
        figures.note_losses(Candidate::Pias, "connections failed", 0, 10);
        figures.note_losses(Candidate::Nginx, "connections failed", 1, 10);
        figures.note_losses(Candidate::Nginx, "connections failed", 2, 20);
        let losses: Vec<_> = figures.losses().collect();
        assert_eq!(losses, [(Candidate::Nginx, "connections failed", 3, 30)]);
    }
}
