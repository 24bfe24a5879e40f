//! Why a packet went no further: one enum, one counter each, the same for every engine.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// Why a packet went no further.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in metrics and in `piasctl`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// Shorter than its headers say, or lengths that contradict each other.
    Malformed => "malformed",
    /// Neither IPv4 nor IPv6.
    IpVersion => "ip_version",
    /// More IPv6 extension headers than are walked, or a source route among them.
    ExtensionHeaders => "extension_headers",
    /// A source that no host may send from, or that is ours: multicast, broadcast, loopback,
    /// unspecified, an anycast address, a NAT address.
    BadSource => "bad_source",
    /// Neither to an anycast address nor to a NAT address of this proxy.
    NotOurs => "not_ours",
    /// To or from port 0.
    PortZero => "port_zero",
    /// Another protocol than TCP, UDP or ICMP (the client is told, rate limited).
    ProtocolUnsupported => "protocol_unsupported",
    /// A tunnel packet whose outer source is no live proxy.
    UnknownPeer => "unknown_peer",
    /// A datagram to the tunnel's port that is no Geneve of ours.
    TunnelMalformed => "tunnel_malformed",
    /// A tunnel packet for something else than an anycast address: never delivered elsewhere.
    OutsidePrefix => "outside_prefix",
    /// Visited too many proxies.
    HopLimit => "hop_limit",
    /// The proxy it should go to is gone, or shares no address family with this one.
    PeerUnreachable => "peer_unreachable",
    /// The room for packets that wait for the overlay is full, or the group's share of it.
    ParkingFull => "parking_full",
    /// The overlay gave no verdict in time.
    ParkedExpired => "parked_expired",
    /// No NAT address of the packet's family is configured (the client is told, rate limited).
    NoNatAddress => "no_nat_address",
    /// No NAT port towards the target is free (the client is told, rate limited).
    NatPortsExhausted => "nat_ports_exhausted",
    /// The table of NAT flows is full of flows that may not be evicted (the client is told, rate
    /// limited).
    NatTableFull => "nat_table_full",
    /// To a NAT address, of no known flow.
    UnknownFlow => "unknown_flow",
    /// The answer to a probe, consumed.
    ProbeAnswer => "probe_answer",
    /// An answer (a reset, an ICMP error, an echo reply) was due, but its rate is spent.
    RateLimited => "rate_limited",
    /// A reset for a reset, or an error for what must not be answered with one.
    Unanswerable => "unanswerable",
    /// A first fragment that does not hold the whole transport header.
    TinyFragment => "tiny_fragment",
    /// A fragment that overlaps the transport header of its first, or runs past 65,535 octets.
    FragmentOverlap => "fragment_overlap",
    /// A later fragment whose first never came.
    FragmentOrphan => "fragment_orphan",
    /// The room for fragments that wait for their first is full.
    FragmentRoomFull => "fragment_room_full",
    /// An ICMP message of a type that is not for a proxy.
    IcmpIgnored => "icmp_ignored",
    /// An ICMP error about a flow that is not known here.
    IcmpUnrelated => "icmp_unrelated",
    /// An ICMP error with too little of the packet it is about.
    IcmpTruncated => "icmp_truncated",
    /// A pin notice about a flow that did not enter here, or cannot have.
    PinUnrelated => "pin_unrelated",
    /// A fragment of a registration datagram, which QUIC never sends.
    RegistrationFragment => "registration_fragment",
    /// The room for packets and events that leave a batch beside its own is full.
    SideFull => "side_full",
    /// The queue towards piasd's QUIC endpoint is full.
    RegistrationQueueFull => "registration_queue_full",
    /// The kernel did not take a packet on the TUN device.
    TunWrite => "tun_write",
    /// The kernel did not take a packet on a tunnel socket.
    TunnelSend => "tunnel_send",
    /// A mate's flow found no room among those held (a flow, not a packet).
    StandbyFull => "standby_full",
    /// An event for the overlay found its queue full (an event, not a packet).
    EventQueueFull => "event_queue_full",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_count_up_and_have_names_of_their_own() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert!(DropReason::ALL.iter().enumerate().all(|(at, &reason)| reason as usize == at));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
