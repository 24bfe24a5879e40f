//! Figure 6: messages over time, by band.

use std::fmt::Write;

use super::{
    plot::{Line, Plot},
    study::Cell,
};

/// Messages per minute over the paper's event, by band in percent.
const PAPER: [(u8, f64); 2] = [(0, 2_300.0), (50, 117.0)];

/// Figure 6, of the cells of one number of proxies.
#[derive(Clone, Copy, Debug)]
pub struct Fig6<'a>(pub &'a [Cell]);

impl Fig6<'_> {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let proxies = self.0.first().map_or(0, |cell| cell.proxies);
        let mut table = format!(
            "Figure 6: messages per minute from the JAPs to the RAPs of a group, {proxies} proxies\n\n\
             \x20          ------- changes only, as in the paper -------   ---- with refreshes ----\n\
             \x20  band       mean   deviation   busiest minute    paper     changes    refreshes\n"
        );
        for cell in self.0 {
            let busiest = cell.minutes.iter().copied().fold(0.0, f64::max);
            let (mean, deviation) = (cell.per_second.mean * 60.0, cell.per_second.deviation * 60.0);
            let paper = number(paper(cell.band), 0);
            let changes = number(cell.refreshed.map(|refreshed| refreshed.changes * 60.0), 1);
            let refreshes = number(cell.refreshed.map(|refreshed| refreshed.refreshes * 60.0), 1);
            let _ = writeln!(
                table,
                "{:>5} % {mean:>10.1} {deviation:>11.1} {busiest:>16.0} {paper:>8} {changes:>11} \
                 {refreshes:>12}",
                cell.band
            );
        }
        table
    }

    /// A line per band and minute.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut csv = String::from("proxies,band_percent,minute,messages\n");
        for cell in self.0 {
            for (minute, messages) in cell.minutes.iter().enumerate() {
                let (proxies, band) = (cell.proxies, cell.band);
                let _ = writeln!(csv, "{proxies},{band},{minute},{messages:.2}");
            }
        }
        csv
    }

    /// The plot: messages in each minute.
    #[must_use]
    pub fn svg(&self) -> String {
        let proxies = self.0.first().map_or(0, |cell| cell.proxies);
        let minutes = self.0.iter().map(|cell| cell.minutes.len()).max().unwrap_or(0);
        let step = (minutes / 6).max(1);
        let line = |cell: &Cell| Line {
            label: format!("band {} %", cell.band),
            points: cell.minutes.iter().enumerate().map(|(n, &y)| (n as f64, y)).collect(),
        };
        let plot = Plot {
            title: format!("Messages from JAPs to RAPs in a flash crowd, {proxies} proxies"),
            x_label: "minute",
            y_label: "messages per minute",
            x_ticks: (0..=6).map(|n| (n * step) as f64).collect(),
            lines: self.0.iter().map(line).collect(),
            points: Line { label: String::new(), points: Vec::new() },
        };
        plot.svg()
    }
}

fn paper(band: u8) -> Option<f64> {
    PAPER.iter().find(|(of, _)| *of == band).map(|&(_, messages)| messages)
}

/// A number, or a dash where there is none.
pub(super) fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}
