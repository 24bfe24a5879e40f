//! The number that tells this start of the proxy from all before it.
//!
//! It is the wall clock in milliseconds, or one more than last time where the clock went back:
//! the last one is kept in the state directory.

use std::{
    fs, io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

const FILE: &str = "incarnation";

/// The incarnation of this start, and the trouble with keeping it for the next.
pub fn next(state_directory: &Path) -> (u64, io::Result<()>) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    after(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), state_directory)
}

fn after(clock: u64, state_directory: &Path) -> (u64, io::Result<()>) {
    let file = state_directory.join(FILE);
    let last = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let incarnation = clock.max(last.map_or(0, |last| last.saturating_add(1)));
    let kept = fs::create_dir_all(state_directory)
        .and_then(|()| fs::write(&file, format!("{incarnation}\n")));
    (incarnation, kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_went_back_does_not_make_an_older_incarnation() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(after(1_000, dir.path()).0, 1_000);
        assert_eq!(after(10, dir.path()).0, 1_001);
        assert_eq!(after(5_000, dir.path()).0, 5_000);
    }

    #[test]
    fn without_a_state_directory_the_clock_alone_counts() {
        let (incarnation, kept) = after(7, Path::new("/dev/null/state"));
        assert_eq!(incarnation, 7);
        assert!(kept.is_err());
    }
}
