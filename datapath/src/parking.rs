//! Packets that wait for the overlay's word.

use std::{collections::BTreeMap, net::IpAddr};

use hashbrown::HashMap;
use pias_protocol::{
    group::GroupKey,
    hash::FlowKey,
    ids::{ParkedId, ProxyId},
    time::Time,
};

use crate::{
    drop_reason::DropReason,
    fragment::{Follow, TrainKey},
    limits::{Limits, PARKED_FOR},
    packet::Packet,
    slots::Handle,
};

/// How a client's packet came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The proxy that it entered at.
    pub ingress: Ingress,
    /// How many proxies it has visited, this one included.
    pub visited: u8,
    /// Whether it came through the tunnel.
    pub tunnelled: bool,
    /// Whether the ingress does not know yet that this proxy takes the flow.
    pub notify: bool,
    /// Whether a JAP sent it back.
    pub sent_back: bool,
}

/// The proxy that a client's packet entered at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// This one.
    Here,
    /// A peer.
    Peer {
        /// Its handle.
        handle: Handle,
        /// Its id.
        id: ProxyId,
        /// The address that the option names.
        tunnel: IpAddr,
    },
}

/// A packet that waits, as it came.
#[derive(Debug)]
pub struct Parked {
    /// The packet.
    pub packet: Packet,
    /// Its flow.
    pub key: FlowKey,
    /// How it came.
    pub arrival: Arrival,
    /// The train of fragments that follows it, if it is a first fragment.
    pub train: Option<TrainKey>,
    at: Time,
}

/// The room for packets that wait.
#[derive(Debug)]
pub struct Parking {
    /// In the order of their arrival: ids only grow.
    parked: BTreeMap<u64, Parked>,
    per_group: HashMap<GroupKey, usize>,
    limits: Limits,
    next: u64,
}

impl Parking {
    /// An empty room.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { parked: BTreeMap::new(), per_group: HashMap::new(), limits, next: 1 }
    }

    /// How many packets wait.
    #[must_use]
    pub fn count(&self) -> usize {
        self.parked.len()
    }

    /// Keeps a copy of a packet.
    ///
    /// # Errors
    /// [`DropReason::ParkingFull`].
    pub fn park(
        &mut self,
        packet: &Packet,
        key: FlowKey,
        arrival: Arrival,
        now: Time,
    ) -> Result<ParkedId, DropReason> {
        let share = self.per_group.get(&key.group).copied().unwrap_or(0);
        if self.parked.len() >= self.limits.parked || share >= self.limits.parked_per_group {
            return Err(DropReason::ParkingFull);
        }
        let id = self.next;
        self.next += 1;
        let packet = packet.to_kept();
        self.parked.insert(id, Parked { packet, key, arrival, train: None, at: now });
        self.per_group.insert(key.group, share + 1);
        Ok(ParkedId(id))
    }

    /// The packet parked last is a first fragment, and these fragments follow it.
    pub fn followed_by(&mut self, train: TrainKey) -> Follow {
        let id = self.next - 1;
        if let Some(parked) = self.parked.get_mut(&id) {
            parked.train = Some(train);
        }
        Follow::Parked(ParkedId(id))
    }

    /// The packet, while it waits.
    pub fn get_mut(&mut self, id: ParkedId) -> Option<&mut Parked> {
        self.parked.get_mut(&id.0)
    }

    /// Takes a packet out.
    pub fn take(&mut self, id: ParkedId) -> Option<Parked> {
        let parked = self.parked.remove(&id.0)?;
        if let Some(share) = self.per_group.get_mut(&parked.key.group) {
            *share -= 1;
            if *share == 0 {
                self.per_group.remove(&parked.key.group);
            }
        }
        Some(parked)
    }

    /// Takes out the next packet that has waited too long.
    pub fn expire(&mut self, now: Time) -> Option<Parked> {
        let (&id, first) = self.parked.first_key_value()?;
        if now.since(first.at) < PARKED_FOR {
            return None;
        }
        self.take(ParkedId(id))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing;

    const HERE: Arrival = Arrival {
        ingress: Ingress::Here,
        visited: 1,
        tunnelled: false,
        notify: false,
        sent_back: false,
    };

    fn key(group: &str) -> FlowKey {
        FlowKey { client: "192.0.2.1:9".parse().unwrap(), group: group.parse().unwrap() }
    }

    #[test]
    fn a_group_has_its_share_and_no_more() {
        let limits = Limits { parked: 5, parked_per_group: 2, ..Limits::default() };
        let mut parking = Parking::new(limits);
        let packet = testing::udp("192.0.2.1:9", "203.0.113.1:53", b"x");
        let now = Time::from_micros(1);
        let mut park = |group: &str| {
            let key = key(group);
            parking.park(&packet, key, HERE, now)
        };
        let first = park("203.0.113.1:53/udp").unwrap();
        park("203.0.113.1:53/udp").unwrap();
        assert_eq!(park("203.0.113.1:53/udp"), Err(DropReason::ParkingFull));
        park("203.0.113.1:54/udp").unwrap();
        assert!(parking.take(first).is_some());
        assert!(parking.take(first).is_none(), "a packet leaves once");
        assert!(parking.expire(now + Duration::from_millis(999)).is_none());
        assert!(parking.expire(now + PARKED_FOR).is_some());
        assert_eq!(parking.count(), 1);
    }
}
