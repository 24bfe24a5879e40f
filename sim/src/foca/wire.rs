//! Looking into foca's packets.
//!
//! ```text
//!  header: source, its incarnation, destination, message │ u16 count │ count × (id, incarnation, state)
//! ```

use foca::{Codec, Header, Member, PostcardCodec, State};

use super::identity::Id;

/// How often a packet says that a member is down; `None` if it is not one of foca's.
pub(super) fn deaths_of(member: usize, packet: &[u8]) -> Option<u64> {
    let mut rest = packet;
    let _: Header<Id> = PostcardCodec.decode_header(&mut rest).ok()?;
    let Some((count, mut rest)) = rest.split_first_chunk() else { return Some(0) };
    let mut found = 0;
    for _ in 0..u16::from_be_bytes(*count) {
        let news: Member<Id> = PostcardCodec.decode_member(&mut rest).ok()?;
        found += u64::from(news.id().member() == member && news.state() == State::Down);
    }
    Some(found)
}
