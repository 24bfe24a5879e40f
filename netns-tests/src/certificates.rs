//! The operator's keys of a lab, made by `piasctl ca` as an operator would.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::plan::host_directory;
use crate::programs::{self, MissingProgram};
use crate::topology::{Role, Topology};

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// piasctl is not built.
    #[error(transparent)]
    Missing(#[from] MissingProgram),
    /// piasctl refused.
    #[error("piasctl {arguments}: {message}")]
    Refused {
        /// How it was called.
        arguments: String,
        /// What it wrote.
        message: String,
    },
    /// A file.
    #[error("the lab's keys: {0}")]
    Io(#[from] io::Error),
}

/// Makes a CA for the lab, a certificate for every proxy, and hands clients
/// and targets the CA's certificate.
pub(crate) fn make(
    topology: &Topology,
    state: &Path,
    programs: &Path,
) -> Result<(), CertificateError> {
    let piasctl = programs::find(programs, "piasctl")?;
    let authority = state.join("ca");
    let at = authority.display().to_string();
    run(&piasctl, &["ca", "init", "--dir", &at])?;
    for host in &topology.hosts {
        let keys = host_directory(state, &host.name).join("etc-pias");
        std::fs::create_dir_all(&keys)?;
        std::fs::copy(authority.join("ca.pem"), keys.join("ca.pem"))?;
        if host.role == Role::Proxy {
            std::fs::copy(authority.join("reset.key"), keys.join("reset.key"))?;
            let out = keys.display().to_string();
            run(&piasctl, &["ca", "issue", "proxy", &host.name, "--dir", &at, "--out", &out])?;
        }
    }
    Ok(())
}

fn run(piasctl: &PathBuf, arguments: &[&str]) -> Result<(), CertificateError> {
    let output = Command::new(piasctl).args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(CertificateError::Refused { arguments: arguments.join(" "), message })
}
