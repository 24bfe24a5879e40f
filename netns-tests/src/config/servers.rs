//! The servers of a target: NSD for DNS, nginx for HTTP. Each answer names the
//! host that gave it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::plan::{HostPlan, ProcessPlan};
use crate::topology::HostSpec;

/// Adds a target's servers and their files to its plan.
pub(crate) fn plan(host: &HostSpec, plan: &mut HostPlan, directory: &Path) {
    let addresses: Vec<IpAddr> =
        plan.interfaces.iter().flat_map(|i| &i.addresses).map(ipnet::IpNet::addr).collect();
    plan.files.push((PathBuf::from("nsd.conf"), nsd(directory)));
    plan.files.push((PathBuf::from("whoami.zone"), zone(&host.name, &addresses)));
    plan.files.push((PathBuf::from("nginx.conf"), nginx(&host.name, directory)));
    let file = |name: &str| directory.join(name).display().to_string();
    plan.processes.push(ProcessPlan::new("nsd", ["nsd", "-d", "-c", &file("nsd.conf")]));
    plan.processes.push(ProcessPlan::new(
        "nginx",
        [
            "nginx",
            "-e",
            "stderr",
            "-p",
            &directory.display().to_string(),
            "-c",
            &file("nginx.conf"),
        ],
    ));
}

/// NSD in the foreground with all its files in the host's directory, not in
/// `/tmp`: what it leaves there when killed bars the next NSD with its process
/// id, which inside of a lab comes soon. Its response rate limit is off,
/// because tests ask faster than people do.
fn nsd(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "server:
    ip-address: 0.0.0.0
    ip-address: ::0
    username: \"\"
    chroot: \"\"
    server-count: 1
    zonesdir: \"{directory}\"
    database: \"\"
    pidfile: \"\"
    xfrdir: \"{directory}\"
    xfrdfile: \"{directory}/xfrd.state\"
    zonelistfile: \"{directory}/zone.list\"
    rrl-ratelimit: 0
    verbosity: 1
remote-control:
    control-enable: no
zone:
    name: \"whoami\"
    zonefile: \"whoami.zone\"
"
    )
}

/// The zone `whoami`: its TXT record is the host's name, its A and AAAA
/// records are the host's own addresses.
fn zone(host: &str, addresses: &[IpAddr]) -> String {
    let mut zone = format!(
        "$ORIGIN whoami.\n$TTL 0\n@ SOA ns.whoami. root.whoami. 1 3600 600 86400 0\n@ NS \
         ns.whoami.\n@ TXT \"{host}\"\n"
    );
    for address in addresses {
        let kind = if address.is_ipv4() { "A" } else { "AAAA" };
        for name in ["@", "ns"] {
            zone += &format!("{name} {kind} {address}\n");
        }
    }
    zone
}

/// nginx in the foreground as one process, so that one `kill -9` is the end of
/// it. `/` answers with the host's name, `/files/` serves what a test puts into
/// the host's `www` directory.
fn nginx(host: &str, directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "daemon off;
master_process off;
user root;
pid {directory}/nginx.pid;
error_log stderr notice;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/nginx-body;
    proxy_temp_path {directory}/nginx-proxy;
    fastcgi_temp_path {directory}/nginx-fastcgi;
    uwsgi_temp_path {directory}/nginx-uwsgi;
    scgi_temp_path {directory}/nginx-scgi;
    sendfile on;
    server {{
        listen 80;
        listen [::]:80;
        location / {{
            default_type text/plain;
            return 200 \"{host}\\n\";
        }}
        location /files/ {{
            alias {directory}/www/;
        }}
    }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zone_names_the_host_in_both_families() {
        let zone = zone("fra-t1", &["10.1.11.2".parse().unwrap(), "2001:db8::2".parse().unwrap()]);
        assert!(zone.contains("@ TXT \"fra-t1\"\n"), "{zone}");
        assert!(zone.contains("@ A 10.1.11.2\n"), "{zone}");
        assert!(zone.contains("@ AAAA 2001:db8::2\n"), "{zone}");
    }
}
