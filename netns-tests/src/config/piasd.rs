//! piasd's configuration on a proxy of the lab.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::plan::{HostPlan, ONLY_INTERFACE, ProcessPlan};
use crate::topology::{HostSpec, Role, Topology};

/// Adds piasd and its configuration to a proxy's plan.
pub(crate) fn plan(
    topology: &Topology,
    host: &HostSpec,
    plan: &mut HostPlan,
    programs: &Path,
    xdp: bool,
) {
    let text = config(topology, host, xdp);
    plan.files.push((PathBuf::from("etc-pias/piasd.toml"), text));
    let piasd = programs.join("piasd").display().to_string();
    let command = [piasd.as_str(), "--config", "/etc/pias/piasd.toml"];
    plan.processes.push(ProcessPlan::new("piasd", command));
}

/// The unicast addresses of a proxy: its own choice, or those of its port on
/// the POP's LAN.
pub(crate) fn unicast(topology: &Topology, proxy: &str) -> Vec<IpAddr> {
    let chosen = topology.host(proxy).map(|host| host.unicast.as_slice()).unwrap_or_default();
    if !chosen.is_empty() {
        return chosen.to_vec();
    }
    let members = topology.lans.iter().flat_map(|lan| &lan.members);
    members
        .filter(|member| member.host == proxy)
        .flat_map(|member| &member.addresses)
        .map(ipnet::IpNet::addr)
        .collect()
}

/// The text of `/etc/pias/piasd.toml`: every other proxy is a seed.
fn config(topology: &Topology, host: &HostSpec, xdp: bool) -> String {
    let name = &host.name;
    let cluster = host.cluster.as_deref().unwrap_or_default();
    let prefixes = list(&topology.anycast.prefixes);
    let unicast_list = list(&unicast(topology, name));
    let nat = list(&host.nat);
    let seeds: String = topology
        .hosts_of(Role::Proxy)
        .filter(|other| other.name != *name)
        .filter_map(|other| Some((&other.name, *unicast(topology, &other.name).first()?)))
        .map(|(name, address)| format!("    {{ name = \"{name}\", address = \"{address}\" }},\n"))
        .collect();
    let groups: String = topology
        .groups
        .iter()
        .map(|group| {
            format!("\n[[group]]\naddress = \"{}\"\npolicy = \"{}\"\n", group.address, group.policy)
        })
        .collect();
    let engine = if xdp { "xdp" } else { "tun" };
    format!(
        "name    = \"{name}\"
cluster = \"{cluster}\"

[anycast]
prefixes = {prefixes}

[proxy]
unicast = {unicast_list}
nat     = {nat}

[overlay]
seeds = [
{seeds}]

[datapath]
engine = \"{engine}\"
interfaces = [\"{ONLY_INTERFACE}\"]

[tls]
certificate-authority = \"/etc/pias/ca.pem\"
certificate = \"/etc/pias/{name}.pem\"
key = \"/etc/pias/{name}.key\"
reset-key = \"/etc/pias/reset.key\"
{groups}"
    )
}

fn list<T: ToString>(items: &[T]) -> String {
    let quoted: Vec<_> = items.iter().map(|item| format!("\"{}\"", item.to_string())).collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::GroupSpec;

    #[test]
    fn a_proxy_knows_its_addresses_and_every_other_proxy() {
        let mut topology = Topology::three_pops();
        let (address, policy) = ("203.0.113.10:53".to_owned(), "random".to_owned());
        topology.groups.push(GroupSpec { address, policy });
        let host = topology.host("fra1").expect("fra1 is in the topology");
        let text = config(&topology, host, true);
        let parsed: toml::Table = text.parse().expect("valid TOML");
        assert_eq!(parsed["cluster"].as_str(), Some("fra"));
        assert_eq!(parsed["proxy"]["unicast"][0].as_str(), Some("198.51.100.11"));
        assert_eq!(parsed["proxy"]["nat"][1].as_str(), Some("2001:db8:1:100::11"));
        assert_eq!(parsed["datapath"]["engine"].as_str(), Some("xdp"));
        assert_eq!(parsed["group"][0]["policy"].as_str(), Some("random"));
        assert_eq!(parsed["overlay"]["seeds"].as_array().map(Vec::len), Some(5));
    }
}
