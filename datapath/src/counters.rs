//! What happened to packets: one counter per way they went, one per reason they went no further.

use crate::drop_reason::DropReason;

macro_rules! paths {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// The ways that a packet may go. A super-packet counts once.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Path {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Path {
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

paths! {
    /// A client's packet went straight to its JAP.
    IngressDirect => "ingress_direct",
    /// A client's packet went to the RAP, to be resolved on the way.
    IngressRendezvous => "ingress_rendezvous",
    /// A client's packet entered at its own JAP.
    IngressLocal => "ingress_local",
    /// As a RAP: a packet was passed on.
    RendezvousRelay => "rendezvous_relay",
    /// As a JAP: a packet went to a target.
    JoinDeliver => "join_deliver",
    /// As a JAP: a target's packet went to the client.
    JoinReturn => "join_return",
    /// As a JAP: a packet could not be taken, and the overlay was asked.
    SecondChance => "second_chance",
    /// A packet waits for the overlay's word.
    Parked => "parked",
    /// An echo request to an anycast address was answered.
    Echo => "echo",
    /// A client was told that nobody serves it: a reset, or a port-unreachable.
    Refused => "refused",
    /// An ICMP error was sent about a packet: too big, time exceeded, protocol unreachable.
    IcmpSent => "icmp_sent",
    /// An ICMP error was translated and passed on.
    IcmpTranslated => "icmp_translated",
    /// A datagram for piasd's QUIC endpoint.
    Registration => "registration",
    /// A pin notice was sent to an ingress.
    PinSent => "pin_sent",
    /// A pin notice was heeded.
    PinReceived => "pin_received",
    /// A packet was cut into fragments for the tunnel.
    Fragmented => "fragmented",
    /// A fragment waits for its first.
    FragmentHeld => "fragment_held",
    /// A probe was sent to a target.
    Probe => "probe",
    /// A packet of a mate's flow was passed on to where that flow lives.
    StandbyRelay => "standby_relay",
    /// A mate was told of a flow (a flow, not a packet).
    FlowReplicated => "flow_replicated",
    /// A flow of a mate that is gone goes on here (a flow, not a packet).
    FlowPromoted => "flow_promoted",
    /// A flow of a former life came back (a flow, not a packet).
    FlowAdopted => "flow_adopted",
    /// A flow was evicted from a full table (a flow, not a packet).
    FlowEvicted => "flow_evicted",
}

/// The counters of one pipeline; all of them only grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    paths: [u64; Path::ALL.len()],
    drops: [u64; DropReason::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self { paths: [0; Path::ALL.len()], drops: [0; DropReason::ALL.len()] }
    }
}

impl Counters {
    /// How many packets went this way.
    #[must_use]
    pub const fn path(&self, path: Path) -> u64 {
        self.paths[path as usize]
    }

    /// How many packets went no further for this reason.
    #[must_use]
    pub const fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Counts a packet that went this way.
    pub fn count(&mut self, path: Path) {
        self.paths[path as usize] += 1;
    }

    /// Counts `packets` that went this way.
    pub fn count_many(&mut self, path: Path, packets: u64) {
        self.paths[path as usize] += packets;
    }

    /// Counts a packet that went no further.
    pub fn count_drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    /// Counts `packets` that went no further.
    pub fn count_drops(&mut self, reason: DropReason, packets: u64) {
        self.drops[reason as usize] += packets;
    }

    /// All ways with their counts.
    pub fn paths(&self) -> impl Iterator<Item = (Path, u64)> + '_ {
        Path::ALL.iter().map(|&path| (path, self.path(path)))
    }

    /// All reasons with their counts.
    pub fn all_drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.drops(reason)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_is_its_own() {
        let mut counters = Counters::default();
        counters.count(Path::Echo);
        counters.count_drop(DropReason::HopLimit);
        counters.count_drops(DropReason::EventQueueFull, 3);
        assert_eq!(counters.paths().map(|(_, count)| count).sum::<u64>(), 1);
        assert_eq!(counters.path(Path::Echo), 1);
        assert_eq!(counters.drops(DropReason::HopLimit), 1);
        assert_eq!(counters.all_drops().map(|(_, count)| count).sum::<u64>(), 4);
    }

    #[test]
    fn paths_count_up_and_have_names_of_their_own() {
        assert!(Path::ALL.iter().enumerate().all(|(at, &path)| path as usize == at));
        let names: std::collections::BTreeSet<_> = Path::ALL.iter().map(|p| p.name()).collect();
        assert_eq!(names.len(), Path::ALL.len());
    }
}
