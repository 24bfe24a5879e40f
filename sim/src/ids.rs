//! From a proxy's id to its number in the simulation.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use pias_protocol::ids::ProxyId;

/// Hosts by id. Ids are hashes already and serve as their own; the map is never walked, so that its
/// order decides nothing.
#[derive(Debug, Default)]
pub(crate) struct Ids(HashMap<u64, u32, BuildHasherDefault<Own>>);

impl Ids {
    /// # Panics
    /// If two names have one id, or one name is used twice.
    pub(crate) fn new(names: impl Iterator<Item = impl AsRef<str>>) -> Self {
        let mut ids = Self::default();
        for (n, name) in names.enumerate() {
            let before = ids.0.insert(ProxyId::of(name.as_ref()).0, n as u32);
            assert!(before.is_none(), "two proxies are called {}", name.as_ref());
        }
        ids
    }

    pub(crate) fn get(&self, id: ProxyId) -> Option<usize> {
        self.0.get(&id.0).map(|&n| n as usize)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Own(u64);

impl Hasher for Own {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0 << 8 | u64::from(byte);
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}
