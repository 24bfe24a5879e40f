//! The TOML model of a lab: its hosts, LANs, links and extra processes.
//!
//! ```toml
//! name = "two-hosts"
//!
//! [[host]]
//! name = "left"
//! role = "client"
//!
//! [[host]]
//! name = "right"
//! role = "target"
//!
//! [[link]]
//! a = "left"
//! b = "right"
//! ipv4 = "10.0.0.0/30"       # a gets the first address, b the second
//! shape = { delay = "5ms" }  # emulated; without `shape` it is a plain veth
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::limits::{MAX_HOSTS, MAX_LINKS};
use crate::linkemu::{Shape, ShapeError};

/// Longest name of a network interface (`IFNAMSIZ` less its terminator).
/// Hosts lend their names to interfaces, so it bounds theirs too.
const MAX_NAME: usize = 15;

/// The text of the default topology, `deploy/lab/three-pops.toml`.
pub const THREE_POPS: &str = include_str!("../../deploy/lab/three-pops.toml");

/// A lab as its TOML file describes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Topology {
    /// Names the lab; its default state directory is called so.
    pub name: String,
    /// Seed of every random choice of the link emulator.
    #[serde(default)]
    pub seed: u64,
    /// What the proxies announce.
    #[serde(default)]
    pub anycast: Anycast,
    /// The hosts, each a network namespace.
    #[serde(default, rename = "host")]
    pub hosts: Vec<HostSpec>,
    /// LANs of POPs, each a bridge in its router.
    #[serde(default, rename = "lan")]
    pub lans: Vec<LanSpec>,
    /// Point-to-point links.
    #[serde(default, rename = "link")]
    pub links: Vec<LinkSpec>,
    /// Processes beyond those that a host's role brings.
    #[serde(default, rename = "process")]
    pub processes: Vec<ProcessSpec>,
    /// Groups with another policy than `nearest`, the same on every proxy.
    #[serde(default, rename = "group")]
    pub groups: Vec<GroupSpec>,
}

/// The service's prefixes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anycast {
    /// The prefixes that every ready proxy announces.
    pub prefixes: Vec<IpNet>,
}

/// What a host is for, which decides what runs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A POP's router: BIRD with OSPF to its proxies and BGP to its transit.
    Router,
    /// An Internet router: BIRD with BGP to everyone linked to it that has an
    /// AS number.
    Transit,
    /// A PIAS proxy: piasd, and BIRD that tells OSPF of piasd's routes.
    Proxy,
    /// A host without a service.
    Client,
    /// A host with servers: NSD for DNS, nginx for HTTP.
    Target,
}

impl Role {
    /// Whether packets pass through such a host.
    pub fn forwards(self) -> bool {
        matches!(self, Role::Router | Role::Transit | Role::Proxy)
    }
}

/// One host.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HostSpec {
    /// Its name, at most 15 bytes: letters, digits and dashes.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Routers and transits: the AS number.
    #[serde(rename = "as")]
    pub autonomous_system: Option<u32>,
    /// Routers, transits and proxies: BIRD's router id.
    pub router_id: Option<Ipv4Addr>,
    /// Routers and transits: prefixes announced into BGP as aggregates.
    #[serde(default)]
    pub announce: Vec<IpNet>,
    /// Proxies: the name of the POP's cluster.
    pub cluster: Option<String>,
    /// Proxies: the addresses of NAT delivery, at most one per family.
    #[serde(default)]
    pub nat: Vec<IpAddr>,
    /// Proxies: the addresses that other proxies use, at most one per family;
    /// by default all of its addresses on the POP's LAN.
    #[serde(default)]
    pub unicast: Vec<IpAddr>,
}

/// A POP's LAN: a bridge called `lan` in the router, a port per member.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanSpec {
    /// The host that holds the bridge.
    pub router: String,
    /// The router's addresses on the LAN.
    pub addresses: Vec<IpNet>,
    /// The other hosts on it.
    pub members: Vec<LanMember>,
    /// Largest IP packet, in bytes.
    #[serde(default = "ethernet_mtu")]
    pub mtu: u16,
}

/// A host on a LAN.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanMember {
    /// Its name.
    pub host: String,
    /// Its addresses on the LAN.
    pub addresses: Vec<IpNet>,
}

/// A link between two hosts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSpec {
    /// Its name; by default the name of end `b`.
    pub name: Option<String>,
    /// One end: the router's, where the other is a client or target.
    pub a: String,
    /// The other end.
    pub b: String,
    /// IPv4 network; `a` gets its first host address, `b` the second.
    pub ipv4: Option<Ipv4Net>,
    /// IPv6 network; `a` gets `::1` in it, `b` `::2`.
    pub ipv6: Option<Ipv6Net>,
    /// Largest IP packet, in bytes.
    #[serde(default = "ethernet_mtu")]
    pub mtu: u16,
    /// Emulated with this shape; a plain veth pair without.
    pub shape: Option<Shape>,
}

impl LinkSpec {
    /// The name that `cut_link` and `pias-lab link` know it by.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.b)
    }
}

/// A process that runs from boot on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// The host that it runs in.
    pub host: String,
    /// The name that `kill` and `logs` know it by.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
}

/// A group as piasd's configuration has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    /// `AA:port`.
    pub address: String,
    /// `nearest`, `balanced` or `random`.
    pub policy: String,
}

fn ethernet_mtu() -> u16 {
    1500
}

/// Why a topology is not one.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// No TOML, or not of this form.
    #[error("cannot read the topology: {0}")]
    Syntax(#[from] toml::de::Error),
    /// A name that cannot be a host's, a link's or an interface's.
    #[error("{0:?} is no name: use 1 to {MAX_NAME} letters, digits and dashes")]
    Name(String),
    /// Two of one name.
    #[error("{what} {name:?} is there twice")]
    Twice {
        /// "host", "link" or "interface".
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A reference to a host that is not there.
    #[error("{what} names the host {name:?}, which the topology does not have")]
    UnknownHost {
        /// What refers to it.
        what: String,
        /// The name.
        name: String,
    },
    /// A host lacks what its role needs.
    #[error("host {host:?} is a {role:?} and needs {needs}")]
    Incomplete {
        /// The host.
        host: String,
        /// Its role.
        role: Role,
        /// The missing field.
        needs: &'static str,
    },
    /// A link without addresses, or a network too small for two.
    #[error("link {0:?} needs an ipv4 or ipv6 network with room for two hosts")]
    Network(String),
    /// A link's shape makes no sense.
    #[error("link {link:?}: {source}")]
    Shape {
        /// The link.
        link: String,
        /// What is wrong.
        source: ShapeError,
    },
    /// More than the lab takes.
    #[error("{what} are more than {limit}: make the topology smaller")]
    TooMany {
        /// "hosts" or "links".
        what: &'static str,
        /// The bound.
        limit: usize,
    },
}

impl Topology {
    /// Reads and checks a topology.
    pub fn parse(text: &str) -> Result<Self, TopologyError> {
        let topology: Topology = toml::from_str(text)?;
        topology.validate()?;
        Ok(topology)
    }

    /// The default topology: three POPs of two proxies.
    pub fn three_pops() -> Self {
        Self::parse(THREE_POPS).expect("the embedded topology is tested to be valid")
    }

    /// The host of this name.
    pub fn host(&self, name: &str) -> Option<&HostSpec> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// Hosts of one role, in the file's order.
    pub fn hosts_of(&self, role: Role) -> impl Iterator<Item = &HostSpec> {
        self.hosts.iter().filter(move |host| host.role == role)
    }

    fn validate(&self) -> Result<(), TopologyError> {
        check_name(&self.name)?;
        let members: usize = self.lans.iter().map(|lan| lan.members.len()).sum();
        check_count("hosts", self.hosts.len(), MAX_HOSTS)?;
        check_count("links", self.links.len() + members, MAX_LINKS)?;
        let mut names = BTreeSet::new();
        for host in &self.hosts {
            check_name(&host.name)?;
            check_once("host", &host.name, &mut names)?;
            host.check_role()?;
        }
        self.check_lans()?;
        self.check_links()?;
        for process in &self.processes {
            self.check_host(&format!("process {:?}", process.name), &process.host)?;
        }
        Ok(())
    }

    fn check_lans(&self) -> Result<(), TopologyError> {
        let mut routers = BTreeSet::new();
        for lan in &self.lans {
            self.check_host("a lan", &lan.router)?;
            check_once("lan of router", &lan.router, &mut routers)?;
            for member in &lan.members {
                self.check_host("a lan", &member.host)?;
            }
        }
        Ok(())
    }

    fn check_links(&self) -> Result<(), TopologyError> {
        let ports = self.lans.iter().flat_map(|lan| &lan.members).map(|m| m.host.as_str());
        let mut names = BTreeSet::new();
        for name in ports.chain(self.links.iter().map(LinkSpec::name)) {
            check_name(name)?;
            check_once("link", name, &mut names)?;
        }
        for link in &self.links {
            self.check_host(&format!("link {:?}", link.name()), &link.a)?;
            self.check_host(&format!("link {:?}", link.name()), &link.b)?;
            let roomy = link.ipv4.is_none_or(|net| net.prefix_len() <= 30)
                && link.ipv6.is_none_or(|net| net.prefix_len() <= 126);
            if !roomy || (link.ipv4.is_none() && link.ipv6.is_none()) {
                return Err(TopologyError::Network(link.name().to_owned()));
            }
            if let Some(shape) = &link.shape {
                shape.validate().map_err(|source| TopologyError::Shape {
                    link: link.name().to_owned(),
                    source,
                })?;
            }
        }
        Ok(())
    }

    fn check_host(&self, what: &str, name: &str) -> Result<(), TopologyError> {
        match self.host(name) {
            Some(_) => Ok(()),
            None => {
                Err(TopologyError::UnknownHost { what: what.to_owned(), name: name.to_owned() })
            }
        }
    }
}

impl HostSpec {
    fn check_role(&self) -> Result<(), TopologyError> {
        let missing = match self.role {
            Role::Router | Role::Transit if self.autonomous_system.is_none() => Some("as"),
            Role::Proxy if self.cluster.is_none() => Some("cluster"),
            Role::Proxy if self.nat.is_empty() => Some("nat"),
            role if role.forwards() && self.router_id.is_none() => Some("router-id"),
            _ => None,
        };
        match missing {
            Some(needs) => {
                Err(TopologyError::Incomplete { host: self.name.clone(), role: self.role, needs })
            }
            None => Ok(()),
        }
    }
}

fn check_name(name: &str) -> Result<(), TopologyError> {
    let fits = (1..=MAX_NAME).contains(&name.len());
    if fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        Ok(())
    } else {
        Err(TopologyError::Name(name.to_owned()))
    }
}

fn check_once<'a>(
    what: &'static str,
    name: &'a str,
    seen: &mut BTreeSet<&'a str>,
) -> Result<(), TopologyError> {
    if seen.insert(name) {
        Ok(())
    } else {
        Err(TopologyError::Twice { what, name: name.to_owned() })
    }
}

fn check_count(what: &'static str, count: usize, limit: usize) -> Result<(), TopologyError> {
    if count <= limit { Ok(()) } else { Err(TopologyError::TooMany { what, limit }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_topology_is_valid_and_has_three_pops_of_two_proxies() {
        let topology = Topology::three_pops();
        let count = |role| topology.hosts_of(role).count();
        assert_eq!(count(Role::Router), 3);
        assert_eq!(count(Role::Transit), 3);
        assert_eq!(count(Role::Proxy), 6);
        assert_eq!(count(Role::Client), 3);
        assert_eq!(count(Role::Target), 6);
    }

    fn refusal(text: &str) -> String {
        Topology::parse(text).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_link_to_a_host_that_is_not_there_is_refused_by_name() {
        let text = r#"
            name = "x"
            host = [{ name = "a", role = "client" }]
            link = [{ a = "a", b = "ghost", ipv4 = "10.0.0.0/30" }]
        "#;
        assert!(refusal(text).contains("\"ghost\""), "{}", refusal(text));
    }

    #[test]
    fn a_proxy_without_a_cluster_is_refused() {
        let text = r#"
            name = "x"
            host = [{ name = "p", role = "proxy", router-id = "1.1.1.1", nat = ["192.0.2.1"] }]
        "#;
        assert!(refusal(text).contains("needs cluster"), "{}", refusal(text));
    }

    #[test]
    fn a_name_too_long_for_an_interface_is_refused() {
        let text = r#"
            name = "x"
            host = [{ name = "a-name-of-sixteen", role = "client" }]
        "#;
        assert!(refusal(text).contains("a-name-of-sixteen"), "{}", refusal(text));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(refusal("name = \"x\"\ncolour = 1").contains("colour"));
    }
}
