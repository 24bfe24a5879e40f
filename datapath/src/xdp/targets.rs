//! The targets that the programs deliver to, kept equal to the forwarding table.

use std::{
    collections::HashMap as Known,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{HashMap, MapData};
use pias_protocol::{forwarding::TargetState, group::GroupKey, ids::TargetId};

use super::{
    kept::{self, FormerTarget},
    layout::{Candidate, Key, MAX_CANDIDATES, TARGETS_DRAWN, target},
    tables::{GROUP, KEY, WriteError, write_group},
};
use crate::{flow::pins::address_words, mapped::Words, slots::Handle, table::Table};

/// Targets, and which of them take new flows.
pub(super) struct Targets {
    words: Words,
    joined: HashMap<MapData, [u8; KEY], [u8; GROUP]>,
    /// What the programs were told.
    told: Known<TargetId, (Handle, GroupKey)>,
}

impl Targets {
    /// Those of the process before.
    pub(super) fn former(&self) -> Vec<FormerTarget> {
        kept::targets(&self.words).collect()
    }

    /// Whoever of these is not registered here is gone.
    pub(super) fn end_former(&self, former: &[FormerTarget], table: &Table) {
        for target in former.iter().filter(|former| former.id.is_some()) {
            if table.target(target.handle).is_none() {
                self.end(target.handle);
            }
        }
    }

    pub(super) fn new(words: Words, joined: HashMap<MapData, [u8; KEY], [u8; GROUP]>) -> Self {
        Self { words, joined, told: Known::new() }
    }

    /// Makes what stands of a target, and of its group, equal to the forwarding table again. A target that is
    /// down gets no packet of a flow from the first line on.
    pub(super) fn follow(&mut self, id: TargetId, table: &Table) -> Result<(), WriteError> {
        let now = table.handle_of(id);
        let before = self.told.remove(&id);
        if let Some((handle, group)) = before
            && now != Some(handle)
        {
            self.end(handle);
            self.set_group(&group, table)?;
        }
        let Some((handle, entry)) = now.and_then(|handle| Some((handle, table.target(handle)?)))
        else {
            return Ok(());
        };
        let group = entry.target.group;
        self.set(handle, table);
        self.told.insert(id, (handle, group));
        self.set_group(&group, table)
    }

    fn set(&self, handle: Handle, table: &Table) {
        let Some(entry) = table.target(handle) else { return };
        let Some(words) = self.words_of(handle) else { return };
        let address = entry.target.address;
        let goes_on = entry.target.state != TargetState::Down;
        let port = u64::from(u16::from_ne_bytes(address.port().to_be_bytes()));
        let life = handle.to_bits() >> 32
            | u64::from(goes_on) << 32
            | u64::from(address.is_ipv6()) << 40
            | port << 48;
        if words[target::LIFE].load(Ordering::Relaxed) as u32 != life as u32 {
            words[target::LIFE].store(0, Ordering::Release);
            words[target::HOP].store(0, Ordering::Relaxed);
        }
        for (word, value) in words[target::ADDRESS..].iter().zip(address_words(address.ip())) {
            word.store(value, Ordering::Relaxed);
        }
        words[target::LEASE].store(entry.target.id.0, Ordering::Relaxed);
        // The programs use what they read in the order of words: a target lives last.
        words[target::LIFE].store(life, Ordering::Release);
    }

    /// A target is gone. The generation of the next one in its place stays, for the process after this one.
    fn end(&self, handle: Handle) {
        if let Some(words) = self.words_of(handle) {
            let next = (handle.to_bits() >> 32) as u32;
            words[target::LIFE].store(u64::from(next.wrapping_add(1)), Ordering::Release);
            words[target::LEASE].store(0, Ordering::Relaxed);
        }
    }

    fn words_of(&self, handle: Handle) -> Option<&[AtomicU64]> {
        let index = handle.to_bits() as u32 as usize;
        self.words.get(index * target::WORDS..(index + 1) * target::WORDS)
    }

    /// The targets of a group that take new flows; none where they are more than the programs draw among:
    /// then user space has the say.
    fn set_group(&mut self, group: &GroupKey, table: &Table) -> Result<(), WriteError> {
        let takers = table.targets_of(group).filter(|&(handle, _)| table.takes_flows(handle));
        let mut drawn: Vec<_> = takers
            .take(TARGETS_DRAWN + 1)
            .map(|(handle, target)| Candidate {
                id: target.id.0,
                weight: target.weight,
                peer: handle.to_bits() as u32,
                generation: (handle.to_bits() >> 32) as u32,
                zero: 0,
            })
            .collect();
        if drawn.len() > TARGETS_DRAWN {
            drawn.clear();
        }
        // What is left of a larger group goes last. All that reads them stops at a part that is not full.
        let mut parts = drawn.chunks(MAX_CANDIDATES);
        for part in 0.. {
            let rest = parts.next().unwrap_or_default();
            let key = Key { part, ..Key::from(group) };
            if !write_group(&mut self.joined, key, rest.iter().copied())? && rest.is_empty() {
                break;
            }
        }
        Ok(())
    }
}
