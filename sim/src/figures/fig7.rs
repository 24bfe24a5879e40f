//! Figure 7: messages by number of proxies and band.

use std::fmt::Write;

use super::{
    fig6::number,
    plot::{Line, Plot},
    study::{BANDS, Cell},
};

/// Messages per second over the paper's event, by proxies and band in percent.
const PAPER: [(usize, u8, f64); 2] = [(100, 100, 0.18), (10_000, 100, 7.25)];

/// Figure 7, of the cells of several numbers of proxies: all bands of one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Fig7<'a>(pub &'a [Cell]);

impl Fig7<'_> {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table =
            "Figure 7: messages per second from the JAPs to the RAPs of a group, by band\n\n proxies"
                .to_owned();
        for band in BANDS {
            let _ = write!(table, " {:>9}", format!("{band} %"));
        }
        table.push_str("   deviation at 100 %   paper at 100 %   refreshes\n");
        for row in self.0.chunks(BANDS.len()) {
            let Some(last) = row.last() else { continue };
            let _ = write!(table, "{:>8}", last.proxies);
            for cell in row {
                let _ = write!(table, " {:>9.3}", cell.per_second.mean);
            }
            let paper = number(paper(last), 2);
            let refreshed = row.iter().find_map(|cell| cell.refreshed);
            let refreshes = number(refreshed.map(|refreshed| refreshed.refreshes), 1);
            let deviation = last.per_second.deviation;
            let _ = writeln!(table, " {deviation:>20.3} {paper:>16} {refreshes:>11}");
        }
        table
    }

    /// A line per cell.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut csv = String::from(
            "proxies,band_percent,messages_per_second,deviation,paper,refreshes_per_second\n",
        );
        for cell in self.0 {
            let (proxies, band, rate) = (cell.proxies, cell.band, cell.per_second);
            let optional = |value: Option<f64>| value.map(|value| value.to_string());
            let paper = optional(paper(cell)).unwrap_or_default();
            let refreshes = optional(cell.refreshed.map(|r| r.refreshes)).unwrap_or_default();
            let (mean, deviation) = (rate.mean, rate.deviation);
            let _ = writeln!(csv, "{proxies},{band},{mean:.5},{deviation:.5},{paper},{refreshes}");
        }
        csv
    }

    /// The plot: a line for each number of proxies, and the paper's figures.
    #[must_use]
    pub fn svg(&self) -> String {
        let line = |row: &[Cell]| Line {
            label: format!("{} proxies", row.first().map_or(0, |cell| cell.proxies)),
            points: row.iter().map(|cell| (f64::from(cell.band), cell.per_second.mean)).collect(),
        };
        let shown = self.0.iter().filter_map(|cell| Some((f64::from(cell.band), paper(cell)?)));
        let plot = Plot {
            title: "Messages from JAPs to RAPs in a flash crowd".to_owned(),
            x_label: "band in percent",
            y_label: "messages per second",
            x_ticks: vec![0.0, 25.0, 50.0, 75.0, 100.0],
            lines: self.0.chunks(BANDS.len()).map(line).collect(),
            points: Line { label: "the paper's".to_owned(), points: shown.collect() },
        };
        plot.svg()
    }
}

fn paper(cell: &Cell) -> Option<f64> {
    let wanted =
        |(proxies, band, _): &&(usize, u8, f64)| (*proxies, *band) == (cell.proxies, cell.band);
    PAPER.iter().find(wanted).map(|&(.., messages)| messages)
}
