//! What tables of a size take.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use aya::{
    maps::{MapInfo, loaded_maps},
    programs::{ProgramInfo, loaded_programs},
};

use pias_protocol::{
    forwarding::{ForwardingUpdate, IngressEntry, Target, TargetState},
    ids::TargetId,
};

use super::bed::{Bed, BedError, group, on_its_own};
use crate::limits::Limits;

/// Sizes of tables.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Groups that are known as an ingress.
    pub groups: u32,
    /// Targets of this proxy.
    pub targets: u32,
    /// Flows for which there is room in each table of flows.
    pub flows: usize,
}

/// Octets of memory.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Of the tables in the kernel, as it accounts for them: room for flows counts, used or not.
    pub tables: u64,
    /// Of this process, beyond what it had before.
    pub process: u64,
    /// Beside memory: how long it takes at most, of some targets, until a word of the overlay that one is down
    /// has come to where the programs read it before each packet.
    pub down: Duration,
}

/// Targets that go down.
const DOWN: u32 = 100;

/// Fills tables of these sizes, but with flows. Needs root.
///
/// # Errors
/// As [`BedError`] tells.
pub fn measure(sizes: Sizes) -> Result<Memory, BedError> {
    on_its_own(|| {
        let before = resident(std::process::id());
        let limits = Limits {
            ingress_flows: sizes.flows,
            nat_flows: sizes.flows,
            groups: (sizes.groups as usize).next_power_of_two(),
            members: (sizes.targets as usize).next_power_of_two(),
            ..Limits::default()
        };
        let mut bed = Bed::new(limits)?;
        for number in 0..sizes.groups {
            let (address, port) = numbered(number);
            let entry = IngressEntry::Candidates(Bed::candidates());
            bed.tell(ForwardingUpdate::Ingress { group: group(address, port), entry })?;
        }
        for number in 0..sizes.targets {
            bed.tell(target(number, sizes.groups, TargetState::Up))?;
        }
        let process = resident(std::process::id()).saturating_sub(before);
        let mut down = Duration::ZERO;
        for number in (0..sizes.targets).step_by((sizes.targets / DOWN).max(1) as usize) {
            let told = Instant::now();
            bed.tell(target(number, sizes.groups, TargetState::Down))?;
            down = down.max(told.elapsed());
        }
        Ok(Memory { tables: tables_of(std::process::id()), process, down })
    })
}

fn target(number: u32, groups: u32, state: TargetState) -> ForwardingUpdate {
    let (address, port) = numbered(number % groups);
    let (id, group) = (TargetId(number.into()), group(address, port));
    let address = (Ipv4Addr::from(0x0A80_0000 | number), port).into();
    ForwardingUpdate::Target(Target { id, group, address, weight: 1, state })
}

/// A group of its own for each number below 2^16.
fn numbered(number: u32) -> (Ipv4Addr, u16) {
    (Ipv4Addr::from(0xCB00_0000 | (number & 0xFFFF)), 53)
}

/// Octets of all tables of the XDP programs that a process has open. Tables that it has mapped stay though it
/// closes them, so the programs are asked.
#[must_use]
pub fn tables_of(process: u32) -> u64 {
    let infos = fs::read_dir(format!("/proc/{process}/fdinfo")).into_iter().flatten().flatten();
    let text = infos.map(|entry| fs::read_to_string(entry.path()).unwrap_or_default());
    let programs: BTreeSet<_> = text.filter_map(|text| number_of(&text, "prog_id:")).collect();
    let of_process = |info: &ProgramInfo| programs.contains(&info.id().into());
    let tables: BTreeSet<_> = loaded_programs()
        .flatten()
        .filter(of_process)
        .filter_map(|info| info.map_ids().ok().flatten())
        .flatten()
        .collect();
    loaded_maps()
        .flatten()
        .filter(|info| tables.contains(&info.id()))
        .map(|info| octets(&info))
        .sum()
}

fn octets(info: &MapInfo) -> u64 {
    let Ok(table) = info.fd() else { return 0 };
    let path = format!("/proc/self/fdinfo/{}", table.as_fd().as_raw_fd());
    number_of(&fs::read_to_string(path).unwrap_or_default(), "memlock:").unwrap_or_default()
}

/// Octets of a process' own memory that is in use.
#[must_use]
pub fn resident(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    number_of(&text, "RssAnon:").unwrap_or_default() * 1024
}

fn number_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_names() {
        let text = "pos:\t0\nmap_type:\t2\nmemlock:\t4096\nmap_id:\t17\n";
        assert_eq!(number_of(text, "memlock:"), Some(4096));
        assert_eq!(number_of(text, "map_id:"), Some(17));
        assert_eq!(number_of(text, "frozen:"), None);
    }
}
