//! Every input that a fuzzer found interesting runs through its target in each test run.

use std::{fs, path::Path};

use pias_fuzz::TARGETS;

#[test]
fn every_corpus_replays_without_a_finding() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in TARGETS {
        let corpus = corpora.join(name);
        let inputs: Vec<_> = fs::read_dir(&corpus)
            .unwrap_or_else(|error| panic!("{}: {error}", corpus.display()))
            .map(|entry| entry.expect("a readable corpus").path())
            .collect();
        assert!(inputs.len() >= 10, "{}: a corpus of {} inputs", corpus.display(), inputs.len());
        for input in inputs {
            let bytes = fs::read(&input).expect("a readable input");
            if std::panic::catch_unwind(|| target(&bytes)).is_err() {
                panic!("{name} has a finding: {}", input.display());
            }
        }
    }
}
