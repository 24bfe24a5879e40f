//! BIRD's configuration: POP routers, transit routers and proxies.
//!
//! ```text
//! piasd ─ kernel route dev pias0 ─► BIRD on the proxy ─ OSPF ─► POP router ─ BGP ─► transit
//! ```
//!
//! Settings that are not BIRD's defaults, and why:
//! - `merge external yes` beside `ecmp yes`: without it OSPF picks one of two
//!   proxies that announce the same prefix instead of spreading over both.
//! - `priority 0` on proxies: the POP's router is the LAN's designated router, so
//!   that a proxy's death is a neighbour less and no election.
//! - `error wait time`, `connect delay time`, `connect retry time`: sessions
//!   would stay down for a minute after a peer was killed twice.
//! - BFD at 50 ms x 3 in the POP: a hung proxy is out of the path in 150 ms. On
//!   uplinks, which no scenario breaks, at 200 ms x 5: a busy machine must not
//!   split the Internet.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::plan::{HostPlan, Interface, LAN_BRIDGE, ONLY_INTERFACE, ProcessPlan};
use crate::topology::{HostSpec, Role, Topology};

/// Adds BIRD and its configuration to a host's plan. It runs at a higher
/// priority than the hosts' load, as a router's control plane does, so that a
/// busy machine does not look like a dead neighbour: real-time where the lab may
/// (as root), else a better nice value.
pub(crate) fn plan(topology: &Topology, host: &HostSpec, plan: &mut HostPlan, directory: &Path) {
    let text = config(topology, host, &plan.interfaces);
    plan.files.push((PathBuf::from("bird.conf"), text));
    let path = directory.join("bird.conf").display().to_string();
    plan.processes.push(ProcessPlan::new("bird", ["sh", "-c", START, "bird", &path]));
}

/// Starts BIRD in the foreground with the configuration at `$1`.
const START: &str = "chrt -r 1 true 2>/dev/null && exec chrt -r 1 bird -f -c \"$1\"
exec nice -n -10 bird -f -c \"$1\"";

fn config(topology: &Topology, host: &HostSpec, interfaces: &[Interface]) -> String {
    let mut text = String::from("log stderr all;\n");
    if let Some(id) = host.router_id {
        let _infallible = writeln!(text, "router id {id};");
    }
    text += "protocol device { scan time 10; }\n";
    match host.role {
        Role::Proxy => text += &proxy(),
        Role::Router => {
            text += &router_base(topology, host);
            text += &ospf(LAN_BRIDGE, 1, "import all; export none;");
            text += BFD;
        }
        Role::Transit => {
            text += &router_base(topology, host);
            text += BFD;
        }
        Role::Client | Role::Target => {}
    }
    if let (Role::Router | Role::Transit, Some(number)) = (host.role, host.autonomous_system) {
        for interface in interfaces {
            text += &bgp_sessions(topology, host.role, number, interface);
        }
    }
    text
}

const BFD: &str = "protocol bfd {
  interface \"lan\", \"eth0\" { min rx interval 50 ms; min tx interval 50 ms; multiplier 3; };
  interface \"*\" { min rx interval 200 ms; min tx interval 200 ms; multiplier 5; };
}
";

/// A proxy tells OSPF of what piasd routed to its TUN device, and nothing else. The NAT addresses of
/// mates, for which it stands by, have a high metric in the kernel, and cost as much.
fn proxy() -> String {
    let mut text = String::new();
    for (family, ospf) in [("ipv4", 4), ("ipv6", 6)] {
        let _infallible = write!(
            text,
            "protocol kernel pias{ospf} {{
  learn;
  scan time 1;
  {family} {{
    import filter {{ if krt_source = 4 && ifname = \"pias0\" then accept; reject; }};
    export none;
  }};
}}
"
        );
    }
    text += &ospf(
        ONLY_INTERFACE,
        0,
        "import none; export filter {
    if source != RTS_INHERIT then reject;
    if krt_metric >= 10000 then ospf_metric2 = krt_metric; else ospf_metric2 = 100;
    accept;
  };",
    );
    text + BFD
}

/// What POP and transit routers share: the kernel's tables, connected networks
/// and the aggregates that go into BGP.
fn router_base(topology: &Topology, host: &HostSpec) -> String {
    let mut text = String::from("protocol direct { ipv4; ipv6; }\n");
    for (family, is_v4) in [("ipv4", true), ("ipv6", false)] {
        let of_family = |net: &&IpNet| net.addr().is_ipv4() == is_v4;
        let aggregates: Vec<_> = host.announce.iter().filter(of_family).collect();
        let anycast: Vec<_> = topology.anycast.prefixes.iter().filter(of_family).collect();
        let routes: String =
            aggregates.iter().map(|net| format!("  route {net} unreachable;\n")).collect();
        let _infallible = write!(
            text,
            "protocol kernel kernel_{family} {{
  merge paths yes;
  {family} {{ import none; export filter {{ if source = RTS_DEVICE then reject; accept; }}; }};
}}
protocol static aggregates_{family} {{
  {family};
{routes}}}
function announced_{family}() {{
  if source ~ [ RTS_STATIC, RTS_DEVICE ] && net ~ {aggregates} then return true;
  return source ~ [ RTS_OSPF_EXT1, RTS_OSPF_EXT2 ] && net ~ {anycast};
}}
",
            aggregates = prefix_set(&aggregates, is_v4),
            anycast = prefix_set(&anycast, is_v4),
        );
    }
    text
}

/// BIRD knows no empty set; the unspecified address is in nobody's announcement.
fn prefix_set(nets: &[&IpNet], is_v4: bool) -> String {
    if nets.is_empty() {
        return if is_v4 { "[ 0.0.0.0/32 ]".to_owned() } else { "[ ::/128 ]".to_owned() };
    }
    let nets: Vec<_> = nets.iter().map(ToString::to_string).collect();
    format!("[ {} ]", nets.join(", "))
}

/// OSPFv2 and OSPFv3 with BFD on one interface, timers as short as they go.
fn ospf(interface: &str, priority: u8, policy: &str) -> String {
    [("ipv4", "v2"), ("ipv6", "v3")]
        .map(|(family, version)| {
            format!(
                "protocol ospf {version} ospf_{family} {{
  ecmp yes;
  merge external yes;
  {family} {{ {policy} }};
  area 0 {{
    interface \"{interface}\" {{ type broadcast; priority {priority}; hello 1; dead count 4; wait 2; bfd yes; }};
  }};
}}
"
            )
        })
        .concat()
}

/// BGP sessions over an interface whose far end has an AS number, one per
/// family. A POP announces its own; a transit passes everything on.
fn bgp_sessions(topology: &Topology, role: Role, own: u32, interface: &Interface) -> String {
    let Some(peer) = interface.peer.as_deref().and_then(|name| topology.host(name)) else {
        return String::new();
    };
    let Some(remote) = peer.autonomous_system else { return String::new() };
    // Emulated losses must not take a session down, so BFD watches only the
    // short link between a POP and its transit.
    let bfd = if role == Role::Router || peer.role == Role::Router { "bfd yes;" } else { "" };
    let pairs = interface.addresses.iter().zip(&interface.peer_addresses);
    pairs
        .map(|(local, neighbor)| {
            let (suffix, family) = match neighbor {
                IpAddr::V4(_) => ("4", "ipv4"),
                IpAddr::V6(_) => ("6", "ipv6"),
            };
            let export = match role {
                Role::Transit => format!("source = RTS_BGP || announced_{family}()"),
                _ => format!("announced_{family}()"),
            };
            format!(
                "protocol bgp {name}{suffix} {{
  local {local} as {own};
  neighbor {neighbor} as {remote};
  {bfd}
  hold time 9; keepalive time 3;
  connect delay time 1; connect retry time 2; error wait time 1, 2;
  {family} {{ import all; export filter {{ if {export} then accept; reject; }}; next hop self; }};
}}
",
                name = protocol_name(&peer.name),
                local = local.addr(),
            )
        })
        .collect()
}

/// BIRD's symbols take no dashes.
fn protocol_name(host: &str) -> String {
    format!("to_{}_", host.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Plan, PlanOptions};

    fn config_of(host: &str) -> String {
        let options = PlanOptions { state: "/lab".into(), programs: None, xdp: false };
        let plan = Plan::new(&Topology::three_pops(), &options);
        let host = plan.hosts.into_iter().find(|plan| plan.name == host).expect("a known host");
        let file = host.files.into_iter().find(|(path, _)| path.ends_with("bird.conf"));
        file.expect("a host with BIRD").1
    }

    #[test]
    fn a_pop_router_speaks_ospf_to_its_lan_and_bgp_to_its_transit() {
        let text = config_of("fra");
        assert!(text.contains("interface \"lan\""), "{text}");
        assert!(text.contains("local 10.0.1.2 as 64501;\n  neighbor 10.0.1.1 as 64601;"), "{text}");
        assert!(text.contains("merge external yes;"), "{text}");
        assert!(text.contains("net ~ [ 203.0.113.0/24 ]"), "{text}");
    }

    #[test]
    fn a_proxy_exports_only_piasds_routes() {
        let text = config_of("fra1");
        assert!(text.contains("krt_source = 4 && ifname = \"pias0\""), "{text}");
        assert!(!text.contains("protocol bgp"), "{text}");
    }

    #[test]
    fn a_transit_has_sessions_to_its_pop_and_to_the_other_transits_in_both_families() {
        let text = config_of("t-nyc");
        for session in ["to_nyc_4", "to_nyc_6", "to_t_fra_4", "to_t_fra_6", "to_t_sin_4"] {
            assert!(text.contains(&format!("protocol bgp {session} ")), "{session}: {text}");
        }
    }
}
