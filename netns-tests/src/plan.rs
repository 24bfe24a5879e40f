//! From a topology to what has to be made: interfaces, wires, addresses,
//! routes, files and processes of every host. Pure.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::{bird, piasd, servers};
use crate::linkemu::Shape;
use crate::topology::{HostSpec, LanSpec, LinkSpec, Role, Topology};

/// The interface of a host with one way out: clients, targets and proxies.
pub(crate) const ONLY_INTERFACE: &str = "eth0";

/// The bridge of a POP's LAN in its router.
pub(crate) const LAN_BRIDGE: &str = "lan";

/// The metric of routes that give way to any other.
const LAST_RESORT: u32 = 1_000_000;

/// Everything that the lab makes.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The hosts, in the topology's order.
    pub hosts: Vec<HostPlan>,
    /// The wires between them.
    pub wires: Vec<Wire>,
}

/// One host.
#[derive(Debug)]
pub(crate) struct HostPlan {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its interfaces that carry addresses.
    pub interfaces: Vec<Interface>,
    /// Wires' ends that are ports of its bridge [`LAN_BRIDGE`].
    pub lan_ports: Vec<String>,
    /// Where its default routes point, at most one per family.
    pub gateways: Vec<IpAddr>,
    /// Further routes, as arguments of `ip route add`.
    pub routes: Vec<String>,
    /// Files to write: path under the host's directory, contents.
    pub files: Vec<(PathBuf, String)>,
    /// What runs on it, in starting order.
    pub processes: Vec<ProcessPlan>,
}

/// An interface and its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its name in the host.
    pub name: String,
    /// Its addresses with their networks' lengths.
    pub addresses: Vec<IpNet>,
    /// The host at the other end, where there is one.
    pub peer: Option<String>,
    /// The other end's addresses on the same networks.
    pub peer_addresses: Vec<IpAddr>,
}

/// A wire between two hosts.
#[derive(Debug)]
pub(crate) struct Wire {
    /// The link's name.
    pub name: String,
    /// Its two ends: host and interface.
    pub ends: [(String, String); 2],
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Emulated with this shape; a veth pair without.
    pub shape: Option<Shape>,
}

/// A process to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessPlan {
    /// The name that `kill` and `logs` know it by.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
}

impl ProcessPlan {
    pub(crate) fn new<S: Into<String>>(
        name: &str,
        command: impl IntoIterator<Item = S>,
    ) -> ProcessPlan {
        let command = command.into_iter().map(Into::into).collect();
        ProcessPlan { name: name.to_owned(), command }
    }
}

/// What a plan depends on beside the topology.
#[derive(Debug, Clone)]
pub(crate) struct PlanOptions {
    /// The lab's state directory.
    pub state: PathBuf,
    /// Where piasd, piasctl and pias-join are; none boots without proxies.
    pub programs: Option<PathBuf>,
    /// Whether proxies forward by XDP, and by the TUN engine only what it passes up.
    pub xdp: bool,
}

/// A host's directory in the lab's state directory.
pub(crate) fn host_directory(state: &Path, host: &str) -> PathBuf {
    state.join("hosts").join(host)
}

impl Plan {
    /// Works a topology out.
    pub(crate) fn new(topology: &Topology, options: &PlanOptions) -> Plan {
        let hosts = topology.hosts.iter().map(|host| plan_host(topology, host, options)).collect();
        let ports = topology.lans.iter().flat_map(lan_wires);
        let wires = ports.chain(topology.links.iter().map(|link| link_wire(topology, link)));
        Plan { hosts, wires: wires.collect() }
    }

    /// The far ends of proxies' plain wires: host and interface.
    pub(crate) fn beside_proxies(&self) -> impl Iterator<Item = &(String, String)> {
        let is_proxy = |name: &String| {
            self.hosts.iter().any(|host| host.name == *name && host.role == Role::Proxy)
        };
        let plain = self.wires.iter().filter(|wire| wire.shape.is_none());
        let ends = plain.flat_map(|Wire { ends: [a, b], .. }| [(a, b), (b, a)]);
        ends.filter_map(move |(end, far)| is_proxy(&end.0).then_some(far))
    }
}

fn plan_host(topology: &Topology, host: &HostSpec, options: &PlanOptions) -> HostPlan {
    let interfaces = interfaces_of(topology, host);
    let lan = topology.lans.iter().find(|lan| lan.router == host.name);
    let gateways = if matches!(host.role, Role::Router | Role::Transit) {
        Vec::new()
    } else {
        interfaces.first().map(|first| first.peer_addresses.clone()).unwrap_or_default()
    };
    let mut plan = HostPlan {
        name: host.name.clone(),
        role: host.role,
        lan_ports: lan.map(lan_ports).unwrap_or_default(),
        interfaces,
        gateways,
        routes: if host.role == Role::Proxy { fallback_routes(topology, host) } else { Vec::new() },
        files: vec![(PathBuf::from("resolv.conf"), "options timeout:1 attempts:1\n".to_owned())],
        processes: Vec::new(),
    };
    let directory = host_directory(&options.state, &host.name);
    if host.role.forwards() {
        bird::plan(topology, host, &mut plan, &directory);
    }
    if let (Role::Proxy, Some(programs)) = (host.role, &options.programs) {
        piasd::plan(topology, host, &mut plan, programs, options.xdp);
    }
    if host.role == Role::Target {
        servers::plan(host, &mut plan, &directory);
    }
    let extra = topology.processes.iter().filter(|process| process.host == host.name);
    plan.processes.extend(extra.map(|process| ProcessPlan::new(&process.name, &process.command)));
    plan
}

/// Routes that a proxy falls back to while piasd has not installed its own.
///
/// A proxy whose daemon died still gets packets until routing has noticed. Its
/// default route would send them back to the POP's router, round and round, so
/// packets to anycast addresses go to the next proxy on the LAN. So do packets
/// to its own NAT addresses where that proxy is its only mate and thus goes on
/// with its flows; else they are dropped.
fn fallback_routes(topology: &Topology, host: &HostSpec) -> Vec<String> {
    let on_lan = |lan: &&LanSpec| lan.members.iter().any(|member| member.host == host.name);
    let members = topology.lans.iter().find(on_lan).map(|lan| lan.members.as_slice());
    let members = members.unwrap_or_default();
    let own = members.iter().position(|member| member.host == host.name).unwrap_or(0);
    let next = members.iter().cycle().skip(own + 1).take(members.len().saturating_sub(1)).next();
    let addresses = next.map(|member| member.addresses.as_slice()).unwrap_or_default();
    let via_next = |prefix: IpNet| {
        let same_family = |net: &&IpNet| net.addr().is_ipv4() == prefix.addr().is_ipv4();
        let next = addresses.iter().find(same_family)?.addr();
        Some(format!("{prefix} via {next} metric {LAST_RESORT}"))
    };
    let nat = host.nat.iter().map(|&nat| {
        let to_heir = via_next(nat.into()).filter(|_| members.len() == 2);
        to_heir.unwrap_or_else(|| format!("blackhole {nat} metric {LAST_RESORT}"))
    });
    topology.anycast.prefixes.iter().copied().filter_map(via_next).chain(nat).collect()
}

/// Where a host touches LANs and links.
fn interfaces_of(topology: &Topology, host: &HostSpec) -> Vec<Interface> {
    let mut interfaces = Vec::new();
    for lan in &topology.lans {
        if lan.router == host.name {
            interfaces.push(Interface {
                name: LAN_BRIDGE.to_owned(),
                addresses: lan.addresses.clone(),
                peer: None,
                peer_addresses: Vec::new(),
            });
        }
        if let Some(member) = lan.members.iter().find(|member| member.host == host.name) {
            interfaces.push(Interface {
                name: ONLY_INTERFACE.to_owned(),
                addresses: member.addresses.clone(),
                peer: Some(lan.router.clone()),
                peer_addresses: lan.addresses.iter().map(IpNet::addr).collect(),
            });
        }
    }
    for link in &topology.links {
        let [at_a, at_b] = link_addresses(link);
        let (mine, theirs, peer) = match host.name.as_str() {
            name if name == link.a => (at_a, at_b, &link.b),
            name if name == link.b => (at_b, at_a, &link.a),
            _ => continue,
        };
        interfaces.push(Interface {
            name: interface_name(host, peer),
            addresses: mine,
            peer: Some(peer.clone()),
            peer_addresses: theirs.iter().map(IpNet::addr).collect(),
        });
    }
    interfaces
}

/// Routers call an interface by the host at its far end; other hosts have one.
fn interface_name(host: &HostSpec, peer: &str) -> String {
    match host.role {
        Role::Router | Role::Transit => peer.to_owned(),
        Role::Proxy | Role::Client | Role::Target => ONLY_INTERFACE.to_owned(),
    }
}

/// The first two host addresses of each of the link's networks, for `a` and `b`.
fn link_addresses(link: &LinkSpec) -> [Vec<IpNet>; 2] {
    [1, 2].map(|number: u32| {
        let ipv4 = link.ipv4.map(|net| {
            let address = u32::from(net.network()) + number;
            Ipv4Net::new(address.into(), net.prefix_len()).map(IpNet::V4)
        });
        let ipv6 = link.ipv6.map(|net| {
            let address = u128::from(net.network()) + u128::from(number);
            Ipv6Net::new(address.into(), net.prefix_len()).map(IpNet::V6)
        });
        ipv4.into_iter().chain(ipv6).flatten().collect()
    })
}

fn lan_ports(lan: &LanSpec) -> Vec<String> {
    lan.members.iter().map(|member| member.host.clone()).collect()
}

fn lan_wires(lan: &LanSpec) -> impl Iterator<Item = Wire> {
    lan.members.iter().map(|member| Wire {
        name: member.host.clone(),
        ends: [
            (lan.router.clone(), member.host.clone()),
            (member.host.clone(), ONLY_INTERFACE.to_owned()),
        ],
        mtu: lan.mtu,
        shape: None,
    })
}

fn link_wire(topology: &Topology, link: &LinkSpec) -> Wire {
    let end = |host: &str, peer: &str| {
        let interface = topology.host(host).map(|spec| interface_name(spec, peer));
        (host.to_owned(), interface.unwrap_or_default())
    };
    Wire {
        name: link.name().to_owned(),
        ends: [end(&link.a, &link.b), end(&link.b, &link.a)],
        mtu: link.mtu,
        shape: link.shape.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_pops() -> Plan {
        let options =
            PlanOptions { state: "/lab".into(), programs: Some("/bin".into()), xdp: false };
        Plan::new(&Topology::three_pops(), &options)
    }

    fn host<'a>(plan: &'a Plan, name: &str) -> &'a HostPlan {
        plan.hosts.iter().find(|host| host.name == name).expect("a host of the topology")
    }

    #[test]
    fn a_target_gets_the_second_address_of_its_link_and_its_router_as_gateway() {
        let plan = three_pops();
        let target = host(&plan, "fra-t1");
        assert_eq!(
            target.interfaces[0].addresses,
            ["10.1.11.2/30".parse().unwrap(), "2001:db8:101:11::2/64".parse().unwrap()]
        );
        assert_eq!(
            target.gateways,
            [
                "10.1.11.1".parse::<IpAddr>().unwrap(),
                "2001:db8:101:11::1".parse::<IpAddr>().unwrap()
            ]
        );
    }

    #[test]
    fn proxies_are_ports_of_their_routers_lan_and_route_through_it() {
        let plan = three_pops();
        assert_eq!(host(&plan, "nyc").lan_ports, ["nyc1", "nyc2"]);
        assert_eq!(host(&plan, "nyc1").gateways[0].to_string(), "198.51.100.33");
        let fallback = &host(&plan, "nyc2").routes;
        assert_eq!(fallback[0], "203.0.113.0/24 via 198.51.100.43 metric 1000000");
        assert_eq!(fallback[3], "2001:db8:2:100::12/128 via 2001:db8:2::11 metric 1000000");
    }

    #[test]
    fn every_wire_joins_two_different_interfaces_and_none_is_used_twice() {
        let plan = three_pops();
        let mut ends: Vec<_> = plan.wires.iter().flat_map(|wire| wire.ends.clone()).collect();
        let count = ends.len();
        ends.sort();
        ends.dedup();
        assert_eq!(ends.len(), count);
        assert_eq!(count, 2 * (6 + 3 + 3 + 9));
    }

    #[test]
    fn each_role_runs_what_it_is_for() {
        let plan = three_pops();
        let processes = |name| {
            let host = host(&plan, name);
            host.processes.iter().map(|process| process.name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(processes("fra"), ["bird"]);
        assert_eq!(processes("fra1"), ["bird", "piasd"]);
        assert_eq!(processes("fra-t1"), ["nsd", "nginx"]);
        assert_eq!(processes("c-fra"), [""; 0]);
    }
}
