//! How far a translated flow has come: the first word of its entry, and what packets make of it.
//!
//! ```text
//! bits 63        48 47    40 39  38   37   36   35   34   33   32  31        16 15         0
//!      ┌───────────┬────────┬───┬────┬────┬────┬────┬────┬────┬───┬────────────┬────────────┐
//!      │  version  │ stage  │ 0 │TRST│CRST│TFIN│CFIN│ANSW│SETT│UDP│ group port │client port │
//!      └───────────┴────────┴───┴────┴────┴────┴────┴────┴────┴───┴────────────┴────────────┘
//! ```
//! Stage and version are those of [pins](crate::flow::pins); a slot whose flow XDP could not begin is at
//! the stage 5 until it is given back. What a packet does is a function of this word and its TCP flags,
//! the same here and in `bpf/nat.h`, and stored by one compare-and-exchange: it is done to this flow or
//! not at all.

use pias_protocol::{flow::FlowPhase, group::Protocol, hash::FlowKey};

use crate::{
    flow::{
        Phase,
        pins::{port, port_bits},
    },
    wire::tcp,
};

/// The first word of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta(pub(super) u64);

impl Meta {
    const GROUP_PORT: u32 = 16;
    const UDP: u64 = 1 << 32;
    const SETTLED: u64 = 1 << 33;
    const ANSWERED: u64 = 1 << 34;
    const CLIENT_FIN: u64 = 1 << 35;
    const TARGET_FIN: u64 = 1 << 36;
    const CLIENT_RESET: u64 = 1 << 37;
    const TARGET_RESET: u64 = 1 << 38;
    const STAGE: u32 = 40;
    const STAGES: u64 = 0xFF << Self::STAGE;
    const VERSION: u32 = 48;
    /// Ports and protocol.
    const IDENTITY: u64 = (1 << 33) - 1;

    const DATAGRAMS: u64 = 1;
    const OPENING: u64 = 2;
    const OPEN: u64 = 3;
    const CLOSING: u64 = 4;
    const RETURNED: u64 = 5;
    const BEING_WRITTEN: u64 = 255;

    /// The identity of a flow: what its entries have in common.
    pub(super) fn identity_of(key: &FlowKey) -> u64 {
        let udp = if key.group.protocol == Protocol::Udp { Self::UDP } else { 0 };
        port_bits(key.client.port()) | port_bits(key.group.port) << Self::GROUP_PORT | udp
    }

    /// Counts up with whoever claims the entry.
    pub(super) const fn version(self) -> u16 {
        (self.0 >> Self::VERSION) as u16
    }

    pub(super) const fn identity(self) -> u64 {
        self.0 & Self::IDENTITY
    }

    pub(super) const fn protocol(self) -> Protocol {
        if self.has(Self::UDP) { Protocol::Udp } else { Protocol::Tcp }
    }

    /// The client's port and the group's.
    pub(super) const fn ports(self) -> (u16, u16) {
        (port(self.0), port(self.0 >> Self::GROUP_PORT))
    }

    const fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    const fn stage(self) -> u64 {
        self.0 >> Self::STAGE & 0xFF
    }

    /// Whether the slot waits to be given back.
    pub(super) const fn is_returned(self) -> bool {
        self.stage() == Self::RETURNED
    }

    /// Whether somebody writes the entry.
    pub(super) const fn is_being_written(self) -> bool {
        self.stage() == Self::BEING_WRITTEN
    }

    /// The phase of a flow that may be read.
    pub(super) const fn phase(self) -> Option<Phase> {
        match self.stage() {
            Self::DATAGRAMS => Some(Phase::Datagrams),
            Self::OPENING => Some(Phase::Opening),
            Self::OPEN => Some(Phase::Open),
            Self::CLOSING => Some(Phase::Closing),
            _ => None,
        }
    }

    /// Whether the target has ever sent anything.
    pub(super) const fn answered(self) -> bool {
        self.has(Self::ANSWERED)
    }

    /// Whether both sides have shown once that they mean it.
    pub(super) const fn settled(self) -> bool {
        self.has(Self::SETTLED)
    }

    /// Which sides have said that they will send no more: the client, the target.
    pub(super) const fn finished(self) -> (bool, bool) {
        (self.has(Self::CLIENT_FIN), self.has(Self::TARGET_FIN))
    }

    /// What of a flow the mate that would go on with it must know when it changes.
    pub(super) const fn told(self) -> u64 {
        self.0 & (Self::STAGES | Self::CLIENT_FIN | Self::TARGET_FIN)
    }

    const fn with_stage(self, stage: u64) -> Self {
        Self(self.0 & !Self::STAGES | stage << Self::STAGE)
    }

    /// The next version, of nobody else.
    pub(super) const fn claimed(self) -> Self {
        let version = self.version().wrapping_add(1);
        Self((version as u64) << Self::VERSION).with_stage(Self::BEING_WRITTEN)
    }

    /// Of a claimed entry: free.
    pub(super) const fn freed(self) -> Self {
        Self(self.0 & !(Self::STAGES | Self::IDENTITY))
    }

    /// Of a claimed entry: its slot waits to be given back.
    pub(super) const fn given_up(self) -> Self {
        self.freed().with_stage(Self::RETURNED)
    }

    /// Of a claimed entry: a flow of which one packet has been seen.
    pub(super) const fn begun(self, identity: u64) -> Self {
        let first = if identity & Self::UDP != 0 { Self::DATAGRAMS } else { Self::OPENING };
        Self(self.0 | identity).with_stage(first)
    }

    /// Of a claimed entry: a flow that another proxy began.
    pub(super) const fn resumed(
        self,
        identity: u64,
        phase: FlowPhase,
        (client_finished, target_finished): (bool, bool),
    ) -> Self {
        let (stage, flags) = match phase {
            FlowPhase::Asked => (Self::DATAGRAMS, 0),
            FlowPhase::Answered => (Self::DATAGRAMS, Self::ANSWERED | Self::SETTLED),
            FlowPhase::Opening => (Self::OPENING, Self::ANSWERED),
            FlowPhase::Open => (Self::OPEN, Self::ANSWERED | Self::SETTLED),
            FlowPhase::Closing => (Self::CLOSING, Self::ANSWERED | Self::SETTLED),
        };
        let client = if client_finished { Self::CLIENT_FIN } else { 0 };
        let target = if target_finished { Self::TARGET_FIN } else { 0 };
        Self(self.0 | identity | flags | client | target).with_stage(stage)
    }

    const fn with(self, bit: u64, set: bool) -> Self {
        Self(if set { self.0 | bit } else { self.0 & !bit })
    }

    /// A segment or a datagram of the client with these TCP flags came.
    pub(super) const fn client_sent(self, flags: u8) -> Self {
        if self.has(Self::UDP) {
            return self;
        }
        let heard = self
            .with(Self::CLIENT_FIN, self.has(Self::CLIENT_FIN) || flags & tcp::FIN != 0)
            .with(Self::CLIENT_RESET, flags & tcp::RST != 0);
        // Only the third segment opens a flow: a forged SYN is answered with a SYN-ACK, too.
        let opens = self.stage() == Self::OPENING && self.answered() && flags & tcp::SYN == 0;
        if opens { heard.with_stage(Self::OPEN).advance() } else { heard.advance() }
    }

    /// A segment or a datagram of the target with these TCP flags came.
    pub(super) const fn target_sent(self, flags: u8) -> Self {
        let heard = self.with(Self::ANSWERED, true);
        if self.has(Self::UDP) {
            return heard.with(Self::SETTLED, true);
        }
        heard
            .with(Self::TARGET_FIN, self.has(Self::TARGET_FIN) || flags & tcp::FIN != 0)
            .with(Self::TARGET_RESET, flags & tcp::RST != 0)
            .advance()
    }

    /// RFC 7857 section 2: a reset leads to the transitory timer, and a segment behind it, of the
    /// side that seemed to send it, back again. Anyone can forge one; who goes on sending has sent
    /// none.
    const fn advance(self) -> Self {
        let over = self.0 & (Self::CLIENT_RESET | Self::TARGET_RESET) != 0
            || (self.has(Self::CLIENT_FIN) && self.has(Self::TARGET_FIN));
        let next = match self.stage() {
            _ if over => self.with_stage(Self::CLOSING),
            Self::CLOSING if self.answered() => self.with_stage(Self::OPEN),
            Self::CLOSING => self.with_stage(Self::OPENING),
            _ => self,
        };
        if next.stage() == Self::OPEN { next.with(Self::SETTLED, true) } else { next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(group: &str) -> Meta {
        let key = FlowKey {
            client: "192.0.2.1:4660".parse().unwrap(),
            group: format!("203.0.113.10:{group}").parse().unwrap(),
        };
        Meta(0x0007 << 48).claimed().begun(Meta::identity_of(&key))
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn every_bit_is_where_the_other_party_expects_it() {
        // Port 0x1234 stands in a packet as 12 34, port 0x0035 as 00 35.
        assert_eq!(begun("53/udp").0, 0x0008_0101_3500_3412);
        assert_eq!(begun("53/udp").target_sent(0).0, 0x0008_0107_3500_3412);
        let open = begun("53/tcp").target_sent(tcp::SYN | tcp::ACK).client_sent(tcp::ACK);
        assert_eq!(open.0, 0x0008_0306_3500_3412);
        let finished = open.client_sent(tcp::FIN).target_sent(tcp::RST);
        assert_eq!(finished.0, 0x0008_044e_3500_3412);
        assert_eq!(begun("53/udp").claimed().0, 0x0009_ff00_0000_0000);
        assert_eq!(begun("53/udp").claimed().freed().0, 0x0009_0000_0000_0000);
    }

    #[test]
    fn a_flow_opens_with_the_third_segment() {
        let asked = begun("80/tcp");
        assert_eq!(asked.client_sent(tcp::ACK).phase(), Some(Phase::Opening), "nobody answered");
        let answered = asked.target_sent(tcp::SYN | tcp::ACK);
        assert_eq!(answered.client_sent(tcp::SYN).phase(), Some(Phase::Opening));
        assert_eq!((answered.phase(), answered.settled()), (Some(Phase::Opening), false));
        let open = answered.client_sent(tcp::ACK);
        assert_eq!((open.phase(), open.settled()), (Some(Phase::Open), true));
    }

    #[test]
    fn both_sides_must_finish_and_a_reset_may_be_forged() {
        let open = begun("80/tcp").target_sent(tcp::SYN | tcp::ACK).client_sent(tcp::ACK);
        let half = open.client_sent(tcp::FIN | tcp::ACK);
        assert_eq!((half.phase(), half.finished()), (Some(Phase::Open), (true, false)));
        assert_eq!(half.target_sent(tcp::FIN).phase(), Some(Phase::Closing));

        let reset = open.client_sent(tcp::RST);
        assert_eq!(reset.phase(), Some(Phase::Closing));
        let under_way = reset.target_sent(tcp::ACK);
        assert_eq!(under_way.phase(), Some(Phase::Closing), "what was under way proves nothing");
        assert_eq!(under_way.client_sent(tcp::ACK).phase(), Some(Phase::Open));
        let refused = begun("80/tcp").client_sent(tcp::RST).client_sent(tcp::ACK);
        assert_eq!((refused.phase(), refused.settled()), (Some(Phase::Opening), false));
    }

    #[test]
    fn datagrams_settle_with_the_first_answer() {
        let asked = begun("53/udp");
        assert_eq!((asked.client_sent(0), asked.settled()), (asked, false));
        let answered = asked.target_sent(0);
        assert_eq!((answered.phase(), answered.settled()), (Some(Phase::Datagrams), true));
    }
}
