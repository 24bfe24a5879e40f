//! What is to be done with a packet, and what leaves beside it.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use pias_protocol::{forwarding::ForwardingEvent, geneve, hash::FlowHash};

use crate::{drop_reason::DropReason, limits::MAX_SIDE, packet::Packet};

/// What is to be done with a packet. The pipeline has counted it already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Write it to the TUN device: the kernel routes it on.
    Tun,
    /// Send it to another proxy, in the tunnel.
    Peer {
        /// The proxy's tunnel endpoint.
        tunnel: IpAddr,
        /// Chooses the outer source port.
        flow: FlowHash,
        /// What to put in front of it.
        header: geneve::Header,
    },
    /// A datagram for piasd's QUIC endpoint.
    Registration {
        /// The anycast address and port that it was sent to.
        local: SocketAddr,
        /// Who sent it.
        remote: SocketAddr,
        /// The datagram's payload within the packet.
        payload: Range<usize>,
    },
    /// The pipeline kept a copy, until the overlay or a first fragment says where it goes.
    Parked,
    /// It goes no further.
    Drop(DropReason),
    /// It was consumed; its answer, if there is one, is in [`Side`].
    Answered,
}

/// What leaves beside the packet at hand: answers, packets that waited, events. The engine empties
/// it after each batch.
#[derive(Debug, Default)]
pub struct Side {
    /// Packets, each [`Verdict::Tun`] or [`Verdict::Peer`]; at most [`MAX_SIDE`].
    pub packets: Vec<(Verdict, Packet)>,
    /// Events for the overlay; at most [`MAX_SIDE`].
    pub events: Vec<ForwardingEvent>,
}

impl Side {
    /// Empties both, keeping their memory.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.events.clear();
    }

    /// Whether the packet fitted.
    pub(crate) fn push_packet(&mut self, verdict: Verdict, packet: Packet) -> bool {
        let fits = self.packets.len() < MAX_SIDE;
        if fits {
            self.packets.push((verdict, packet));
        }
        fits
    }

    /// Whether the event fitted.
    pub(crate) fn push_event(&mut self, event: ForwardingEvent) -> bool {
        let fits = self.events.len() < MAX_SIDE;
        if fits {
            self.events.push(event);
        }
        fits
    }
}
