//! Shortest ways between POPs, and how routing follows when links are cut and mended.
//!
//! ```text
//!  link cut        routing follows
//!  ───┼───────────────────┼─────────────►
//!     │ ways over the     │ all ways are shortest again
//!     │ link are dead     │
//! ```
//! A row (the ways from one POP) is computed when it is first asked for.

use std::{
    cell::OnceCell,
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    time::Duration,
};

use pias_protocol::time::Time;

use crate::topology::{Link, Topology};

/// The unit of a row's delays: 10 µs. So a way may take up to 0.65 s.
const UNIT: u64 = 10;
/// No way leads there.
const NO_WAY: u16 = u16::MAX;

type Row = Box<[u16]>;

/// Ways by source and destination.
#[derive(Debug)]
struct Rows(Vec<OnceCell<Row>>);

impl Rows {
    fn new(pops: usize) -> Self {
        Self((0..pops).map(|_| OnceCell::new()).collect())
    }
}

/// The ways between POPs.
#[derive(Debug)]
pub struct Routes {
    links: Vec<Link>,
    /// Per POP its links.
    at: Vec<Vec<u32>>,
    down: BTreeSet<usize>,
    rows: Rows,
    /// The ways before the last change, and until when they are used.
    before: Option<(Rows, Time)>,
}

impl Routes {
    /// Shortest ways over all links.
    #[must_use]
    pub fn new(topology: &Topology) -> Self {
        let mut at = vec![Vec::new(); topology.pops.len()];
        for (n, link) in topology.links.iter().enumerate() {
            at[link.a].push(n as u32);
            at[link.b].push(n as u32);
        }
        Self {
            links: topology.links.clone(),
            rows: Rows::new(at.len()),
            at,
            down: BTreeSet::new(),
            before: None,
        }
    }

    /// One-way delay, once routing has settled; `None` where no way leads.
    #[must_use]
    pub fn settled(&self, from: usize, to: usize) -> Option<Duration> {
        in_time(self.row(&self.rows, from)[to])
    }

    /// One-way delay now: while routing has not followed a change yet, ways that it concerns are
    /// dead where they got longer, and the old ones where they got shorter.
    #[must_use]
    pub fn delay(&self, from: usize, to: usize, now: Time) -> Option<Duration> {
        let settled = self.row(&self.rows, from)[to];
        match &self.before {
            Some((before, until)) if now < *until => {
                let before = before.0[from].get().map_or(settled, |row| row[to]);
                if settled > before { None } else { in_time(before) }
            }
            _ => in_time(settled),
        }
    }

    /// The links.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Cuts or mends a link; routing has followed at `settled`.
    pub fn change(&mut self, link: usize, up: bool, settled: Time) {
        let changed = if up { self.down.remove(&link) } else { self.down.insert(link) };
        if !changed {
            return;
        }
        // The old ways must be known before they are gone.
        for from in 0..self.at.len() {
            self.row(&self.rows, from);
        }
        let fresh = Rows::new(self.at.len());
        self.before = Some((std::mem::replace(&mut self.rows, fresh), settled));
    }

    /// Mends all links.
    pub fn mend(&mut self, settled: Time) {
        for link in self.down.clone() {
            self.change(link, true, settled);
        }
    }

    fn row<'a>(&self, rows: &'a Rows, from: usize) -> &'a Row {
        rows.0[from].get_or_init(|| self.shortest(from))
    }

    /// Dijkstra's algorithm, in microseconds.
    fn shortest(&self, from: usize) -> Row {
        let mut best = vec![u64::MAX; self.at.len()];
        let mut open = BinaryHeap::from([Reverse((0_u64, from))]);
        best[from] = 0;
        while let Some(Reverse((far, pop))) = open.pop() {
            if far > best[pop] {
                continue;
            }
            for &n in &self.at[pop] {
                if self.down.contains(&(n as usize)) {
                    continue;
                }
                let link = &self.links[n as usize];
                let next = if link.a == pop { link.b } else { link.a };
                let there = far + link.delay.as_micros() as u64;
                if there < best[next] {
                    best[next] = there;
                    open.push(Reverse((there, next)));
                }
            }
        }
        best.into_iter()
            .map(|micros| match micros {
                u64::MAX => NO_WAY,
                micros => u16::try_from(micros / UNIT).unwrap_or(NO_WAY - 1).min(NO_WAY - 1),
            })
            .collect()
    }
}

fn in_time(units: u16) -> Option<Duration> {
    (units != NO_WAY).then(|| Duration::from_micros(u64::from(units) * UNIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Option<Duration> {
        Some(Duration::from_millis(n))
    }

    #[test]
    fn a_cut_link_is_dead_until_routing_goes_around_it() {
        let mut routes = Routes::new(&Topology::circle(6, 1));
        let (early, late) = (Time::from_micros(1), Time::from_micros(300_000));
        assert_eq!(routes.delay(0, 2, early), ms(10));
        routes.change(0, false, late);
        assert_eq!(routes.delay(0, 1, early), None);
        assert_eq!(routes.delay(0, 5, early), ms(5), "other ways are untouched");
        assert_eq!(routes.delay(0, 1, late), ms(25));
        routes.mend(late + Duration::from_secs(1));
        assert_eq!(routes.delay(0, 1, late), ms(25), "the old way until the new one is known");
        assert_eq!(routes.delay(0, 1, late + Duration::from_secs(1)), ms(5));
    }

    #[test]
    fn where_no_way_leads_there_is_no_delay() {
        let mut routes = Routes::new(&Topology::circle(4, 1));
        routes.change(0, false, Time::ZERO);
        routes.change(3, false, Time::ZERO);
        assert_eq!(routes.settled(0, 2), None);
        assert_eq!(routes.settled(1, 3), ms(10));
    }
}
