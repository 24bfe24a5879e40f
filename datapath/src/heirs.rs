//! Who stands in for proxies that died.
//!
//! ```text
//!   PeerGone { A, heir: B }   flows pinned to A, and candidates named A, go to B
//!   PeerGone { B, heir: C }   both go on to C
//!   Peer A                    candidates named A go to A again; flows pinned before stay with C
//! ```
//! Pins are not walked: one whose peer's handle is of no use any more asks for the heir with its
//! next packet.

use std::collections::VecDeque;

use hashbrown::HashMap;
use pias_protocol::ids::ProxyId;

use crate::{
    limits::{MAX_HEIR_CHAIN, MAX_HEIRS},
    slots::Handle,
};

/// The heirs of the dead.
#[derive(Debug, Default)]
pub struct Heirs {
    /// Of those that are dead now.
    of: HashMap<ProxyId, ProxyId>,
    /// Of former lives, by the handle that pins still hold.
    of_life: HashMap<Handle, ProxyId>,
    /// The former lives, oldest first.
    order: VecDeque<(Handle, ProxyId)>,
}

impl Heirs {
    /// A proxy died, whose handle was `life`, or [`Handle::NONE`] where no pin names it.
    pub fn died(&mut self, dead: ProxyId, life: Handle, heir: Option<ProxyId>) {
        let Some(heir) = heir.filter(|&heir| heir != dead) else {
            self.of.remove(&dead);
            return;
        };
        if self.order.len() >= MAX_HEIRS
            && let Some((oldest, former)) = self.order.pop_front()
        {
            self.of_life.remove(&oldest);
            self.of.remove(&former);
        }
        self.of.insert(dead, heir);
        self.of_life.insert(life, heir);
        self.order.push_back((life, dead));
    }

    /// A proxy lives, maybe again.
    pub fn lives(&mut self, id: ProxyId) {
        self.of.remove(&id);
    }

    /// The proxy itself if it lives, else its heir, or the heir's.
    pub fn stand_in(&self, id: ProxyId, lives: impl Fn(ProxyId) -> bool) -> Option<ProxyId> {
        let mut id = id;
        for _ in 0..MAX_HEIR_CHAIN {
            if lives(id) {
                return Some(id);
            }
            id = *self.of.get(&id)?;
        }
        None
    }

    /// Who stands in for the life that a handle named.
    pub fn of_life(&self, life: Handle, lives: impl Fn(ProxyId) -> bool) -> Option<ProxyId> {
        self.stand_in(*self.of_life.get(&life)?, lives)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::Slots;

    const A: ProxyId = ProxyId(1);
    const B: ProxyId = ProxyId(2);
    const C: ProxyId = ProxyId(3);

    #[test]
    fn an_heir_that_dies_hands_on_what_it_inherited() {
        let mut slots = Slots::default();
        let (a, b) = (slots.insert(()), slots.insert(()));
        let mut heirs = Heirs::default();
        heirs.died(A, a, Some(B));
        assert_eq!(heirs.stand_in(A, |id| id == B), Some(B));
        heirs.died(B, b, Some(C));
        assert_eq!(heirs.stand_in(A, |id| id == C), Some(C));
        assert_eq!(heirs.of_life(a, |id| id == C), Some(C));
        assert_eq!(heirs.stand_in(A, |_| false), None);
    }

    #[test]
    fn a_proxy_that_is_back_gets_new_flows_and_not_those_of_its_former_life() {
        let mut slots = Slots::default();
        let a = slots.insert(());
        let mut heirs = Heirs::default();
        heirs.died(A, a, Some(B));
        heirs.lives(A);
        assert_eq!(heirs.stand_in(A, |_| true), Some(A));
        assert_eq!(heirs.of_life(a, |_| true), Some(B));
    }

    #[test]
    fn heirs_that_name_each_other_are_no_endless_chain() {
        let mut slots = Slots::default();
        let (a, b) = (slots.insert(()), slots.insert(()));
        let mut heirs = Heirs::default();
        heirs.died(A, a, Some(B));
        heirs.died(B, b, Some(A));
        assert_eq!(heirs.stand_in(A, |_| false), None);
    }

    #[test]
    fn the_longest_dead_are_forgotten_at_the_bound() {
        let mut slots = Slots::default();
        let mut heirs = Heirs::default();
        let lives: Vec<_> = (0..=MAX_HEIRS as u64)
            .map(|n| {
                let life = slots.insert(());
                heirs.died(ProxyId(100 + n), life, Some(A));
                life
            })
            .collect();
        assert_eq!(heirs.of_life(lives[0], |id| id == A), None);
        assert_eq!(heirs.of_life(lives[1], |id| id == A), Some(A));
    }
}
