//! What travels between the parts of PIAS: names and addresses, messages, the tunnel header, and
//! the contract between the overlay (which decides) and the datapath (which forwards).
//!
//! Nothing in this crate does I/O, reads a clock or asks for entropy. Everything that two machines
//! must agree on is defined here over explicit bytes, so that no compiler, map order or standard
//! hasher can change it: see [`hash`] and [`placement`].
//!
//! | module | subject |
//! | --- | --- |
//! | [`ids`], [`group`], [`time`] | the words everything else is written in |
//! | [`hash`], [`placement`] | flow hashes, and which candidate a flow goes to |
//! | [`flow`] | a translated flow, as one proxy tells another of it |
//! | [`geneve`] | the header between proxies (RFC 8926) and its one option |
//! | [`envelope`], [`overlay`], [`agent`] | messages, and how they are framed |
//! | [`forwarding`] | what the overlay tells the datapath, and what it hears back |
//! | [`random`] | numbers that follow from a seed |
//! | [`limits`] | every bound on what the wire may ask for |

pub mod agent;
pub mod envelope;
pub mod flow;
pub mod forwarding;
pub mod geneve;
pub mod group;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod overlay;
pub mod placement;
pub mod random;
pub mod time;

/// UDP port of registration on every anycast address, and of the overlay on a proxy's unicast
/// address: P-I-A-S on a telephone keypad.
pub const PIAS_PORT: u16 = 7427;

/// UDP port of Geneve (RFC 8926 section 3.3).
pub const GENEVE_PORT: u16 = 6081;

/// ALPN of the connection from a target's agent to its proxy.
pub const ALPN_JOIN: &[u8] = b"pias-join/1";

/// ALPN of connections between proxies.
pub const ALPN_OVERLAY: &[u8] = b"pias-overlay/1";

/// The TLS name that every proxy's certificate carries, and that agents ask for: whichever proxy
/// routing picks must be able to prove that it is one of the operator's.
pub const PROXY_TLS_NAME: &str = "pias";
