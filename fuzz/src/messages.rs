//! Decoders of headers and messages: total, and exact in both directions.

use pias_protocol::{
    agent::{AgentMessage, JapMessage},
    envelope::{Decoded, HEADER_LEN, Message, decode, encode},
    geneve::{Header, MAX_LEN},
    limits::MAX_MESSAGE,
    overlay::OverlayMessage,
};

/// A tunnel datagram's header: what parses is written and read alike.
pub fn geneve(bytes: &[u8]) {
    let Ok((header, inner)) = Header::parse(bytes) else { return };
    assert!(inner.len() <= bytes.len());
    let mut out = [0; MAX_LEN];
    let length = header.write(&mut out);
    assert_eq!(Header::parse(&out[..length]), Ok((header, &[][..])));
}

/// A message between proxies.
pub fn overlay_message(bytes: &[u8]) {
    message::<OverlayMessage>(bytes);
}

/// A message between an agent and its JAP, of either side.
pub fn agent_message(bytes: &[u8]) {
    message::<AgentMessage>(bytes);
    message::<JapMessage>(bytes);
}

fn message<M: Message + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    match decode::<M>(bytes) {
        Ok(Decoded::Message(message, taken)) => {
            assert!((HEADER_LEN..=bytes.len()).contains(&taken));
            let again = encode(&message);
            let length = again.len();
            assert_eq!(decode::<M>(&again), Ok(Decoded::Message(message, length)));
        }
        Ok(Decoded::Unknown(_, taken)) => assert!((HEADER_LEN..=bytes.len()).contains(&taken)),
        Ok(Decoded::Incomplete(missing)) => {
            assert!(missing > 0 && missing <= MAX_MESSAGE + HEADER_LEN);
        }
        Err(_) => {}
    }
}
