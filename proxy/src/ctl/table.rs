//! Aligned tables out of JSON.

use serde_json::Value;

/// A column: its title, and the field of a row that it shows.
pub(super) type Column = (&'static str, &'static str);

/// Rows under their titles, numbers to the right. `none` where there are no rows.
pub(super) fn table(rows: &[Value], columns: &[Column], none: &str) -> String {
    if rows.is_empty() {
        return format!("{none}\n");
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| columns.iter().map(|(_, field)| cell(&row[field])).collect())
        .collect();
    let right: Vec<bool> = columns
        .iter()
        .map(|(_, field)| rows.iter().all(|row| row[field].is_number() || row[field].is_null()))
        .collect();
    let titles = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    align(&titles, &cells, &right)
}

/// `key: value` lines with the values below each other.
pub(super) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0);
    pairs.iter().map(|(key, value)| format!("{key:<width$}  {value}\n")).collect()
}

/// A value for a person.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(fraction) => format!("{fraction:.1}"),
            None => number.to_string(),
        },
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(_) => value.to_string(),
    }
}

fn align(titles: &Vec<String>, rows: &[Vec<String>], right: &[bool]) -> String {
    let mut widths: Vec<usize> = titles.iter().map(|title| title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &Vec<String>| {
        let padded: Vec<String> = row
            .iter()
            .zip(&widths)
            .zip(right)
            .map(
                |((cell, &width), right)| {
                    if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
                },
            )
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    std::iter::once(titles).chain(rows).map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_right() {
        let rows = [
            json!({ "name": "fra1", "rtt_ms": 0.84, "n": 7, "on": true }),
            json!({ "name": "singapore1", "rtt_ms": null, "n": 1200, "on": false }),
        ];
        let columns = [("NAME", "name"), ("RTT ms", "rtt_ms"), ("N", "n"), ("ON", "on")];
        assert_eq!(
            table(&rows, &columns, "nobody"),
            "NAME        RTT ms     N  ON\n\
             fra1           0.8     7  yes\n\
             singapore1       -  1200  no\n"
        );
    }

    #[test]
    fn no_rows_are_said_in_words() {
        assert_eq!(table(&[], &[("NAME", "name")], "nobody"), "nobody\n");
    }

    #[test]
    fn pairs_stand_below_each_other() {
        assert_eq!(pairs(&[("a", "1".into()), ("long", "2".into())]), "a     1\nlong  2\n");
    }
}
