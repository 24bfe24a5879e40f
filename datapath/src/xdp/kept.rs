//! What outlives a process that is killed, for a time of grace: the program goes on by tables that files
//! hold, and a process that comes in time goes on with them.
//!
//! ```text
//!   DIRECTORY in bpffs  │ eth0-native   the program is attached (attach)
//!                       │ PEERS PINS ...  its tables
//!                       │ STATE         with whose they are, and until when they may be used
//! ```
//! All of the tables are adopted or none: a process with another configuration or layout begins with new
//! ones. Flows stay where they were because handles of peers mean what they meant.

use std::{
    fs, io,
    net::IpAddr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use aya::{maps::MapData, pin::PinError};
use nix::{
    sys::statfs::{BPF_FS_MAGIC, statfs},
    time::{ClockId, clock_getres, clock_gettime},
};
use pias_protocol::ids::{ProxyId, TargetId};
use xxhash_rust::xxh3::xxh3_64;

use super::layout::{peer, state, target};
use crate::{
    flow::pins::{Coarse, address},
    mapped::Words,
    pipeline::PipelineConfig,
    slots::Handle,
};

/// The tables that are kept; the last says whose all of them are, so it is written last and removed first.
pub const TABLES: [&str; 9] = [
    "PEERS",
    "TARGETS",
    "PINS",
    "NAT_FLOWS",
    "NAT_FORWARD",
    "NAT_REVERSE",
    "NAT_FREE",
    "NAT_STATE",
    "STATE",
];

/// What the tables' layout depends on: with any change of it tables are not adopted.
const LAYOUT: &str = concat!(
    include_str!("../../bpf/layout.h"),
    include_str!("../../bpf/maps.h"),
    include_str!("../../bpf/pins.h"),
    include_str!("../../bpf/nat.h"),
);

/// A peer of the process before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Former {
    /// What pins call it.
    pub handle: Handle,
    /// Which proxy it was.
    pub id: ProxyId,
    /// Its tunnel endpoint; `None` if it was gone.
    pub tunnel: Option<IpAddr>,
}

/// A target of the process before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerTarget {
    /// What translated flows call it.
    pub handle: Handle,
    /// Its lease; `None` if it was gone.
    pub id: Option<TargetId>,
}

/// Tables of a process that runs, or was killed a moment ago.
#[derive(Debug)]
pub struct Kept {
    directory: PathBuf,
    /// By which flows are spread over the table of pins.
    pub seed: u64,
    /// What the clock of that process said last. The next one's goes on from there, so that flows are as old
    /// as they are.
    pub now: Duration,
}

impl Kept {
    /// The tables in `directory`, if they are of a proxy configured like this one, and may be used yet.
    #[must_use]
    pub fn find(directory: &Path, config: &PipelineConfig) -> Option<Self> {
        let state = open(directory, "STATE", state::WORDS)?;
        let word = |at: usize| state[at].load(Ordering::Acquire);
        let in_time = word(state::UNTIL) > coarse_clock().as_nanos() as u64;
        if !in_time || word(state::FINGERPRINT) != fingerprint(config) {
            return None;
        }
        if TABLES.iter().any(|table| MapData::from_pin(directory.join(table)).is_err()) {
            return None;
        }
        let now = Coarse::TICK * word(state::NOW) as u32;
        Some(Self { directory: directory.to_owned(), seed: word(state::SEED), now })
    }

    /// Where a table is kept.
    pub(super) fn path(&self, table: &str) -> PathBuf {
        self.directory.join(table)
    }
}

fn open(directory: &Path, table: &'static str, words: usize) -> Option<Words> {
    let map = MapData::from_pin(directory.join(table)).ok()?;
    Words::shared(map.fd().as_fd(), words).ok()
}

/// The peers that a table of theirs knows, in the order of their handles' indexes.
pub(super) fn peers(words: &[AtomicU64]) -> impl Iterator<Item = Former> {
    words.chunks_exact(peer::WORDS).enumerate().filter_map(former)
}

/// The targets that a table of theirs knows, in the order of their handles' indexes.
pub(super) fn targets(words: &[AtomicU64]) -> impl Iterator<Item = FormerTarget> {
    words.chunks_exact(target::WORDS).enumerate().filter_map(former_target)
}

/// `None` where there never was a target.
fn former_target((index, words): (usize, &[AtomicU64])) -> Option<FormerTarget> {
    let word = |at: usize| words[at].load(Ordering::Relaxed);
    let (generation, lease) = (word(target::LIFE) as u32, word(target::LEASE));
    let handle = |generation: u32| Handle::from_bits(index as u64 | u64::from(generation) << 32);
    match lease {
        0 if generation == 0 => None,
        // What is gone has left the next one's generation.
        0 => Some(FormerTarget { handle: handle(generation.wrapping_sub(1)), id: None }),
        id => Some(FormerTarget { handle: handle(generation), id: Some(TargetId(id)) }),
    }
}

/// `None` where there never was a peer.
fn former((index, words): (usize, &[AtomicU64])) -> Option<Former> {
    let word = |at: usize| words[at].load(Ordering::Relaxed);
    let (life, id) = (word(peer::LIFE), word(peer::ID));
    let tunnel = address([word(peer::TUNNEL), word(peer::TUNNEL + 1)]);
    let handle = Handle::from_bits(index as u64 | life << 32);
    let tunnel = (life >> 32 & 1 == 1).then_some(tunnel);
    (id != 0).then_some(Former { handle, id: ProxyId(id), tunnel })
}

/// Of tables that only processes with the same one can use.
pub(super) fn fingerprint(config: &PipelineConfig) -> u64 {
    let PipelineConfig { self_id, anycast, nat, unicast, limits, .. } = config;
    let whose = format!("{LAYOUT}{self_id:?}{anycast:?}{nat:?}{unicast:?}{limits:?}");
    xxh3_64(whose.as_bytes())
}

/// The kernel's time since it started, as of its last tick.
pub(super) fn coarse_clock() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::MAX, Duration::from)
}

/// Nanoseconds from one tick of the kernel to the next.
pub(super) fn jiffy() -> u32 {
    let between = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map(Duration::from);
    // With the shortest there is, the end comes too late by a factor of ten at most.
    between.map_or(1_000_000, |between| between.subsec_nanos().max(1))
}

/// Leaves tables to files in `directory`, in place of those that are there.
pub(super) fn keep(tables: &[(&'static str, MapData)], directory: &Path) -> Result<(), PinError> {
    let path = |table: &str| directory.join(table);
    for (table, _) in tables.iter().rev() {
        let _ = fs::remove_file(path(table));
    }
    tables.iter().try_for_each(|(table, map)| map.pin(path(table)))
}

/// Makes a directory in a BPF file system.
///
/// # Errors
/// `Unsupported` where there is none; else what the kernel says.
pub fn make(directory: &Path) -> io::Result<()> {
    let parent = directory.parent().unwrap_or(directory);
    if statfs(parent)?.filesystem_type() != BPF_FS_MAGIC {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "it is no BPF file system"));
    }
    fs::create_dir_all(directory)
}

/// Takes away what is in `directory` but for files of these names: what they held ends, unless a process
/// holds it. Without any, the directory goes, too.
pub fn forget(directory: &Path, but: &[String]) {
    for left in fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_wanted = left.file_name().to_str().is_some_and(|name| but.iter().any(|b| b == name));
        if !is_wanted && let Err(error) = fs::remove_file(left.path()) {
            tracing::warn!("cannot remove {}: {error}", left.path().display());
        }
    }
    if but.is_empty() {
        let _ = fs::remove_dir(directory);
    }
}
