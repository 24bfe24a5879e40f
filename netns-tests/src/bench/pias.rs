//! PIAS as a candidate: keys, piasd on one or two proxies, and the agent.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::baseline::stop_process;
use super::limits::CHANGE_LIMIT;
use super::places::{
    ACCEPT_PORT, BULK_PORT, ECHO_PORT, FAR, FAR_UNICAST, NEAR, NEAR_UNICAST, TARGET, TARGET_FAR,
    at, topology,
};
use super::{BenchError, Candidate};
use crate::lab::Lab;
use crate::plan::host_directory;
use crate::programs;
use crate::wait::wait_until;

/// The groups of a server: port and protocol.
const GROUPS: [(u16, &str); 3] = [(ECHO_PORT, "udp"), (ACCEPT_PORT, "tcp"), (BULK_PORT, "tcp")];

/// The agent's name in the lab.
pub(super) const AGENT: &str = "pias-join";

/// Makes the operator's keys as an operator would, and hands them out.
pub(super) fn prepare(lab: &Lab) -> Result<(), BenchError> {
    let directory = programs::directory();
    for name in ["piasd", "pias-join"] {
        programs::find(&directory, name)?;
    }
    let piasctl = programs::find(&directory, "piasctl")?;
    let authority = lab.state().join("ca");
    let at = authority.display().to_string();
    piasctl_ca(&piasctl, &["ca", "init", "--dir", &at])?;
    for proxy in [NEAR, FAR] {
        let out = keys_of(lab, proxy).display().to_string();
        piasctl_ca(&piasctl, &["ca", "issue", "proxy", proxy, "--dir", &at, "--out", &out])?;
        copy(&authority, "reset.key", &keys_of(lab, proxy))?;
    }
    for host in [NEAR, FAR, TARGET, TARGET_FAR] {
        copy(&authority, "ca.pem", &keys_of(lab, host))?;
    }
    Ok(())
}

/// A host's `/etc/pias`, as seen from here.
fn keys_of(lab: &Lab, host: &str) -> PathBuf {
    host_directory(lab.state(), host).join("etc-pias")
}

fn copy(from: &Path, file: &str, to: &Path) -> Result<(), BenchError> {
    let failed = |source| BenchError::File { path: to.join(file), source };
    fs::copy(from.join(file), to.join(file)).map(|_octets| ()).map_err(failed)
}

fn piasctl_ca(piasctl: &Path, arguments: &[&str]) -> Result<(), BenchError> {
    let failed = |source| BenchError::File { path: piasctl.to_owned(), source };
    let output = Command::new(piasctl).args(arguments).output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(BenchError::Measurement {
        candidate: Candidate::Pias.title(),
        command: format!("piasctl {}", arguments.join(" ")),
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Starts these proxies, the first of which becomes the target's join proxy,
/// and the target's agent; returns when the target is a member of its groups.
pub(super) fn start(
    lab: &Lab,
    proxies: &[&str],
    target: &str,
    anycast: Ipv4Addr,
) -> Result<(), BenchError> {
    for proxy in proxies {
        start_proxy(lab, proxy, proxies, Start::PLAIN)?;
    }
    for proxy in proxies {
        wait_ready(lab, proxy)?;
    }
    join(lab, target, proxies[0], &GROUPS.map(|(port, protocol)| group(anycast, port, protocol)))
}

/// A group's name.
pub(super) fn group(anycast: Ipv4Addr, port: u16, protocol: &str) -> String {
    format!("{}/{protocol}", at(anycast, port))
}

/// How piasd is started, beside its keys and seeds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start<'a> {
    /// The process's name in the lab.
    pub name: &'a str,
    /// What goes before the program.
    pub wrapper: &'a [&'a str],
    /// What the configuration has more.
    pub more: &'a str,
    /// Whether it takes over from one that runs.
    pub take_over: bool,
}

impl Start<'_> {
    /// With nothing more.
    pub(super) const PLAIN: Start<'static> =
        Start { name: "piasd", wrapper: &[], more: "", take_over: false };
}

/// Starts piasd on one of these proxies.
pub(super) fn start_proxy(
    lab: &Lab,
    proxy: &str,
    proxies: &[&str],
    start: Start<'_>,
) -> Result<(), BenchError> {
    let Start { name, wrapper, more, take_over } = start;
    let piasd = programs::find(&programs::directory(), "piasd")?.display().to_string();
    let path = keys_of(lab, proxy).join("piasd.toml");
    fs::write(&path, config(proxy, proxies) + more)
        .map_err(|source| BenchError::File { path, source })?;
    let words = [wrapper, &[&piasd, "--config", "/etc/pias/piasd.toml"]].concat();
    let take_over: &[&str] = if take_over { &["--take-over"] } else { &[] };
    lab.host(proxy).spawn(name, &[&words, take_over].concat())?;
    Ok(())
}

/// Returns when a proxy is ready.
pub(super) fn wait_ready(lab: &Lab, proxy: &str) -> Result<(), BenchError> {
    wait(lab, format!("piasd on {proxy} to be ready"), || {
        let status = lab.host(proxy).piasctl(&["status"]);
        status.is_ok_and(|status| status["ready"].as_bool() == Some(true))
    })
}

/// Starts a target's agent; returns when it is a member of these groups, through
/// `proxy`.
pub(super) fn join(
    lab: &Lab,
    target: &str,
    proxy: &str,
    groups: &[String],
) -> Result<(), BenchError> {
    let join = programs::find(&programs::directory(), "pias-join")?.display().to_string();
    let mut words = vec![join, "--ca".to_owned(), "/etc/pias/ca.pem".to_owned()];
    words.extend_from_slice(groups);
    lab.host(target).spawn(AGENT, &words)?;
    wait(lab, format!("{target} to have joined through {proxy}"), || {
        let targets = lab.host(proxy).piasctl(&["targets"]);
        targets.is_ok_and(|found| found["targets"].as_array().map(Vec::len) == Some(groups.len()))
    })
}

/// Ends the agent, then the proxies.
pub(super) fn stop(lab: &Lab, proxies: &[&str], target: &str) -> Result<(), BenchError> {
    stop_process(lab, target, AGENT)?;
    for proxy in proxies {
        stop_process(lab, proxy, "piasd")?;
    }
    Ok(())
}

pub(super) fn wait(
    lab: &Lab,
    what: String,
    condition: impl FnMut() -> bool,
) -> Result<(), BenchError> {
    wait_until(CHANGE_LIMIT, what, condition)
        .map(|_| ())
        .map_err(|source| BenchError::TimedOut { source, logs: lab.logs() })
}

/// piasd's configuration: the other proxies of the turn are its seeds.
fn config(name: &str, proxies: &[&str]) -> String {
    let (unicast, nat) = addresses(name);
    let seeds: Vec<_> = proxies
        .iter()
        .filter(|other| **other != name)
        .map(|other| format!("{{ name = \"{other}\", address = \"{}\" }}", addresses(other).0))
        .collect();
    let prefixes: Vec<_> =
        topology().anycast.prefixes.iter().map(|prefix| format!("\"{prefix}\"")).collect();
    format!(
        "name = \"{name}\"
cluster = \"{name}\"

[anycast]
prefixes = [{prefixes}]

[proxy]
unicast = [\"{unicast}\"]
nat = [\"{nat}\"]

[overlay]
seeds = [{seeds}]

[tls]
certificate-authority = \"/etc/pias/ca.pem\"
certificate = \"/etc/pias/{name}.pem\"
key = \"/etc/pias/{name}.key\"
reset-key = \"/etc/pias/reset.key\"

[drain]
wait = \"0s\"
",
        prefixes = prefixes.join(", "),
        seeds = seeds.join(", "),
    )
}

/// A proxy's unicast and NAT address.
fn addresses(proxy: &str) -> (Ipv4Addr, Ipv4Addr) {
    if proxy == NEAR {
        (NEAR_UNICAST, Ipv4Addr::new(192, 0, 2, 1))
    } else {
        (FAR_UNICAST, Ipv4Addr::new(192, 0, 2, 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str, proxies: &[&str]) -> toml::Table {
        config(name, proxies).parse().expect("valid TOML")
    }

    #[test]
    fn a_proxy_alone_has_no_seeds() {
        let config = parsed(NEAR, &[NEAR]);
        assert_eq!(config["overlay"]["seeds"].as_array().map(Vec::len), Some(0));
        assert_eq!(config["anycast"]["prefixes"][0].as_str(), Some("203.0.113.0/24"));
    }

    #[test]
    fn two_proxies_are_each_others_seeds() {
        let config = parsed(FAR, &[FAR, NEAR]);
        assert_eq!(config["overlay"]["seeds"][0]["name"].as_str(), Some(NEAR));
        assert_eq!(config["overlay"]["seeds"][0]["address"].as_str(), Some("10.9.2.1"));
        assert_eq!(config["proxy"]["unicast"][0].as_str(), Some("10.9.2.2"));
    }
}
