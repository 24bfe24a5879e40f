//! Runs `fixtures/*.txt` through the user-space pipeline. The format: `fixtures/README.md`.

#[path = "support/fixtures.rs"]
mod fixtures;

use std::fs;

use fixtures::{NOW, all, arrival, config, update};
use pias_datapath::pipeline::{Pipeline, Side};

/// The file as it should be.
fn run(text: &str) -> String {
    let mut pipeline = Pipeline::new(config());
    let mut found = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if matches!(words.first(), Some(&("verdict" | "bytes" | "beside"))) {
            continue;
        }
        found.push_str(line);
        found.push('\n');
        if words.first().is_none_or(|word| word.starts_with('#')) {
            continue;
        }
        if let Some(update) = update(&words) {
            pipeline.apply(update, NOW, &mut Side::default());
        } else {
            let arrival = arrival(&words).unwrap_or_else(|| panic!("unknown line: {line}"));
            for line in arrival.outcome(&mut pipeline, NOW) {
                found.push_str(&line);
                found.push('\n');
            }
        }
    }
    found
}

#[test]
fn every_fixture_ends_as_it_says() {
    for (path, text) in all() {
        let found = run(&text);
        if std::env::var_os("PIAS_BLESS").is_some() {
            fs::write(&path, found).unwrap();
        } else {
            assert_eq!(text, found, "{}", path.display());
        }
    }
}
