//! The table for people and the rows for programs. Pure.

use std::fmt::Write;

use serde::Serialize;

use super::candidate::Candidate;
use super::figures::{Figures, Summary};
use super::machine::Machine;
use super::metric::Metric;

/// TCP bulk that is enough, in Gb/s, however fast plain forwarding is.
const BULK_ENOUGH: f64 = 8.0;

/// The share of plain forwarding's TCP bulk that is enough.
const BULK_SHARE: f64 = 0.5;

/// A figure in the form that all suites share.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    /// What it is.
    pub name: String,
    /// The median over the rounds.
    pub value: f64,
    /// Its unit; `times` for a ratio, where more than 1 is ahead.
    pub unit: &'static str,
    /// The value to reach, where there is one.
    pub goal: Option<f64>,
    /// Whether it is reached.
    pub holds: Option<bool>,
}

impl Row {
    /// A figure that is better the more it is.
    pub(super) fn new(name: String, value: f64, unit: &'static str, goal: Option<f64>) -> Self {
        let holds = goal.map(|goal| value >= goal);
        Self { name, value: rounded(value), unit, goal: goal.map(rounded), holds }
    }

    /// A figure that is better the less it is.
    pub(super) fn at_most(name: String, value: f64, unit: &'static str, goal: f64) -> Self {
        let holds = Some(value <= goal);
        Self { name, value: rounded(value), unit, goal: Some(goal), holds }
    }

    /// What it says of its goal, if it has one.
    pub(super) fn verdict(&self) -> Option<String> {
        let (name, value, unit, goal) = (&self.name, self.value, self.unit, self.goal?);
        let verdict = if self.holds? { "holds" } else { "DOES NOT HOLD" };
        Some(format!("{name}: {value:.2} {unit}, goal {goal:.2}: {verdict}"))
    }
}

/// To three decimals: no clock here is better.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// All rows: every metric of every candidate, then the ratios.
pub(super) fn rows(figures: &Figures) -> Vec<Row> {
    let mut rows = Vec::new();
    for metric in Metric::ALL {
        for candidate in Candidate::ALL {
            if let Some(summary) = figures.summary(metric, candidate) {
                let name = format!("{}, {}", metric.title(), candidate.title());
                let goal = absolute_goal(figures, metric, candidate);
                rows.push(Row::new(name, summary.median, metric.unit(), goal));
            }
        }
    }
    for (candidate, other) in pairs() {
        for metric in Metric::ALL {
            if let Some(ratio) = figures.ratio(metric, candidate, other) {
                let (title, against) = (candidate.title(), other.title());
                let name = format!("{}, {title} against {against}", metric.title());
                let goal = ratio_goal(metric, candidate, other);
                rows.push(Row::new(name, ratio.median, "times", goal));
            }
        }
    }
    rows
}

/// PIAS against every baseline, also where it takes two hosts; there against
/// two hosts of plain forwarding too.
fn pairs() -> Vec<(Candidate, Candidate)> {
    let both = [Candidate::Pias, Candidate::PiasTunnel];
    let mut pairs: Vec<_> =
        both.iter().flat_map(|pias| Candidate::BASELINES.map(|other| (*pias, other))).collect();
    pairs.push((Candidate::PiasTunnel, Candidate::PlainTwo));
    pairs
}

/// TCP bulk: 8 Gb/s or half of plain forwarding, whichever is less.
fn absolute_goal(figures: &Figures, metric: Metric, candidate: Candidate) -> Option<f64> {
    let bulk = matches!(metric, Metric::BulkToTarget | Metric::BulkToClient);
    if !bulk || candidate != Candidate::Pias {
        return None;
    }
    let plain = figures.summary(metric, Candidate::Plain)?;
    Some((BULK_SHARE * plain.median).min(BULK_ENOUGH))
}

/// UDP: ahead of nginx.
fn ratio_goal(metric: Metric, candidate: Candidate, other: Candidate) -> Option<f64> {
    let udp = matches!(metric, Metric::RoundTripMedian | Metric::RoundTripTail | Metric::Replies);
    let compared = candidate == Candidate::Pias && other == Candidate::Nginx;
    (udp && compared).then_some(1.0)
}

/// What is printed: two Markdown tables, the goals, and what went wrong.
pub(super) fn text(
    machine: &Machine,
    candidates: &[Candidate],
    figures: &Figures,
    rows: &[Row],
) -> String {
    let mut text = format!("{machine}\n\n");
    text += &values_table(candidates, figures);
    let ratios = ratios_table(figures);
    if !ratios.is_empty() {
        text += "\nTimes as good as (more than 1 is ahead):\n\n";
        text += &ratios;
    }
    // Writing to a String cannot fail.
    let mut line = |words: std::fmt::Arguments<'_>| {
        let _infallible = writeln!(text, "{words}");
    };
    line(format_args!(""));
    for row in rows {
        if let Some(verdict) = row.verdict() {
            line(format_args!("{verdict}"));
        }
    }
    for (candidate, what, lost, others) in figures.losses() {
        line(format_args!("{}: {lost} {what}, beside {others}", candidate.title()));
    }
    text
}

fn values_table(candidates: &[Candidate], figures: &Figures) -> String {
    let mut header = vec!["median (least to most)".to_owned()];
    header.extend(candidates.iter().map(|candidate| candidate.title().to_owned()));
    let mut lines = vec![header];
    for metric in Metric::ALL {
        let mut cells = vec![format!("{}, {}", metric.title(), metric.unit())];
        cells.extend(candidates.iter().map(|candidate| {
            figures
                .summary(metric, *candidate)
                .map_or_else(String::new, |summary| cell(summary, metric.decimals()))
        }));
        lines.push(cells);
    }
    markdown(&lines)
}

/// A line per metric, a column per pair of which both were measured.
fn ratios_table(figures: &Figures) -> String {
    let measured = |pair: &(Candidate, Candidate)| {
        figures.ratio(Metric::RoundTripMedian, pair.0, pair.1).is_some()
    };
    let pairs: Vec<_> = pairs().into_iter().filter(measured).collect();
    if pairs.is_empty() {
        return String::new();
    }
    let mut header = vec![String::new()];
    header.extend(pairs.iter().map(|(one, other)| format!("{} : {}", one.title(), other.title())));
    let mut lines = vec![header];
    for metric in Metric::ALL {
        let mut cells = vec![metric.title().to_owned()];
        cells.extend(pairs.iter().map(|(one, other)| {
            figures.ratio(metric, *one, *other).map_or_else(String::new, |summary| cell(summary, 2))
        }));
        lines.push(cells);
    }
    markdown(&lines)
}

pub(super) fn cell(summary: Summary, decimals: usize) -> String {
    let Summary { median, least, most } = summary;
    format!("{median:.decimals$} ({least:.decimals$} to {most:.decimals$})")
}

/// A Markdown table, its columns as wide as their widest cell so that it reads
/// well in a terminal too. The first line is the header.
pub(super) fn markdown(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            let _infallible = write!(text, "| {cell:<width$} ");
        }
        text += "|\n";
        if number == 0 {
            for width in &widths {
                let _infallible = write!(text, "| {:-<width$} ", "");
            }
            text += "|\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(metric: Metric, values: &[(Candidate, f64)]) -> Figures {
        let mut figures = Figures::default();
        for (candidate, value) in values {
            figures.add(metric, *candidate, *value);
        }
        figures
    }

    fn row(rows: &[Row], name: &str) -> Row {
        rows.iter().find(|row| row.name == name).cloned().expect("a row of this name")
    }

    #[test]
    fn bulk_has_to_reach_half_of_slow_plain_forwarding() {
        let values = [(Candidate::Plain, 10.0), (Candidate::Pias, 5.5)];
        let rows = rows(&figures(Metric::BulkToClient, &values));
        let pias = row(&rows, "TCP bulk, target to client, PIAS");
        assert_eq!((pias.goal, pias.holds), (Some(5.0), Some(true)));
        assert_eq!(row(&rows, "TCP bulk, target to client, plain forwarding").goal, None);
    }

    #[test]
    fn bulk_has_to_reach_eight_gigabits_where_plain_forwarding_is_fast() {
        let values = [(Candidate::Plain, 40.0), (Candidate::Pias, 7.9)];
        let rows = rows(&figures(Metric::BulkToTarget, &values));
        let pias = row(&rows, "TCP bulk, client to target, PIAS");
        assert_eq!((pias.goal, pias.holds), (Some(8.0), Some(false)));
    }

    #[test]
    fn round_trips_have_to_be_ahead_of_nginx_and_of_nobody_else() {
        let values = [(Candidate::Plain, 10.0), (Candidate::Nginx, 30.0), (Candidate::Pias, 20.0)];
        let rows = rows(&figures(Metric::RoundTripTail, &values));
        let nginx = row(&rows, "UDP 64 B round trip p99, PIAS against nginx stream");
        assert_eq!((nginx.value, nginx.goal, nginx.holds), (1.5, Some(1.0), Some(true)));
        let plain = row(&rows, "UDP 64 B round trip p99, PIAS against plain forwarding");
        assert_eq!((plain.value, plain.goal, plain.holds), (0.5, None, None));
    }

    #[test]
    fn a_row_without_a_goal_says_null() {
        let row = Row::new("x".to_owned(), 1.5, "Gb/s", None);
        let text = serde_json::to_string(&row).expect("a row can be written");
        let expected = r#"{"name":"x","value":1.5,"unit":"Gb/s","goal":null,"holds":null}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let lines =
            [vec!["a".to_owned(), "four".to_owned()], vec!["µs".to_owned(), "1".to_owned()]];
        assert_eq!(markdown(&lines), "| a   | four |\n| --- | ---- |\n| µs  | 1    |\n");
    }
}
