//! What the fuzzers run: one function for each decoder of bytes from the wire.
//!
//! They live in a library of their own so that plain `cargo test` replays every corpus
//! (`tests/corpus.rs`), while `make fuzz` drives the same functions by coverage
//! (`libfuzzer/`, outside of the workspace because it needs a nightly toolchain).

mod messages;
mod packets;

pub use messages::{agent_message, geneve, overlay_message};
pub use packets::{packet_tun, packet_tunnel};

/// A fuzz target: takes any bytes, and panics on a finding.
pub type Target = fn(&[u8]);

/// Every target by the name of its corpus.
pub const TARGETS: [(&str, Target); 5] = [
    ("geneve", geneve),
    ("overlay_message", overlay_message),
    ("agent_message", agent_message),
    ("packet_tun", packet_tun),
    ("packet_tunnel", packet_tunnel),
];
