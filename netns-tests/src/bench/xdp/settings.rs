//! Settings that the whole machine has in common.

use std::fs;

use super::inside::system;
use super::limits::{TRACKED, TRACKED_BUCKETS};
use crate::bench::BenchError;

/// That each session gets the same share of a core, however its processes are preferred.
const SHARES: &str = "/proc/sys/kernel/sched_autogroup_enabled";

/// Connections that are tracked at most, and buckets for them.
const CONNECTIONS: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const BUCKETS: &str = "/sys/module/nf_conntrack/parameters/hashsize";

/// Changed settings. What there was before comes back when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Settings {
    before: Vec<(&'static str, String)>,
}

impl Settings {
    /// Room for as many tracked connections as are measured.
    pub(super) fn for_tracking() -> Result<Self, BenchError> {
        let mut settings = Self::default();
        settings.set(CONNECTIONS, TRACKED)?;
        settings.set(BUCKETS, TRACKED_BUCKETS)?;
        Ok(settings)
    }

    /// Who is preferred gets a core first, where the kernel can do otherwise.
    pub(super) fn for_preference() -> Result<Self, BenchError> {
        let mut settings = Self::default();
        if fs::exists(SHARES).unwrap_or(false) {
            settings.set(SHARES, 0)?;
        }
        Ok(settings)
    }

    fn set(&mut self, path: &'static str, value: u32) -> Result<(), BenchError> {
        let refused = |source| system(&format!("set {path}"), source);
        let before = fs::read_to_string(path).map_err(refused)?;
        self.before.push((path, before));
        fs::write(path, value.to_string()).map_err(refused)
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        for (path, value) in self.before.iter().rev() {
            if let Err(error) = fs::write(path, value) {
                eprintln!("cannot set {path} to {} again: {error}", value.trim());
            }
        }
    }
}
