//! The agent's side of TLS: whichever proxy routing picks must prove that it is the operator's.

use std::sync::Arc;

use pias_protocol::{ALPN_JOIN, limits::MAX_MESSAGE};
use quinn::{
    IdleTimeout, TransportConfig, VarInt,
    crypto::rustls::{NoInitialCipherSuite, QuicClientConfig},
};
use rustls::{
    RootCertStore,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::limits::{IDLE_TIMEOUT, INITIAL_RTT};

/// Why no connection could be prepared.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The text is no PEM.
    #[error("the certificate authority is not PEM: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// No certificate in it.
    #[error("the certificate authority holds no CERTIFICATE block: give the operator's ca.pem")]
    Empty,
    /// Not a certificate, or a configuration that this TLS library cannot carry out.
    #[error("the certificate authority is of no use: {0}")]
    Rustls(#[from] rustls::Error),
    /// The TLS library lacks the cipher that QUIC begins with.
    #[error("no cipher for QUIC: {0}")]
    Cipher(#[from] NoInitialCipherSuite),
}

/// The QUIC client that trusts the certificates of `pem`.
pub(crate) fn client(pem: &[u8]) -> Result<quinn::ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate?)?;
    }
    if roots.is_empty() {
        return Err(TlsError::Empty);
    }
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    // A ticket of one proxy means nothing to the next, which is where a reconnect leads.
    tls.resumption = Resumption::disabled();
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn transport() -> TransportConfig {
    let idle = VarInt::from_u32(IDLE_TIMEOUT.as_millis() as u32);
    let window = VarInt::from_u32(2 * MAX_MESSAGE as u32);
    let mut transport = TransportConfig::default();
    transport
        .initial_rtt(INITIAL_RTT)
        .max_idle_timeout(Some(IdleTimeout::from(idle)))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(window)
        .receive_window(window)
        .datagram_receive_buffer_size(None)
        // Messages are small: probing for larger packets gains nothing.
        .mtu_discovery_config(None);
    transport
}

/// A seed for jitter; where the system has none to give, a constant serves.
pub(crate) fn seed() -> u64 {
    let mut bytes = [0; 8];
    if provider().secure_random.fill(&mut bytes).is_err() {
        tracing::warn!("no randomness for jitter");
    }
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_certificate_is_told_so() {
        assert!(matches!(client(b"hello"), Err(TlsError::Empty)));
        let key = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(client(key), Err(TlsError::Rustls(_))));
    }
}
