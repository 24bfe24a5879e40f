//! The servers that all candidates lead to, and the candidates that are not
//! PIAS.

use std::env;
use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use super::BenchError;
use super::limits::CHANGE_LIMIT;
use super::places::{
    ACCEPT_PORT, BULK_PORT, CLIENT, ECHO_PORT, FAR, NEAR, NEAR_ADDRESS, TARGET, TARGET_ADDRESS,
    TARGET_FAR, TARGET_FAR_ADDRESS, at,
};
use crate::lab::Lab;
use crate::wait::wait_until;

/// Kernel settings of all hosts: enough ports for short connections in quick
/// succession, and leave to use one again a second after its last connection
/// has ended. They keep the ports of one host from being the bottleneck.
const SETTINGS: &str = "echo 10000 65535 > /proc/sys/net/ipv4/ip_local_port_range && \
                        echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse";

/// Tunes the hosts and starts the servers, which run until the lab ends.
pub(super) fn prepare(lab: &Lab) -> Result<(), BenchError> {
    for host in [CLIENT, NEAR, FAR, TARGET, TARGET_FAR] {
        lab.host(host).ok(&["sh", "-c", SETTINGS])?;
    }
    let program = own_path()?;
    for (host, address) in [(TARGET, TARGET_ADDRESS), (TARGET_FAR, TARGET_FAR_ADDRESS)] {
        let host = lab.host(host);
        host.spawn("udp-echo", &[&program, "load", "udp-echo", &at(address, ECHO_PORT)])?;
        host.spawn("tcp-accept", &[&program, "load", "tcp-accept", &at(address, ACCEPT_PORT)])?;
        host.spawn("iperf3", &["iperf3", "-s", "-p", &BULK_PORT.to_string()])?;
    }
    Ok(())
}

/// This program, which brings the load generators.
pub(super) fn own_path() -> Result<String, BenchError> {
    let path = env::current_exe();
    let path = path.map_err(|source| BenchError::File { path: "/proc/self/exe".into(), source })?;
    Ok(path.display().to_string())
}

const NFT_TABLE: &str = "pias_bench";

fn nftables(ports: &str) -> String {
    format!(
        "table ip {NFT_TABLE} {{
    chain inwards {{
        type nat hook prerouting priority dstnat;
        ip daddr {NEAR_ADDRESS} meta l4proto {{ tcp, udp }} th dport {{ {ports} }} dnat to {TARGET_ADDRESS}
    }}
    chain outwards {{
        type nat hook postrouting priority srcnat;
        ip daddr {TARGET_ADDRESS} masquerade
    }}
}}
"
    )
}

/// The ports of all three services.
pub(super) fn services() -> String {
    format!("{ECHO_PORT}, {ACCEPT_PORT}, {BULK_PORT}")
}

/// Loads the ruleset for these ports, as nftables lists them. It goes at the end of the turn, and connection tracking
/// with it, so that the other candidates do not pay for it.
pub(super) fn start_nftables(lab: &Lab, ports: &str) -> Result<(), BenchError> {
    let file = write(lab, "bench.nft", &nftables(ports))?;
    lab.host(NEAR).ok(&["nft", "-f", &file])?;
    Ok(())
}

pub(super) fn stop_nftables(lab: &Lab) -> Result<(), BenchError> {
    lab.host(NEAR).ok(&["nft", "delete", "table", "ip", NFT_TABLE])?;
    Ok(())
}

/// nginx as it does best here: a worker per core with a socket of its own
/// each; UDP sessions that stay (with `proxy_responses 1` every request costs
/// a socket of its own, which measured slower in all three UDP figures); large
/// buffers where bulk passes, small ones where connections are short.
fn nginx(pid_file: &str) -> String {
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
user root;
worker_processes auto;
worker_rlimit_nofile 65536;
pid {pid_file};
error_log stderr crit;
events {{ worker_connections 16384; }}
stream {{
    access_log off;
    proxy_connect_timeout 1s;
    server {{
        listen {echo} udp reuseport;
        proxy_pass {TARGET_ADDRESS}:{ECHO_PORT};
        proxy_timeout 2s;
    }}
    server {{
        listen {accept} reuseport backlog=1024;
        proxy_pass {TARGET_ADDRESS}:{ACCEPT_PORT};
    }}
    server {{
        listen {bulk} reuseport;
        proxy_pass {TARGET_ADDRESS}:{BULK_PORT};
        proxy_buffer_size 256k;
    }}
}}
",
        echo = at(NEAR_ADDRESS, ECHO_PORT),
        accept = at(NEAR_ADDRESS, ACCEPT_PORT),
        bulk = at(NEAR_ADDRESS, BULK_PORT),
    )
}

pub(super) fn start_nginx(lab: &Lab) -> Result<(), BenchError> {
    let pid_file = lab.state().join("bench-nginx.pid").display().to_string();
    let file = write(lab, "bench-nginx.conf", &nginx(&pid_file))?;
    lab.host(NEAR).spawn("nginx", &["nginx", "-e", "stderr", "-c", &file])?;
    Ok(())
}

/// Ends a process and waits until it has ended.
pub(super) fn stop_process(lab: &Lab, host: &str, process: &str) -> Result<(), BenchError> {
    lab.host(host).kill(process, Signal::SIGTERM)?;
    wait_until(CHANGE_LIMIT, format!("{process} on {host} to end"), || {
        !lab.host(host).runs(process)
    })
    .map(|_| ())
    .map_err(|source| BenchError::TimedOut { source, logs: lab.logs() })
}

fn write(lab: &Lab, name: &str, text: &str) -> Result<String, BenchError> {
    let path: PathBuf = lab.state().join(name);
    fs::write(&path, text).map_err(|source| BenchError::File { path: path.clone(), source })?;
    Ok(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nftables_translates_all_three_services_both_ways() {
        let text = nftables(&services());
        assert!(text.contains("ip daddr 10.9.1.1 "), "{text}");
        assert!(text.contains("th dport { 7001, 7002, 5201 } dnat to 10.9.3.2"), "{text}");
        assert!(text.contains("ip daddr 10.9.3.2 masquerade"), "{text}");
    }

    #[test]
    fn nginx_listens_to_udp_only_where_the_echo_is() {
        let text = nginx("/run/nginx.pid");
        assert!(text.contains("listen 10.9.1.1:7001 udp reuseport;"), "{text}");
        assert!(text.contains("listen 10.9.1.1:7002 reuseport backlog=1024;"), "{text}");
        assert!(text.contains("listen 10.9.1.1:5201 reuseport;"), "{text}");
    }
}
