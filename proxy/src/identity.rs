//! Who this proxy is: certificate, key and the operator's CA, and the TLS configurations made of
//! them.
//!
//! | connection | server shows | client shows | client asks for |
//! | --- | --- | --- | --- |
//! | proxy to proxy | its certificate | its certificate | the other proxy's name |
//! | agent to proxy | its certificate | nothing | `pias`, which all proxies' certificates carry |

use std::{path::Path, sync::Arc};

use pias_protocol::{ALPN_JOIN, ALPN_OVERLAY, PROXY_TLS_NAME};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use x509_parser::{extensions::GeneralName, prelude::FromDer};

/// Which file is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The operator's CA.
    Authority,
    /// The proxy's certificate.
    Certificate,
    /// The proxy's key.
    Key,
}

/// Why the files make no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct IdentityError {
    /// Which file is at fault.
    pub part: Part,
    /// What is wrong with it, and what to do.
    pub message: String,
}

/// Why TLS cannot be set up: never with an [`Identity`] that [`Identity::load`] has checked.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// From rustls.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The CA verifies no clients.
    #[error("TLS: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// No cipher suite for QUIC's initial packets.
    #[error("TLS: {0}")]
    Quic(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// Certificate, key and CA of a proxy.
#[derive(Clone)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    roots: Arc<RootCertStore>,
}

impl Identity {
    /// Reads the files, and checks that they fit each other and `name`.
    ///
    /// # Errors
    /// [`IdentityError`], which says which file is at fault.
    pub fn load(
        authority: &Path,
        certificate: &Path,
        key: &Path,
        name: &str,
    ) -> Result<Self, IdentityError> {
        let roots = Arc::new(roots(authority)?);
        let chain = certificates(certificate, Part::Certificate)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| IdentityError {
            part: Part::Key,
            message: format!("cannot read a private key from {}: {error}", key.display()),
        })?;
        let identity = Self { chain, key: Arc::new(key), roots };
        identity.verify(name)?;
        Ok(identity)
    }

    /// What a peer of ours will check, checked beforehand.
    fn verify(&self, name: &str) -> Result<(), IdentityError> {
        let fault = |part, message: String| Err(IdentityError { part, message });
        let provider = provider();
        let certified = CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &provider);
        match certified {
            Ok(_) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                return fault(Part::Key, "the key is not that of the certificate".to_owned());
            }
            Err(error) => return fault(Part::Key, format!("the key is of no use: {error}")),
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots.clone(), provider)
            .build()
            .map_err(|error| IdentityError {
                part: Part::Authority,
                message: format!("the certificate authority is of no use: {error}"),
            })?;
        for wanted in [name, PROXY_TLS_NAME] {
            let Ok(server) = ServerName::try_from(wanted.to_owned()) else {
                return fault(Part::Certificate, format!("`{wanted}` cannot be in a certificate"));
            };
            let (first, rest) =
                self.chain.split_first().expect("`certificates` gives at least one");
            match verifier.verify_server_cert(first, rest, &server, &[], UnixTime::now()) {
                Ok(_) => {}
                Err(error) => return fault(Part::Certificate, explain(&error, wanted, name)),
            }
        }
        Ok(())
    }

    /// TLS of the overlay's server: shows the certificate, and demands one of the operator's CA.
    ///
    /// # Errors
    /// As [`TlsError`] tells.
    pub fn overlay_server(&self) -> Result<QuicServerConfig, TlsError> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider()).build()?;
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        tls.alpn_protocols = vec![ALPN_OVERLAY.to_vec()];
        Ok(QuicServerConfig::try_from(tls)?)
    }

    /// TLS of the overlay's client: demands a certificate of the operator's CA with the name that
    /// is dialled.
    ///
    /// # Errors
    /// As [`TlsError`] tells.
    pub fn overlay_client(&self) -> Result<QuicClientConfig, TlsError> {
        let mut tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        tls.alpn_protocols = vec![ALPN_OVERLAY.to_vec()];
        // A session resumed from before a peer's restart would save a signature and cost a failure.
        tls.resumption = rustls::client::Resumption::disabled();
        Ok(QuicClientConfig::try_from(tls)?)
    }

    /// TLS of the registration port: shows the certificate, demands none.
    ///
    /// # Errors
    /// As [`TlsError`] tells.
    pub fn join_server(&self) -> Result<QuicServerConfig, TlsError> {
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        tls.alpn_protocols = vec![ALPN_JOIN.to_vec()];
        // Session tickets are of no use at the next proxy, whose key is another.
        tls.send_tls13_tickets = 0;
        Ok(QuicServerConfig::try_from(tls)?)
    }
}

/// The name of the proxy that a certificate belongs to: its first DNS name that is not `pias`.
/// `None` for a certificate that no proxy has.
#[must_use]
pub fn proxy_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let mut dns = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    dns.find(|name| *name != PROXY_TLS_NAME && !name.is_empty()).map(str::to_owned)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(authority: &Path) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authority, Part::Authority)? {
        roots.add(certificate).map_err(|error| IdentityError {
            part: Part::Authority,
            message: format!("{} holds no CA certificate: {error}", authority.display()),
        })?;
    }
    Ok(roots)
}

fn certificates(path: &Path, part: Part) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let read = |error: &dyn std::fmt::Display| IdentityError {
        part,
        message: format!("cannot read a certificate from {}: {error}", path.display()),
    };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|error| read(&error))?
        .collect::<Result<_, _>>()
        .map_err(|error| read(&error))?;
    if found.is_empty() { Err(read(&"it holds none")) } else { Ok(found) }
}

/// Why peers would refuse this proxy's certificate, for the one who has to replace it.
fn explain(error: &rustls::Error, wanted: &str, name: &str) -> String {
    use rustls::CertificateError as Why;
    let issue = format!("issue another with `piasctl ca issue proxy {name}`");
    match error {
        rustls::Error::InvalidCertificate(Why::UnknownIssuer | Why::BadSignature) => {
            format!("the certificate is not of this certificate authority: {issue}")
        }
        rustls::Error::InvalidCertificate(
            Why::NotValidForName | Why::NotValidForNameContext { .. },
        ) => {
            format!("the certificate does not carry the name `{wanted}`: {issue}")
        }
        rustls::Error::InvalidCertificate(Why::Expired | Why::ExpiredContext { .. }) => {
            format!("the certificate has expired: {issue}")
        }
        rustls::Error::InvalidCertificate(Why::NotValidYet | Why::NotValidYetContext { .. }) => {
            "the certificate is not valid yet: is the clock right?".to_owned()
        }
        other => format!("peers would refuse the certificate: {other}"),
    }
}
