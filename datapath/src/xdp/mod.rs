//! The XDP engine: the kernel forwards what it is sure of, and passes the rest up to the TUN device.
//!
//! ```text
//!                  ┌──────────────────── kernel ─────────────────────┐
//!   network card ──►  bpf/: parse → flows → draw → rewrite or wrap    ├──► network card
//!                  │        │ all that is not sure                   │
//!                  └────────┼──▲──▲──────────────────────────────────┘
//!                           ▼  │  │ peers, groups, targets: written here              (tables, targets)
//!                  TUN engine  └──┴ pins and translated flows: shared memory  (flow::ingress, flow::nat)
//! ```
//! The programs are C, in `bpf/`; the structures that they share with this module are in
//! `bpf/layout.h` and [`layout`]. What they do with a packet, the user-space pipeline would do too, to
//! the octet: `tests/xdp.rs` runs every fixture, and packets at random, through both.
//!
//! | passed up | because |
//! | --- | --- |
//! | other than TCP, UDP and echo requests, fragments, IP options, extension headers, a TTL that runs out here | it is seldom, or an answer is due |
//! | in the tunnel: options of Geneve, whoever is no live proxy | a RAP or an ingress has to decide; it is counted |
//! | groups without candidates or targets, or with more of these than are drawn among; flows whose JAP is gone | the overlay must be asked, or the pipeline draws |
//! | of translated flows: a target that is down or not registered here, a SYN where a flow is closing, a first answer that is a reset, a second packet without an answer to the first | the target is judged, or the flow ends |
//! | new flows: segments that open nothing, a client that is the target itself, no port among 32, no flow to give up | other proxies may know, or the pipeline looks further |
//! | flows that are held for a mate | their place is not that of their hash |
//! | packets that do not fit into the tunnel or the route | they are cut, or their sender is told: once, if it listens; and the checksum of an error is over 1,240 octets |
//! | next hops that the kernel has not resolved | sending from user space makes the kernel ask |
//! | frames in VLANs that piasd has not told of, or with tags of 802.1ad | they are not ours |
//! | everything, where piasd has said nothing for three seconds | it is gone: [`kept`] |
//! | frames to another address than the interface's; next hops behind an interface that takes no frames | they are not ours; they would be lost |
//!
//! What user space would drop for the reason `malformed`, `port_zero`, `bad_source` or `icmp_ignored` without looking at a
//! table is dropped and counted here, if it is to one of this proxy's addresses, and the kernel would have handed
//! it up; echo requests beyond their rate are as well. Of fragments and extension headers user space has the say.

mod attach;
mod devices;
mod endpoints;
mod features;
pub mod kept;
pub mod layout;
mod program;
mod stood_for;
mod tables;
mod targets;

pub use attach::{AttachError, Attached, Interface, Vlan};
pub use devices::Devices;
pub use features::{Features, Sends};
pub use program::{LoadError, Program, Setup, Size};
pub use tables::{News, Tables, Touched, WriteError};
