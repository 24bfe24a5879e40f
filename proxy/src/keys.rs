//! The secret that all proxies share, and what is derived from it.
//!
//! ```text
//! reset.key, 32 octets ─ HMAC-SHA-256 ─┬─ "stateless reset"  key of the tokens (RFC 9000 section 10.3.2)
//!                                      ├─ "connection ids"   mark by which a proxy knows another's ids
//!                                      └─ "address tokens"   key of Retry tokens: any proxy takes any's
//! ```
//! A proxy that gets a packet of a connection that another one held can thus answer with that one's
//! reset token, and the heir of a proxy can reset the agents that it inherits: they join anew at
//! once.

use std::{path::Path, sync::Arc};

use aws_lc_rs::{hkdf, hmac};
use quinn::{EndpointConfig, crypto::HandshakeTokenKey};

use crate::{connection_ids::NotedIds, limits::RESET_INTERVAL};

/// Octets of the secret.
pub const SECRET_LEN: usize = 32;

/// Octets of a stateless reset: no more than a small packet of a connection has.
const RESET_LEN: usize = 43;

/// Octets of its token (RFC 9000 section 10.3).
const RESET_TOKEN_LEN: usize = 16;

/// Why there is no secret. Each message names the file.
#[derive(Debug, thiserror::Error)]
pub enum ResetKeyError {
    /// The file cannot be read.
    #[error("cannot read the reset key {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what `piasctl ca init` writes.
    #[error(
        "{path} is no reset key: it holds 64 hexadecimal digits, as `piasctl ca init` makes them"
    )]
    Malformed {
        /// The file.
        path: String,
    },
}

/// The shared secret.
#[derive(Clone)]
pub struct ResetKeys([u8; SECRET_LEN]);

impl ResetKeys {
    /// Those of this secret.
    #[must_use]
    pub fn new(secret: [u8; SECRET_LEN]) -> Self {
        Self(secret)
    }

    /// Reads the secret from its file.
    ///
    /// # Errors
    /// As [`ResetKeyError`] tells.
    pub fn load(path: &Path) -> Result<Self, ResetKeyError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| ResetKeyError::Read { path: shown.clone(), source })?;
        let secret = from_hex(text.trim()).ok_or(ResetKeyError::Malformed { path: shown })?;
        Ok(Self(secret))
    }

    /// The secret as its file holds it.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|octet| format!("{octet:02x}")).collect()
    }

    /// What an endpoint needs so that every other one can reset its connections.
    #[must_use]
    pub fn endpoint(&self) -> EndpointConfig {
        let mut config = EndpointConfig::new(Arc::new(self.reset_key()));
        let ids = self.derive("connection ids");
        let mark = u64::from_be_bytes(*ids.first_chunk().expect("an HMAC has 32 octets"));
        config.cid_generator(move || Box::new(NotedIds::new(mark)));
        config.min_reset_interval(RESET_INTERVAL);
        config
    }

    /// A datagram that resets whoever addresses a connection by this id, whichever proxy held it (RFC
    /// 9000 section 10.3):
    ///
    /// ```text
    ///  0      1                                    27                              43
    /// ┌──────┬────────────────────────────────────┬───────────────────────────────┐
    /// │01....│ random, as in a short-header packet │ token: HMAC-SHA-256 of the id │
    /// └──────┴────────────────────────────────────┴───────────────────────────────┘
    /// ```
    ///
    /// # Errors
    /// Without randomness.
    pub fn stateless_reset(
        &self,
        connection: &[u8],
    ) -> Result<Vec<u8>, aws_lc_rs::error::Unspecified> {
        let mut packet = vec![0; RESET_LEN - RESET_TOKEN_LEN];
        aws_lc_rs::rand::fill(&mut packet)?;
        packet[0] = (packet[0] & 0x3f) | 0x40;
        let token = hmac::sign(&self.reset_key(), connection);
        packet.extend_from_slice(&token.as_ref()[..RESET_TOKEN_LEN]);
        Ok(packet)
    }

    fn reset_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.derive("stateless reset"))
    }

    /// The key of Retry and address validation tokens.
    #[must_use]
    pub fn token_key(&self) -> Arc<dyn HandshakeTokenKey> {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]);
        Arc::new(salt.extract(&self.derive("address tokens")))
    }

    fn derive(&self, label: &str) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let tag = hmac::sign(&key, label.as_bytes());
        *tag.as_ref().first_chunk().expect("HMAC-SHA-256 has 32 octets")
    }
}

fn from_hex(text: &str) -> Option<[u8; SECRET_LEN]> {
    let mut secret = [0; SECRET_LEN];
    if text.len() != 2 * SECRET_LEN || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (octet, index) in secret.iter_mut().zip((0..).step_by(2)) {
        *octet = u8::from_str_radix(&text[index..index + 2], 16).ok()?;
    }
    Some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_reads_as_it_is_written() {
        let keys = ResetKeys::new(std::array::from_fn(|index| index as u8));
        assert_eq!(from_hex(&keys.to_hex()), Some(keys.0));
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        assert_eq!(from_hex(""), None);
        assert_eq!(from_hex(&"g".repeat(64)), None);
        assert_eq!(from_hex(&"0".repeat(63)), None);
        assert_eq!(from_hex(&"é".repeat(32)), None);
    }
}
