//! Topologies from files: links between POPs of ISPs, or round-trip times between cities.
//!
//! ```text
//! as_a  pop_a  as_b  pop_b  latency_ms  weight     tab-separated; '#' begins a comment; weight unused
//!
//! city,"A","B",...                                 CSV: the first line names the columns, then one
//! "A",0,229.8,...                                  line per city, round-trip times in ms, some empty
//! ```
//! Both may hold more than one connected part; the largest is taken.

use std::{collections::BTreeMap, fs, io, path::Path, path::PathBuf, time::Duration};

use super::{Link, Pop, Topology};

/// Longest name of a POP: with a cluster's and a proxy's number it stays below
/// [`pias_protocol::limits::MAX_NAME`].
const LONGEST_NAME: usize = 40;

/// Why a file is no topology.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A line says something else than a topology would.
    #[error("{path}, line {line}: {what}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// It holds no link.
    #[error("{path}: no links in it: is it a table of POP links or of round-trip times?")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// The topology in a file, without clusters yet.
///
/// # Errors
/// As [`ReadError`] tells.
pub fn read(path: &Path) -> Result<Topology, ReadError> {
    let text = fs::read_to_string(path)
        .map_err(|error| ReadError::Unreadable { path: path.to_owned(), error })?;
    parse(&text).map_err(|error| match error {
        Some((line, what)) => ReadError::Line { path: path.to_owned(), line, what },
        None => ReadError::Empty { path: path.to_owned() },
    })
}

/// A line and what is wrong with it; `None` where there are no links at all.
type Fault = Option<(usize, String)>;

fn parse(text: &str) -> Result<Topology, Fault> {
    let lines = || {
        let numbered = text.lines().enumerate().map(|(n, line)| (n + 1, line));
        numbered.filter(|(_, line)| !line.starts_with('#') && !line.trim().is_empty())
    };
    let topology = match lines().next() {
        Some((_, first)) if first.starts_with("city,") => round_trips(lines())?,
        _ => pop_links(lines())?,
    };
    let topology = topology.connected();
    if topology.links.is_empty() { Err(None) } else { Ok(topology) }
}

fn pop_links<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Result<Topology, Fault> {
    let mut pops = Names::default();
    let mut links = Vec::new();
    for (line, text) in lines {
        let fields: Vec<&str> = text.split('\t').collect();
        let [as_a, pop_a, as_b, pop_b, latency, ..] = fields[..] else {
            return Err(Some((line, "fewer than five fields between tabs".into())));
        };
        let delay = milliseconds(latency).map_err(|what| Some((line, what)))?;
        let (a, b) = (pops.index(&[as_a, pop_a]), pops.index(&[as_b, pop_b]));
        links.push(Link { a, b, delay });
    }
    Ok(Topology { pops: pops.list, links, clusters: Vec::new() })
}

fn round_trips<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Result<Topology, Fault> {
    let mut pops = Names::default();
    let (mut columns, mut links) = (Vec::new(), Vec::new());
    for (line, text) in lines {
        let fields = quoted_fields(text);
        if columns.is_empty() {
            columns = fields[1..].iter().map(|name| pops.index(&[name])).collect();
            continue;
        }
        if fields.len() != columns.len() + 1 {
            return Err(Some((
                line,
                format!("{} fields, the first line has others", fields.len()),
            )));
        }
        let a = pops.index(&[&fields[0]]);
        for (&b, field) in columns.iter().zip(&fields[1..]).filter(|(b, _)| **b < a) {
            if !field.is_empty() {
                let round_trip = milliseconds(field).map_err(|what| Some((line, what)))?;
                links.push(Link { a, b, delay: round_trip / 2 });
            }
        }
    }
    Ok(Topology { pops: pops.list, links, clusters: Vec::new() })
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    match text.trim().parse::<f64>() {
        Ok(ms) if (0.0..10_000.0).contains(&ms) => {
            Ok(Duration::from_micros((ms * 1_000.0).round() as u64))
        }
        _ => Err(format!("`{text}` is no time in milliseconds")),
    }
}

/// POPs by what the file calls them.
#[derive(Default)]
struct Names {
    by_label: BTreeMap<String, usize>,
    list: Vec<Pop>,
}

impl Names {
    fn index(&mut self, parts: &[&str]) -> usize {
        let label = parts.join("\t");
        let next = self.list.len();
        let index = *self.by_label.entry(label).or_insert(next);
        if index == next {
            let mut name = slug(&parts.join(" "));
            if self.list.iter().any(|pop| pop.name == name) {
                name = format!("{name}-{next}x");
            }
            self.list.push(Pop { name });
        }
        index
    }
}

/// Lower-case letters and digits, hyphens between; it ends in a letter, so that a proxy's number
/// behind it cannot be mistaken.
fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
        if slug.len() >= LONGEST_NAME {
            break;
        }
    }
    let mut slug = slug.trim_end_matches('-').to_owned();
    if !slug.ends_with(|c: char| c.is_ascii_alphabetic()) {
        slug.push('x');
    }
    slug
}

/// The fields of a line of CSV; quotes keep commas together.
fn quoted_fields(line: &str) -> Vec<String> {
    let (mut fields, mut quoted) = (vec![String::new()], false);
    for c in line.chars() {
        match (c, fields.last_mut()) {
            ('"', _) => quoted = !quoted,
            (',', _) if !quoted => fields.push(String::new()),
            (c, Some(field)) => field.push(c),
            (_, None) => {}
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pop_links_are_read_and_what_is_apart_is_left_out() {
        let text = "# comment\n1\tAmsterdam, Netherlands\t7\tFrankfurt\t3.5\t-\n\
                    7\tFrankfurt\t7\tParis\t4.25\t2\n9\tX\t9\tY\t1\t-\n";
        let topology = parse(text).unwrap();
        let names: Vec<_> = topology.pops.iter().map(|pop| pop.name.as_str()).collect();
        assert_eq!(names, ["1-amsterdam-netherlands", "7-frankfurt", "7-paris"]);
        assert_eq!(topology.links[1], Link { a: 1, b: 2, delay: Duration::from_micros(4_250) });
    }

    #[test]
    fn round_trips_are_halved_and_holes_are_no_links() {
        let text = "city,\"A, x\",B,C\n\"A, x\",0,10,\nB,10,0,6\nC,,6,0\n";
        let topology = parse(text).unwrap();
        assert_eq!(topology.pops[0].name, "a-x");
        let links: Vec<_> =
            topology.links.iter().map(|l| (l.a, l.b, l.delay.as_millis())).collect();
        assert_eq!(links, [(1, 0, 5), (2, 1, 3)]);
    }

    #[test]
    fn a_wrong_line_is_named() {
        assert_eq!(parse("1\tA\t1\tB\tfast\t-\n").unwrap_err().unwrap().0, 1);
        assert!(parse("# nothing\n").unwrap_err().is_none());
    }
}
