//! Random numbers that are the same on every run and every machine.

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): 64 bits of state, enough
/// for chance on a link, and its output is pinned by its definition.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// A stream that `seed` alone determines.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 (included) to 1 (excluded).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True in `percent` of 100 cases; draws nothing where chance has no say.
    pub(crate) fn percent(&mut self, percent: f64) -> bool {
        percent > 0.0 && (percent >= 100.0 || self.unit() * 100.0 < percent)
    }
}

/// A seed for one direction of one link: FNV-1a over the link's name, mixed
/// with the topology's seed.
pub(crate) fn seed_for(topology: u64, link: &str, direction: u8) -> u64 {
    let bytes = link.bytes().chain([direction]);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    Random::new(hash ^ topology).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_published_one() {
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn directions_of_a_link_have_streams_of_their_own() {
        assert_ne!(seed_for(1, "fra-nyc", 0), seed_for(1, "fra-nyc", 1));
        assert_ne!(seed_for(1, "fra-nyc", 0), seed_for(2, "fra-nyc", 0));
    }
}
