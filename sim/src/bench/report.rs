//! Rows in the form that all suites share, the file that they are kept in, and a table for people.

use std::{fmt::Write as _, fs, io, path::Path};

use serde::{Deserialize, Serialize};

/// A figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What it is.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// The most that it should be, where there is a goal.
    pub goal: Option<f64>,
    /// Whether it is reached.
    pub holds: Option<bool>,
}

impl Row {
    /// A figure without a goal.
    #[must_use]
    pub fn plain(name: impl Into<String>, value: f64, unit: &str) -> Self {
        let (name, value, unit) = (name.into(), rounded(value), unit.to_owned());
        Self { name, value, unit, goal: None, holds: None }
    }

    /// A figure that should be no more than `goal`.
    #[must_use]
    pub fn at_most(name: impl Into<String>, value: f64, unit: &str, goal: f64) -> Self {
        let holds = Some(value <= goal);
        Self { goal: Some(goal), holds, ..Self::plain(name, value, unit) }
    }
}

/// To three decimals.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Why rows could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// It holds something else.
    #[error("{path} does not hold rows of figures: {error}; remove it, or name another file")]
    Content {
        /// The file.
        path: String,
        /// What is wrong.
        error: serde_json::Error,
    },
}

/// Writes rows to a file. Rows of the same names in it are replaced, others stay: several commands
/// add to one file.
///
/// # Errors
/// As [`KeepError`] tells.
pub fn keep(path: &Path, rows: &[Row]) -> Result<(), KeepError> {
    let file = |error| KeepError::File { path: path.display().to_string(), error };
    let content = |error| KeepError::Content { path: path.display().to_string(), error };
    let before = match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(content)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(file(error)),
    };
    let text = serde_json::to_string_pretty(&merged(before, rows)).map_err(content)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(file)?;
    }
    fs::write(path, text + "\n").map_err(file)
}

fn merged(mut rows: Vec<Row>, new: &[Row]) -> Vec<Row> {
    for row in new {
        match rows.iter_mut().find(|old| old.name == row.name) {
            Some(old) => *old = row.clone(),
            None => rows.push(row.clone()),
        }
    }
    rows
}

/// A Markdown table.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let cells = |row: &Row| {
        let goal = row.goal.map_or_else(String::new, |goal| format!("≤ {goal}"));
        let holds = match row.holds {
            Some(true) => "holds",
            Some(false) => "DOES NOT HOLD",
            None => "",
        };
        [row.name.clone(), format!("{} {}", row.value, row.unit), goal, holds.to_owned()]
    };
    let mut lines = vec![["figure", "value", "goal", ""].map(str::to_owned)];
    lines.extend(rows.iter().map(cells));
    let width =
        |n: usize| lines.iter().map(|line| line[n].chars().count()).max().unwrap_or(0).max(3);
    let widths = [width(0), width(1), width(2), width(3)];
    let mut text = String::new();
    for (n, line) in lines.iter().enumerate() {
        // Writing to a String cannot fail.
        for (cell, width) in line.iter().zip(widths) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text += "|\n";
        if n == 0 {
            for width in widths {
                let _ = write!(text, "| {:-<width$} ", "");
            }
            text += "|\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_others_stay_and_own_ones_are_replaced() {
        let old = vec![Row::plain("theirs", 1.0, "s"), Row::plain("ours", 2.0, "s")];
        let new = [Row::at_most("ours", 3.0, "s", 2.5), Row::plain("new", 4.0, "s")];
        let rows = merged(old, &new);
        let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["theirs", "ours", "new"]);
        assert_eq!((rows[1].value, rows[1].holds), (3.0, Some(false)));
    }

    #[test]
    fn a_row_is_written_as_the_other_suites_write_theirs() {
        let text = serde_json::to_string(&Row::plain("x", 1.5, "s")).unwrap();
        assert_eq!(text, r#"{"name":"x","value":1.5,"unit":"s","goal":null,"holds":null}"#);
    }
}
