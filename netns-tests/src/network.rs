//! Makes a plan's hosts, wires and addresses with iproute2.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::linkemu::EmulatedLink;
use crate::linkemu::tap::open_end;
use crate::namespace::{HostSpace, NamespaceError};
use crate::plan::{HostPlan, LAN_BRIDGE, Plan, Wire, host_directory};

/// Why the network could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A host's namespaces.
    #[error("host {host}: {source}")]
    Host {
        /// The host.
        host: String,
        /// What failed.
        source: NamespaceError,
    },
    /// `ip`, `nft` or `ethtool` refused.
    #[error("{what}: {program}: {message}")]
    Refused {
        /// What was being made.
        what: String,
        /// Which of them.
        program: &'static str,
        /// What it wrote.
        message: String,
    },
    /// The TAP device of an emulated link.
    #[error("cannot open /dev/net/tun for link {link}, for which most systems need root: {source}")]
    Tap {
        /// The link.
        link: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A file, a thread or a program.
    #[error("cannot make {what}: {source}")]
    Io {
        /// What was being made.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// The hosts' namespaces by name.
pub(crate) type Spaces = BTreeMap<String, HostSpace>;

/// Makes every host's namespaces and files.
pub(crate) fn make_hosts(plan: &Plan, state: &Path) -> Result<Spaces, NetworkError> {
    let mut spaces = Spaces::new();
    for host in &plan.hosts {
        let space = HostSpace::create(state, &host.name, host.role.forwards())
            .map_err(|source| NetworkError::Host { host: host.name.clone(), source })?;
        let directory = host_directory(state, &host.name);
        for (path, text) in &host.files {
            let path = directory.join(path);
            fs::write(&path, text)
                .map_err(|source| NetworkError::Io { what: path.display().to_string(), source })?;
        }
        spaces.insert(host.name.clone(), space);
    }
    Ok(spaces)
}

/// Makes all wires; returns the emulated ones by name.
pub(crate) fn make_wires(
    plan: &Plan,
    seed: u64,
    spaces: &Spaces,
) -> Result<BTreeMap<String, EmulatedLink>, NetworkError> {
    let mut batch = String::new();
    let mut emulated = BTreeMap::new();
    for wire in &plan.wires {
        match &wire.shape {
            Some(_) => {
                emulated.insert(wire.name.clone(), make_emulated(wire, seed, spaces)?);
            }
            None => batch += &veth(wire, spaces),
        }
    }
    ip_batch("wires", &batch)?;
    Ok(emulated)
}

fn veth(wire: &Wire, spaces: &Spaces) -> String {
    let end = |n: usize| {
        let (host, interface) = &wire.ends[n];
        let netns = spaces.get(host).map(|space| space.net_path().display().to_string());
        format!("{interface} mtu {} netns {}", wire.mtu, netns.unwrap_or_default())
    };
    format!("link add {} type veth peer name {}\n", end(0), end(1))
}

fn make_emulated(wire: &Wire, seed: u64, spaces: &Spaces) -> Result<EmulatedLink, NetworkError> {
    let failed = |source| NetworkError::Io { what: format!("link {}", wire.name), source };
    let open = |n: usize| {
        let (host, interface) = &wire.ends[n];
        let space = spaces.get(host).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let opened = space
            .within(|| open_end(interface))
            .map_err(|source| NetworkError::Host { host: host.clone(), source })?;
        opened.map_err(|source| NetworkError::Tap { link: wire.name.clone(), source })
    };
    let shape = wire.shape.clone().unwrap_or_default();
    EmulatedLink::start(&wire.name, seed, &shape, [open(0)?, open(1)?]).map_err(failed)
}

/// Makes the far ends of proxies' wires such that XDP can work at the near ones: they compute the checksums
/// of what they send, and take frames that XDP sends.
pub(crate) fn make_ready_for_xdp(plan: &Plan, spaces: &Spaces) -> Result<(), NetworkError> {
    for (host, interface) in plan.beside_proxies() {
        let Some(space) = spaces.get(host) else { continue };
        let arguments = ["-K", interface, "tx", "off", "gro", "on"];
        space
            .within(|| feed("ethtool", &arguments, interface, ""))
            .map_err(|source| NetworkError::Host { host: host.clone(), source })??;
    }
    Ok(())
}

/// Brings a host's interfaces up and gives it its addresses and routes.
pub(crate) fn configure_host(
    host: &HostPlan,
    wires: &[Wire],
    space: &HostSpace,
) -> Result<(), NetworkError> {
    let batch = host_batch(host, wires);
    space
        .within(|| ip_batch(&host.name, &batch))
        .map_err(|source| NetworkError::Host { host: host.name.clone(), source })?
}

fn host_batch(host: &HostPlan, wires: &[Wire]) -> String {
    let mut batch = String::from("link set lo up\n");
    // Writing to a String cannot fail.
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _infallible = writeln!(batch, "{text}");
    };
    if !host.lan_ports.is_empty() {
        line(format_args!("link add {LAN_BRIDGE} type bridge mcast_snooping 0"));
    }
    for port in &host.lan_ports {
        line(format_args!("link set {port} master {LAN_BRIDGE} up"));
    }
    for interface in &host.interfaces {
        let name = &interface.name;
        let wire = wires.iter().find(|wire| {
            wire.shape.is_some() && wire.ends.contains(&(host.name.clone(), name.clone()))
        });
        if let Some(wire) = wire {
            line(format_args!("link set {name} mtu {}", wire.mtu));
        }
        line(format_args!("link set {name} up"));
        for address in &interface.addresses {
            line(format_args!("addr add {address} dev {name}"));
        }
    }
    for gateway in &host.gateways {
        let any = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        line(format_args!("route add {any} via {gateway}"));
    }
    for route in &host.routes {
        line(format_args!("route add {route}"));
    }
    batch
}

/// Cuts or restores a plain wire at its first end: the far end sees its
/// carrier go, as with a pulled plug.
pub(crate) fn set_veth(wire: &Wire, cut: bool, spaces: &Spaces) -> Result<(), NetworkError> {
    let (host, interface) = &wire.ends[0];
    let direction = if cut { "down" } else { "up" };
    let Some(space) = spaces.get(host) else { return Ok(()) };
    space
        .within(|| ip_batch(&wire.name, &format!("link set {interface} {direction}\n")))
        .map_err(|source| NetworkError::Host { host: host.clone(), source })?
}

/// The nftables table that holds a plain wire's loss.
const LOSS_TABLE: &str = "pias_lab_loss";

/// Makes a plain wire lose this percentage of frames in both directions, at its
/// first end; 0 ends that.
pub(crate) fn set_veth_loss(
    wire: &Wire,
    percent: f64,
    spaces: &Spaces,
) -> Result<(), NetworkError> {
    let (host, interface) = &wire.ends[0];
    let Some(space) = spaces.get(host) else { return Ok(()) };
    let rules = loss_rules(interface, percent);
    space
        .within(|| feed("nft", &["-f", "-"], &wire.name, &rules))
        .map_err(|source| NetworkError::Host { host: host.clone(), source })?
}

/// A table per interface: what it had is replaced.
fn loss_rules(interface: &str, percent: f64) -> String {
    let table = format!("netdev {LOSS_TABLE}_{}", interface.replace('-', "_"));
    // Declared first, because what is not there cannot be deleted.
    let mut rules = format!("table {table} {{ }}\ndelete table {table}\n");
    if percent > 0.0 {
        rules += &format!("table {table} {{\n");
        let thousandths = (percent * 10.0).round() as u32;
        for hook in ["ingress", "egress"] {
            rules += &format!(
                "  chain {hook} {{
    type filter hook {hook} device \"{interface}\" priority 0;
    numgen random mod 1000 < {thousandths} drop
  }}
"
            );
        }
        rules += "}\n";
    }
    rules
}

/// Feeds `ip -batch`, which stops at the first line that fails.
fn ip_batch(what: &str, batch: &str) -> Result<(), NetworkError> {
    feed("ip", &["-batch", "-"], what, batch)
}

/// Runs a program on lines of input; it must succeed.
fn feed(
    program: &'static str,
    arguments: &[&str],
    what: &str,
    input: &str,
) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::Io { what: format!("{what} with {program}(8)"), source };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(NetworkError::Refused { what: what.to_owned(), program, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PlanOptions;
    use crate::topology::Topology;

    #[test]
    fn a_router_gets_its_bridge_before_the_ports_and_addresses() {
        let options = PlanOptions { state: "/lab".into(), programs: None, xdp: false };
        let plan = Plan::new(&Topology::three_pops(), &options);
        let host = plan.hosts.iter().find(|host| host.name == "fra").expect("fra is there");
        let batch = host_batch(host, &plan.wires);
        let expected = "link set lo up
link add lan type bridge mcast_snooping 0
link set fra1 master lan up
link set fra2 master lan up
link set lan up
addr add 198.51.100.1/27 dev lan
addr add 2001:db8:1::1/64 dev lan
link set t-fra up
addr add 10.0.1.2/30 dev t-fra
addr add 2001:db8:f0:1::2/64 dev t-fra
";
        assert_eq!(batch, expected);
    }

    #[test]
    fn xdp_asks_something_of_the_ports_that_proxies_are_connected_to() {
        let options = PlanOptions { state: "/lab".into(), programs: None, xdp: true };
        let plan = Plan::new(&Topology::three_pops(), &options);
        let ports: Vec<_> =
            plan.beside_proxies().map(|(host, port)| (&host[..], &port[..])).collect();
        assert_eq!(ports.len(), 6, "{ports:?}");
        assert!(ports.contains(&("fra", "fra1")), "{ports:?}");
    }

    #[test]
    fn a_lossy_wire_drops_in_both_directions_and_a_whole_one_not_at_all() {
        let rules = loss_rules("fra1", 30.0);
        assert_eq!(rules.matches("numgen random mod 1000 < 300 drop").count(), 2, "{rules}");
        assert!(rules.contains("hook egress device \"fra1\""), "{rules}");
        assert!(!loss_rules("fra1", 0.0).contains("drop"));
    }
}
