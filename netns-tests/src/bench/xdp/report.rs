//! Medians, ratios and goals; the table for people and the rows for programs. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use pias_datapath::bench::cost::Cost;
use pias_datapath::bench::memory::{Memory, Sizes};

use super::candidate::{EVER_NEW, Way};
use super::rig::Passed;
use crate::bench::figures::{Summary, summary};
use crate::bench::machine::Machine;
use crate::bench::report::{Row, cell, markdown};

/// The share of `XDP_TX` that the ingress has to reach.
const INGRESS_SHARE: f64 = 0.65;

/// How many times as fast as nftables a join proxy has to be.
const NFTABLES_TIMES: f64 = 4.0;

/// New flows per second that the ingress has to take.
const NEW_FLOWS: f64 = 500_000.0;

/// Nanoseconds that a packet of a known flow may cost, by the number of flows.
const KNOWN_COSTS: [(u32, f64); 2] = [(1, 120.0), (1 << 16, 240.0)];

/// Milliseconds from a target's being known to be down to the last packet that it may get.
const TARGET_DOWN: f64 = 10.0;

/// A share of the core's time above which the processes of a host are named.
const PROCESSES: f64 = 0.05;

/// Packets of known flows that did not come out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lost {
    /// All that were sent and did not come out.
    pub packets: u64,
    /// Of these: for which the ring in front of the host had no room.
    pub in_front: u64,
    /// Of these: for which the TUN device's queue had none.
    pub at_device: u64,
}

/// What was measured, in the order of the rounds.
#[derive(Debug, Default)]
pub(super) struct Figures {
    rates: BTreeMap<(Way, u32), Vec<f64>>,
    shares: BTreeMap<(Way, u32), Vec<f64>>,
    unknown: BTreeMap<(Way, u32), Vec<f64>>,
    known_costs: BTreeMap<u32, Vec<f64>>,
    new_costs: BTreeMap<u32, Vec<f64>>,
    /// Packets of known flows while XDP was changed, by how.
    losses: BTreeMap<(Way, &'static str), Vec<Lost>>,
    /// In MiB, by what it is of.
    memory: BTreeMap<String, Vec<f64>>,
    /// Milliseconds until XDP heeds that a target is down.
    downs: Vec<f64>,
}

impl Figures {
    /// Adds what a round showed.
    pub(super) fn add(&mut self, way: Way, flows: u32, passed: &Passed) {
        self.rates.entry((way, flows)).or_default().push(passed.rate());
        self.shares.entry((way, flows)).or_default().push(passed.share_of_processes());
    }

    /// Notes how many flows were known when a way was measured.
    pub(super) fn known(&mut self, way: Way, flows: u32, known: u64) {
        let unknown = u64::from(flows).saturating_sub(known);
        self.unknown.entry((way, flows)).or_default().push(unknown as f64);
    }

    /// Adds what a packet costs.
    pub(super) fn cost(&mut self, flows: u32, cost: Cost) {
        self.known_costs.entry(flows).or_default().push(cost.known);
        if flows > 1 {
            self.new_costs.entry(flows).or_default().push(cost.new);
        }
    }

    /// Adds what tables of these sizes take.
    pub(super) fn memory(&mut self, sizes: Sizes, memory: &Memory) {
        let Sizes { groups, targets, flows } = sizes;
        let of = format!("{groups} groups, {targets} targets, room for {}", number(flows as u32));
        self.add_memory(format!("{of}: tables in the kernel"), memory.tables);
        self.add_memory(format!("{of}: process"), memory.process);
        self.downs.push(memory.down.as_secs_f64() * 1e3);
    }

    /// Adds what piasd had at the end of its turn.
    pub(super) fn piasd(&mut self, tables: u64, process: u64) {
        self.add_memory("piasd after its turn: tables in the kernel".to_owned(), tables);
        self.add_memory("piasd after its turn: process".to_owned(), process);
    }

    /// Adds what was lost while XDP was changed.
    pub(super) fn lost(&mut self, way: Way, xdp: &'static str, lost: Lost) {
        self.losses.entry((way, xdp)).or_default().push(lost);
    }

    fn add_memory(&mut self, of: String, octets: u64) {
        self.memory.entry(of).or_default().push(octets as f64 / f64::from(1 << 20));
    }

    fn rate(&self, way: Way, flows: u32) -> Option<Summary> {
        summary(self.rates.get(&(way, flows))?)
    }

    /// How many times as fast one way was as the other, round by round.
    fn ratio(&self, way: Way, other: Way, flows: u32) -> Option<Summary> {
        let values = self.rates.get(&(way, flows))?.iter();
        let others = self.rates.get(&(other, flows))?;
        summary(&values.zip(others).map(|(value, other)| value / other).collect::<Vec<_>>())
    }
}

/// What is compared with what.
const PAIRS: [(Way, Way); 4] = [
    (Way::Ingress, Way::Transmit),
    (Way::Ingress, Way::Forwarding),
    (Way::JoinForward, Way::NftablesForward),
    (Way::JoinReturn, Way::NftablesReturn),
];

/// What a ratio has to be with this many flows.
fn ratio_goal(other: Way, flows: u32) -> Option<f64> {
    match (other, flows) {
        (Way::Transmit, 65_536 | 1_048_576) => Some(INGRESS_SHARE),
        (Way::NftablesForward | Way::NftablesReturn, 65_536) => Some(NFTABLES_TIMES),
        _ => None,
    }
}

fn number(flows: u32) -> String {
    match flows {
        1 => "1 flow".to_owned(),
        EVER_NEW => "each packet of its own flow".to_owned(),
        flows if flows >= 1 << 20 => format!("{}M flows", flows >> 20),
        flows => format!("{}k flows", flows >> 10),
    }
}

/// All rows: the rate of every way, then the ratios.
pub(super) fn rows(figures: &Figures) -> Vec<Row> {
    let mut rows = Vec::new();
    for (way, flows) in figures.rates.keys().copied() {
        if let Some(summary) = figures.rate(way, flows) {
            let goal = (flows == EVER_NEW).then_some(NEW_FLOWS);
            let name = format!("{}, {}", way.title(), number(flows));
            rows.push(Row::new(name, summary.median, "packets/s per core", goal));
        }
    }
    for (way, other) in PAIRS {
        for flows in way.flows() {
            if let Some(ratio) = figures.ratio(way, other, *flows) {
                let (title, against) = (way.title(), other.title());
                let name = format!("{title}, {}, against {against}", number(*flows));
                rows.push(Row::new(name, ratio.median, "times", ratio_goal(other, *flows)));
            }
        }
    }
    for ((way, xdp), lost) in &figures.losses {
        let name = format!("{}, lost while XDP is {xdp} by an upgrade", way.title());
        // Of all rounds: each counts.
        let most = lost.iter().map(|lost| lost.packets).max().unwrap_or_default();
        rows.push(Row::at_most(name, most as f64, "packets", 0.0));
    }
    rows.extend(cost_rows(figures));
    if let Some(down) = summary(&figures.downs) {
        let name = "a target is down, until XDP sends it nothing, the longest of 100".to_owned();
        rows.push(Row::at_most(name, down.most, "ms", TARGET_DOWN));
    }
    for (of, values) in &figures.memory {
        if let Some(summary) = summary(values) {
            rows.push(Row::new(format!("memory, {of}"), summary.median, "MiB", None));
        }
    }
    rows
}

fn cost_rows(figures: &Figures) -> Vec<Row> {
    let mut rows = Vec::new();
    for (flows, values) in &figures.known_costs {
        let name = format!("ingress, a packet of a known flow, {}", number(*flows));
        let goal = KNOWN_COSTS.iter().find(|(of, _)| of == flows).map(|(_, goal)| *goal);
        if let Some(summary) = summary(values) {
            rows.push(match goal {
                Some(goal) => Row::at_most(name, summary.median, "ns", goal),
                None => Row::new(name, summary.median, "ns", None),
            });
        }
    }
    for (flows, values) in &figures.new_costs {
        let name = format!("ingress, the first packet of a flow, {}", number(*flows));
        rows.extend(summary(values).map(|summary| Row::new(name, summary.median, "ns", None)));
    }
    rows
}

/// What is printed: the tables, the goals, and what else is to be known.
pub(super) fn text(machine: &Machine, figures: &Figures, rows: &[Row]) -> String {
    let mut text = format!("{machine}\n\n{}", rates_table(figures));
    let ratios = ratios_table(figures);
    if ratios.lines().count() > 2 {
        text += &format!("\nTimes as fast:\n\n{ratios}");
    }
    let costs = costs_table(figures);
    if costs.lines().count() > 2 {
        text += &format!("\nWithout a network:\n\n{costs}");
    }
    text.push('\n');
    // Writing to a String cannot fail.
    let mut line = |words: std::fmt::Arguments<'_>| {
        let _infallible = writeln!(text, "{words}");
    };
    for row in rows {
        if let Some(verdict) = row.verdict() {
            line(format_args!("{verdict}"));
        }
    }
    for ((way, xdp), rounds) in &figures.losses {
        for Lost { packets, in_front, at_device } in rounds.iter().filter(|lost| lost.packets > 0) {
            line(format_args!(
                "{}, {xdp}: of {packets} lost, {in_front} found no room in the ring in front, \
                 {at_device} at the TUN device",
                way.title()
            ));
        }
    }
    for (of, values) in &figures.memory {
        if let Some(summary) = summary(values) {
            line(format_args!("memory, {of}: {:.0} MiB", summary.median));
        }
    }
    for ((way, flows), shares) in &figures.shares {
        if let Some(share) = summary(shares).filter(|share| share.median > PROCESSES) {
            let (title, flows, percent) = (way.title(), number(*flows), share.median * 100.0);
            line(format_args!("{title}, {flows}: processes used {percent:.0} % of the time"));
        }
    }
    for ((way, flows), unknown) in &figures.unknown {
        if let Some(unknown) = summary(unknown).filter(|unknown| unknown.most > 0.0) {
            let (title, flows, most) = (way.title(), number(*flows), unknown.most);
            line(format_args!("{title}, {flows}: up to {most} flows were not known before"));
        }
    }
    text
}

fn rates_table(figures: &Figures) -> String {
    let header = ["packets per second of one core, median (least to most)", "1 flow", "64k flows"];
    let header = header.into_iter().chain(["1M flows", "ever new flows"]);
    let mut lines = vec![header.map(str::to_owned).collect::<Vec<_>>()];
    let mut ways: Vec<_> = figures.rates.keys().map(|(way, _)| *way).collect();
    ways.dedup();
    for way in ways {
        let cells = [1, 1 << 16, 1 << 20, EVER_NEW].map(|flows| {
            figures.rate(way, flows).map_or_else(String::new, |summary| cell(summary, 0))
        });
        lines.push([way.title().to_owned()].into_iter().chain(cells).collect());
    }
    markdown(&lines)
}

fn costs_table(figures: &Figures) -> String {
    let header = ["ns per packet at the ingress", "1 flow", "64k flows", "1M flows"];
    let mut lines = vec![header.map(str::to_owned).to_vec()];
    let kinds =
        [("of a known flow", &figures.known_costs), ("first of its flow", &figures.new_costs)];
    for (kind, costs) in kinds.into_iter().filter(|(_, costs)| !costs.is_empty()) {
        let cells = [1, 1 << 16, 1 << 20].map(|flows| {
            let summary = costs.get(&flows).and_then(|values| summary(values));
            summary.map_or_else(String::new, |summary| cell(summary, 0))
        });
        lines.push([kind.to_owned()].into_iter().chain(cells).collect());
    }
    markdown(&lines)
}

fn ratios_table(figures: &Figures) -> String {
    let header = ["", "1 flow", "64k flows", "1M flows"];
    let mut lines = vec![header.map(str::to_owned).to_vec()];
    for (way, other) in PAIRS {
        let ratios = way.flows().iter().map(|flows| figures.ratio(way, other, *flows));
        let cells: Vec<_> =
            ratios.map(|ratio| ratio.map_or_else(String::new, |ratio| cell(ratio, 2))).collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            let title = format!("{} : {}", way.title(), other.title());
            lines.push([title].into_iter().chain(cells).collect());
        }
    }
    markdown(&lines)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::threads::Used;
    use super::*;

    /// A second of a core, a tenth of which processes used.
    fn passed(frames: u64) -> Passed {
        let (kernel, processes) = (Duration::from_millis(900), Duration::from_millis(100));
        Passed { frames, used: Used { kernel, processes } }
    }

    fn row(rows: &[Row], name: &str) -> Row {
        rows.iter().find(|row| row.name == name).cloned().expect("a row of this name")
    }

    #[test]
    fn the_ingress_has_to_reach_a_share_of_the_ceiling_where_flows_are_many() {
        let mut figures = Figures::default();
        for flows in [1, 1 << 16] {
            figures.add(Way::Transmit, flows, &passed(2_000_000));
            figures.add(Way::Ingress, flows, &passed(1_200_000));
        }
        let rows = rows(&figures);
        let many = row(&rows, "PIAS ingress, 64k flows, against XDP_TX with MAC swap");
        assert_eq!((many.value, many.goal, many.holds), (0.6, Some(0.65), Some(false)));
        let one = row(&rows, "PIAS ingress, 1 flow, against XDP_TX with MAC swap");
        assert_eq!(one.goal, None);
    }

    #[test]
    fn new_flows_are_a_rate_and_costs_are_not_to_be_exceeded() {
        let mut figures = Figures::default();
        figures.add(Way::NewSyns, EVER_NEW, &passed(700_000));
        figures.cost(1, Cost { known: 121.0, new: 0.0 });
        let rows = rows(&figures);
        let syns = row(&rows, "PIAS ingress, SYNs of new flows, each packet of its own flow");
        assert_eq!((syns.value, syns.holds), (700_000.0, Some(true)));
        let cost = row(&rows, "ingress, a packet of a known flow, 1 flow");
        assert_eq!((cost.goal, cost.holds), (Some(120.0), Some(false)));
    }

    #[test]
    fn every_round_s_loss_counts_and_what_processes_used_is_told() {
        let mut figures = Figures::default();
        figures.lost(Way::Ingress, "attached", Lost::default());
        figures.lost(Way::Ingress, "attached", Lost { packets: 2, in_front: 1, at_device: 0 });
        figures.add(Way::JoinForward, 1, &passed(1));
        let rows = rows(&figures);
        let lost = row(&rows, "PIAS ingress, lost while XDP is attached by an upgrade");
        assert_eq!((lost.value, lost.holds), (2.0, Some(false)));
        let text = text(&Machine::look(1, false), &figures, &rows);
        assert!(text.contains("1 flow: processes used 10 % of the time"), "{text}");
        assert!(text.contains("of 2 lost, 1 found no room in the ring in front, 0 at"), "{text}");
    }
}
