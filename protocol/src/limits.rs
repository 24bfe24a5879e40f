//! Every bound on what the wire may ask of a proxy or an agent.
//!
//! A decoder that meets more than its bound refuses the whole message; the receiver counts it as
//! malformed and closes the stream it came on.

/// Largest payload of one message in octets. The largest message is a full
/// [`MemberUpdate`](crate::overlay::OverlayMessage::MemberUpdate).
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Most member records in one message: at about 120 octets each, and at most 220, they stay below
/// [`MAX_MESSAGE`] together with a few records of clusters.
pub const MAX_MEMBERS_PER_MESSAGE: usize = 256;

/// Most leases in one message: at most about 110 octets each.
pub const MAX_LEASES_PER_MESSAGE: usize = 256;

/// Most flow records in one message: at no more than 90 octets each they stay below
/// [`MAX_MESSAGE`].
pub const MAX_FLOWS_PER_MESSAGE: usize = 512;

/// Most flows that ended in one message: at no more than 45 octets each they stay below
/// [`MAX_MESSAGE`].
pub const MAX_GONE_PER_MESSAGE: usize = 1024;

/// Most candidates in one list: a group joined at more proxies is answered with the best of them.
pub const MAX_CANDIDATES: usize = 64;

/// Most records, keys or hashes of clusters in one message: at about 24 octets each.
pub const MAX_CLUSTERS_PER_MESSAGE: usize = 1024;

/// Most keys of members in one message: at about 20 octets each.
pub const MAX_KEYS_PER_MESSAGE: usize = 2048;

/// Ranges of cluster ids that are compared by a hash each: by the first six bits of the id.
pub const BUCKETS: usize = 64;

/// Longest name of a proxy or a cluster in octets: that of a DNS label (RFC 1035 section 2.3.4).
pub const MAX_NAME: usize = 63;

/// Longest text of a refusal in octets; longer ones are cut.
pub const MAX_REASON: usize = 256;

/// Most proxies that one packet may visit before it is refused as looping: its ingress, two RAPs of which
/// one has just started, a JAP that does not know its flow, a RAP again, two more JAPs, and the mate that
/// has the flow.
pub const MAX_HOPS: u8 = 8;

/// Most weight of a target; 0 means "no new flows".
pub const MAX_WEIGHT: u32 = 10_000;
