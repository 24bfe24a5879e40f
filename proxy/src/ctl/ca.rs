//! The operator's CA: `piasctl ca init` and `piasctl ca issue proxy NAME`.
//!
//! ```text
//! DIR/ca.pem      the CA's certificate, for every proxy and every agent
//! DIR/ca.key      its key (0600): keep it off the proxies
//! DIR/reset.key   what proxies derive stateless resets from (0600), the same on all of them
//! DIR/NAME.pem    a proxy's certificate, with the names NAME and `pias`
//! DIR/NAME.key    its key (0600)
//! ```

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pias_protocol::{PROXY_TLS_NAME, limits::MAX_NAME};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::{
    config::is_label,
    keys::{ResetKeys, SECRET_LEN},
};

/// Days that a CA is valid where nothing else is asked for: ten years.
pub const CA_DAYS: u32 = 3650;

/// Days that a proxy's certificate is valid where nothing else is asked for: about two years, the
/// longest that common TLS clients of private CAs accept.
pub const PROXY_DAYS: u32 = 820;

/// Certificates begin a day early, for proxies whose clock is behind.
const CLOCK_SKEW: Duration = Duration::from_secs(24 * 3600);

/// Why a CA or a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file would be overwritten.
    #[error("{0} exists: a new one would cut off everything that trusts it; choose another --dir")]
    Exists(PathBuf),
    /// A certificate of that name was issued before.
    #[error("{path} exists: proxy {name} has a certificate already; move it away to issue another")]
    Issued {
        /// The proxy.
        name: String,
        /// Its certificate or key.
        path: PathBuf,
    },
    /// The name cannot be in a certificate, or is the proxies' common one.
    #[error("`{0}` cannot be a proxy's name: write 1 to {MAX_NAME} of a-z, 0-9 and -, not `pias`")]
    Name(String),
    /// No CA there.
    #[error("cannot read {path}: {source}; make a CA with `piasctl ca init --dir {dir}`")]
    NoCa {
        /// The file.
        path: PathBuf,
        /// Where it should be.
        dir: String,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The cryptography refused.
    #[error("cannot make the certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// No randomness.
    #[error("the operating system gives no randomness")]
    Random,
}

/// Makes a CA in `dir`; gives the files written.
///
/// # Errors
/// [`CaError::Exists`] where any of its files does, and as [`CaError`] tells.
pub fn init(dir: &Path, days: u32) -> Result<Vec<PathBuf>, CaError> {
    let [pem, key, reset] = ["ca.pem", "ca.key", "reset.key"].map(|file| dir.join(file));
    if let Some(path) = [&pem, &key, &reset].into_iter().find(|path| path.exists()) {
        return Err(CaError::Exists(path.clone()));
    }
    fs::create_dir_all(dir).map_err(|source| CaError::Write { path: dir.to_owned(), source })?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "PIAS operator CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, days);
    let pair = KeyPair::generate()?;
    let certificate = params.self_signed(&pair)?;
    let mut secret = [0; SECRET_LEN];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| CaError::Random)?;
    write(&key, &pair.serialize_pem(), 0o600)?;
    write(&reset, &format!("{}\n", ResetKeys::new(secret).to_hex()), 0o600)?;
    write(&pem, &certificate.pem(), 0o644)?;
    Ok(vec![pem, key, reset])
}

/// Issues the certificate of a proxy by the CA in `dir` into `out`; gives the files written.
///
/// # Errors
/// [`CaError::Issued`] where the name has one there, and as [`CaError`] tells.
pub fn issue_proxy(name: &str, dir: &Path, out: &Path, days: u32) -> Result<Vec<PathBuf>, CaError> {
    if !is_label(name) || name == PROXY_TLS_NAME || name == "ca" || name == "reset" {
        return Err(CaError::Name(name.to_owned()));
    }
    let [pem, key] = ["pem", "key"].map(|suffix| out.join(format!("{name}.{suffix}")));
    if let Some(path) = [&pem, &key].into_iter().find(|path| path.exists()) {
        return Err(CaError::Issued { name: name.to_owned(), path: path.clone() });
    }
    let issuer = issuer(dir)?;
    fs::create_dir_all(out).map_err(|source| CaError::Write { path: out.to_owned(), source })?;
    let names = vec![name.to_owned(), PROXY_TLS_NAME.to_owned()];
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, days);
    let pair = KeyPair::generate()?;
    let certificate = params.signed_by(&pair, &issuer)?;
    write(&key, &pair.serialize_pem(), 0o600)?;
    write(&pem, &certificate.pem(), 0o644)?;
    Ok(vec![pem, key])
}

fn issuer(dir: &Path) -> Result<Issuer<'static, KeyPair>, CaError> {
    let read = |file: &str| {
        let path = dir.join(file);
        fs::read_to_string(&path).map_err(|source| CaError::NoCa {
            path,
            dir: dir.display().to_string(),
            source,
        })
    };
    let pair = KeyPair::from_pem(&read("ca.key")?)?;
    Ok(Issuer::from_ca_cert_pem(&read("ca.pem")?, pair)?)
}

fn valid(params: &mut CertificateParams, days: u32) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = rcgen::date_time_ymd(1970, 1, 1) + since;
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + Duration::from_secs(u64::from(days) * 24 * 3600);
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| CaError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::identity::{Identity, Part, proxy_name};

    fn ca() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), CA_DAYS).unwrap();
        dir
    }

    fn load(dir: &Path, ca: &Path, name: &str) -> Result<Identity, crate::identity::IdentityError> {
        let file = |suffix| dir.join(format!("fra1.{suffix}"));
        Identity::load(&ca.join("ca.pem"), &file("pem"), &file("key"), name)
    }

    #[test]
    fn secrets_are_readable_by_their_owner_alone() {
        let dir = ca();
        issue_proxy("fra1", dir.path(), dir.path(), PROXY_DAYS).unwrap();
        for (file, mode) in
            [("ca.key", 0o600), ("reset.key", 0o600), ("fra1.key", 0o600), ("ca.pem", 0o644)]
        {
            let found = fs::metadata(dir.path().join(file)).unwrap().permissions().mode() & 0o777;
            assert_eq!(found & !mode, 0, "{file} has mode {found:o}");
        }
        ResetKeys::load(&dir.path().join("reset.key")).unwrap();
    }

    #[test]
    fn an_issued_certificate_is_an_identity_of_its_name_alone() {
        let dir = ca();
        issue_proxy("fra1", dir.path(), dir.path(), PROXY_DAYS).unwrap();
        load(dir.path(), dir.path(), "fra1").unwrap();
        let Err(error) = load(dir.path(), dir.path(), "nyc1") else { panic!("taken for nyc1") };
        assert_eq!(error.part, Part::Certificate);
        assert!(error.message.contains("does not carry the name `nyc1`"), "{error}");
    }

    #[test]
    fn a_certificate_of_another_ca_is_refused() {
        let (dir, other) = (ca(), ca());
        issue_proxy("fra1", dir.path(), dir.path(), PROXY_DAYS).unwrap();
        let Err(error) = load(dir.path(), other.path(), "fra1") else { panic!("taken") };
        assert!(error.message.contains("not of this certificate authority"), "{error}");
    }

    #[test]
    fn the_name_of_a_proxy_is_read_back_from_its_certificate() {
        use rustls_pki_types::{CertificateDer, pem::PemObject};
        let dir = ca();
        let files = issue_proxy("fra1", dir.path(), dir.path(), PROXY_DAYS).unwrap();
        let certificate = CertificateDer::from_pem_file(&files[0]).unwrap();
        assert_eq!(proxy_name(&certificate).as_deref(), Some("fra1"));
        let ca = CertificateDer::from_pem_file(dir.path().join("ca.pem")).unwrap();
        assert_eq!(proxy_name(&ca), None);
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = ca();
        assert!(matches!(init(dir.path(), CA_DAYS), Err(CaError::Exists(_))));
        issue_proxy("fra1", dir.path(), dir.path(), PROXY_DAYS).unwrap();
        let twice = issue_proxy("fra1", dir.path(), dir.path(), PROXY_DAYS);
        assert!(matches!(twice, Err(CaError::Issued { name, .. }) if name == "fra1"));
    }

    #[test]
    fn a_name_that_no_proxy_can_have_gets_no_certificate() {
        let dir = ca();
        for name in ["", "pias", "ca", "../fra1", "Fra1", "-a", "fra1.example.org"] {
            let refused = issue_proxy(name, dir.path(), dir.path(), PROXY_DAYS);
            assert!(matches!(refused, Err(CaError::Name(_))), "{name}");
        }
    }
}
