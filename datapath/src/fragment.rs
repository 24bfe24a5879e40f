//! Virtual reassembly: later fragments follow their first, which alone has the ports.
//!
//! ```text
//! first comes first     decided ──► later fragments follow at once
//! a later comes first   waits   ──► the first decides, and those that wait follow it
//! ```

use std::{collections::VecDeque, net::IpAddr};

use hashbrown::HashMap;
use pias_protocol::{geneve, hash::FlowHash, ids::ParkedId, time::Time};

use crate::{
    drop_reason::DropReason,
    limits::{HELD_FOR, HELD_PER_TRAIN, Limits, TRAIN_FOR},
    packet::Packet,
    wire::ip::Ip,
};

/// What the fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrainKey {
    source: IpAddr,
    destination: IpAddr,
    /// Of IPv4; 0 for IPv6, whose fragments have no part of it in common: what stands behind the
    /// fragment header of the first may be one more extension header (RFC 8200 section 4.5).
    protocol: u8,
    id: u32,
    /// Fragments from the tunnel never mix with those from the kernel.
    tunnelled: bool,
}

impl TrainKey {
    /// The key of a fragment; `None` for a whole packet.
    #[must_use]
    pub fn of(ip: &Ip, tunnelled: bool) -> Option<Self> {
        ip.fragment.map(|fragment| Self {
            source: ip.source,
            destination: ip.destination,
            protocol: if ip.is_v6() { 0 } else { ip.protocol },
            id: fragment.id,
            tunnelled,
        })
    }

    /// Whether the fragments came through the tunnel.
    #[must_use]
    pub const fn tunnelled(&self) -> bool {
        self.tunnelled
    }
}

/// Where later fragments go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Nobody knows yet.
    Undecided,
    /// Their first waits for the overlay.
    Parked(ParkedId),
    /// Into the tunnel.
    Peer {
        /// To this tunnel endpoint.
        tunnel: IpAddr,
        /// What chooses the outer source port.
        flow: FlowHash,
        /// With this header.
        header: geneve::Header,
    },
    /// Out of the TUN device, with these addresses and this identification.
    Rewrite {
        /// The new source.
        source: IpAddr,
        /// The new destination.
        destination: IpAddr,
        /// The new identification.
        id: u32,
    },
    /// Nowhere.
    Drop(DropReason),
}

#[derive(Debug)]
struct Train {
    follow: Follow,
    held: Vec<Packet>,
    began: Time,
}

/// The fragmented packets under way.
#[derive(Debug)]
pub struct Fragments {
    trains: HashMap<TrainKey, Train>,
    /// Oldest first; a train that was replaced has an entry for each time it began.
    order: VecDeque<(Time, TrainKey)>,
    /// Undecided ones, oldest first.
    waiting: VecDeque<(Time, TrainKey)>,
    held: usize,
    limits: Limits,
}

impl Fragments {
    /// No fragments.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            trains: HashMap::new(),
            order: VecDeque::new(),
            waiting: VecDeque::new(),
            held: 0,
            limits,
        }
    }

    /// How many fragments wait.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held
    }

    /// Where the later fragments of a packet go, as far as is known.
    #[must_use]
    pub fn follow(&self, key: &TrainKey) -> Follow {
        self.trains.get(key).map_or(Follow::Undecided, |train| train.follow)
    }

    /// Keeps a fragment until its first decides. Returns how many other fragments had to go.
    ///
    /// # Errors
    /// [`DropReason::FragmentRoomFull`].
    pub fn hold(&mut self, key: TrainKey, packet: &Packet, now: Time) -> Result<u64, DropReason> {
        let dropped = self.begin(key, now);
        let train = self.trains.get_mut(&key).ok_or(DropReason::FragmentRoomFull)?;
        if self.held >= self.limits.fragments_held || train.held.len() >= HELD_PER_TRAIN {
            return Err(DropReason::FragmentRoomFull);
        }
        train.held.push(packet.to_kept());
        self.held += 1;
        Ok(dropped)
    }

    /// The first fragment decided. Returns the fragments that waited for it and may follow now,
    /// and how many others had to go.
    pub fn decide(&mut self, key: TrainKey, follow: Follow, now: Time) -> (Vec<Packet>, u64) {
        let dropped = self.begin(key, now);
        let Some(train) = self.trains.get_mut(&key) else { return (Vec::new(), dropped) };
        train.follow = follow;
        if matches!(follow, Follow::Undecided | Follow::Parked(_)) {
            return (Vec::new(), dropped);
        }
        self.held -= train.held.len();
        (std::mem::take(&mut train.held), dropped)
    }

    fn begin(&mut self, key: TrainKey, now: Time) -> u64 {
        if self.trains.contains_key(&key) {
            return 0;
        }
        let mut dropped = 0;
        while self.order.len() >= self.limits.fragment_trains.max(1) {
            let Some((began, oldest)) = self.order.pop_front() else { break };
            dropped += self.end(&oldest, began);
        }
        // As many wait at most: what is older has been decided, or was just given up.
        if self.waiting.len() >= self.limits.fragment_trains.max(1)
            && let Some((began, oldest)) = self.waiting.pop_front()
        {
            dropped += self.end_undecided(&oldest, began);
        }
        self.trains.insert(key, Train { follow: Follow::Undecided, held: Vec::new(), began: now });
        self.order.push_back((now, key));
        self.waiting.push_back((now, key));
        dropped
    }

    fn end_undecided(&mut self, key: &TrainKey, began: Time) -> u64 {
        match self.follow(key) {
            Follow::Undecided | Follow::Parked(_) => self.end(key, began),
            _ => 0,
        }
    }

    fn end(&mut self, key: &TrainKey, began: Time) -> u64 {
        if self.trains.get(key).is_none_or(|train| train.began != began) {
            return 0;
        }
        let held = self.trains.remove(key).map_or(0, |train| train.held.len());
        self.held -= held;
        held as u64
    }

    /// Forgets what is too old. Returns how many fragments waited in vain.
    pub fn expire(&mut self, now: Time) -> u64 {
        let mut dropped = 0;
        while let Some(&(began, key)) = self.waiting.front()
            && now.since(began) >= HELD_FOR
        {
            self.waiting.pop_front();
            dropped += self.end_undecided(&key, began);
        }
        while let Some(&(began, key)) = self.order.front()
            && now.since(began) >= TRAIN_FOR
        {
            self.order.pop_front();
            dropped += self.end(&key, began);
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::addr;

    fn key(id: u32) -> TrainKey {
        TrainKey {
            source: addr("192.0.2.1"),
            destination: addr("203.0.113.1"),
            protocol: 17,
            id,
            tunnelled: false,
        }
    }

    const NOW: Time = Time::from_micros(1);

    #[test]
    fn fragments_wait_for_their_first_and_then_follow() {
        let mut fragments = Fragments::new(Limits::default());
        let piece = Packet::from_bytes(&[1, 2, 3]);
        fragments.hold(key(1), &piece, NOW).unwrap();
        let (free, _) = fragments.decide(key(1), Follow::Parked(ParkedId(4)), NOW);
        assert!(free.is_empty());
        let decided = Follow::Drop(DropReason::HopLimit);
        let (free, _) = fragments.decide(key(1), decided, NOW);
        assert_eq!((free.len(), fragments.held()), (1, 0));
        assert_eq!(fragments.follow(&key(1)), decided);
        assert_eq!(fragments.expire(NOW + TRAIN_FOR), 0);
        assert_eq!(fragments.follow(&key(1)), Follow::Undecided);
    }

    #[test]
    fn a_flood_of_first_fragments_fills_no_memory() {
        let limits = Limits { fragment_trains: 8, ..Limits::default() };
        let mut fragments = Fragments::new(limits);
        for id in 0..1000 {
            fragments.decide(key(id), Follow::Drop(DropReason::HopLimit), NOW);
        }
        assert_eq!((fragments.trains.len(), fragments.order.len()), (8, 8));
        assert_eq!(fragments.waiting.len(), 8);
    }

    #[test]
    fn fragments_whose_first_never_comes_are_counted() {
        let limits = Limits { fragments_held: 3, fragment_trains: 2, ..Limits::default() };
        let mut fragments = Fragments::new(limits);
        let piece = Packet::from_bytes(&[1, 2, 3]);
        assert_eq!(fragments.hold(key(1), &piece, NOW), Ok(0));
        assert_eq!(fragments.hold(key(2), &piece, NOW), Ok(0));
        assert_eq!(fragments.hold(key(3), &piece, NOW), Ok(1), "the oldest train goes");
        assert_eq!(fragments.hold(key(3), &piece, NOW), Ok(0));
        assert_eq!(fragments.hold(key(3), &piece, NOW), Err(DropReason::FragmentRoomFull));
        assert_eq!(fragments.expire(NOW + HELD_FOR), 3);
        assert_eq!(fragments.held(), 0);
    }
}
