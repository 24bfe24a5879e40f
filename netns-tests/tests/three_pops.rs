//! The default topology without PIAS: routing, servers, and a clean end.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pias_lab::topology::Role;
use pias_lab::{Lab, Options, Topology, testing, wait_until};

fn three_pops() -> Lab {
    let options = Options { without_proxies: true, ..Options::default() };
    Lab::up(&Topology::three_pops(), &options).expect("the lab boots")
}

#[test]
fn every_client_asks_every_target_over_udp_and_tcp_in_both_families() {
    if testing::skip() {
        return;
    }
    let lab = three_pops();
    let times = lab.boot_times();
    assert!(times.built + times.routed < Duration::from_secs(15), "{times:?}");
    let topology = Topology::three_pops();
    for client in topology.hosts_of(Role::Client) {
        for target in topology.hosts_of(Role::Target) {
            let status = lab.host(&target.name).status().expect("a host");
            for address in status.addresses {
                let server = format!("@{}", address.split('/').next().expect("an address"));
                for transport in ["+notcp", "+tcp"] {
                    let words = ["dig", "+short", transport, &server, "whoami", "TXT"];
                    let answer = lab.host(&client.name).ok(&words).expect("dig");
                    assert_eq!(answer.trim(), format!("\"{}\"", target.name), "{words:?}");
                }
            }
        }
    }
}

#[test]
fn a_distant_client_measures_the_emulated_delay() {
    if testing::skip() {
        return;
    }
    let lab = three_pops();
    let words = ["ping", "-n", "-c", "5", "-i", "0.1", "-q", "10.3.11.2"];
    let output = lab.host("c-nyc").ok(&words).expect("ping");
    let fastest = output.split(" = ").nth(1).and_then(|rest| rest.split('/').next());
    let fastest: f64 = fastest.and_then(|ms| ms.parse().ok()).expect("a round-trip time");
    // 110 ms across the ocean and 1 ms in each access network, there and back,
    // less the jitter of both ways.
    assert!((222.0..232.0).contains(&fastest), "{output}");
}

/// Processes and namespaces of the machine that belong to a PID namespace.
fn residents(pid_namespace: &str) -> (BTreeSet<i32>, BTreeSet<String>) {
    let mut processes = BTreeSet::new();
    let mut networks = BTreeSet::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if link(&format!("/proc/{pid}/ns/pid")) == pid_namespace {
            processes.insert(pid);
            networks.insert(link(&format!("/proc/{pid}/ns/net")));
        }
    }
    (processes, networks)
}

fn link(path: &str) -> String {
    fs::read_link(path).map(|target| target.display().to_string()).unwrap_or_default()
}

/// Whether any process of the machine still uses one of the networks.
fn in_use(networks: &BTreeSet<String>) -> bool {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries
        .map(|entry| link(&format!("{}/ns/net", entry.path().display())))
        .any(|network| networks.contains(&network))
}

fn interfaces() -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/class/net").expect("/sys/class/net").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn killing_the_labs_init_leaves_no_process_namespace_mount_or_interface() {
    if testing::skip() {
        return;
    }
    let interfaces_before = interfaces();
    let lab = three_pops();
    let init = fs::read_to_string(lab.state().join("init.pid")).expect("init's id");
    let (processes, networks) = residents(&link(&format!("/proc/{init}/ns/pid")));
    assert!(processes.len() > 20, "{processes:?}");
    assert!(networks.len() > 15, "{networks:?}");

    let init = Pid::from_raw(init.parse().expect("a number"));
    kill(init, Signal::SIGKILL).expect("init lives");
    wait_until(Duration::from_secs(10), "all processes to end", || {
        processes.iter().all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true))
    })
    .expect("no process stays");
    assert!(!in_use(&networks));
    assert_eq!(interfaces(), interfaces_before);
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains(&lab.state().display().to_string()), "{mounts}");
}

#[test]
fn two_labs_run_side_by_side() {
    if testing::skip() {
        return;
    }
    let (one, other) = (three_pops(), three_pops());
    one.host("fra-t1").kill("nginx", pias_lab::Signal::SIGKILL).expect("nginx runs");
    let fetch = ["curl", "-s", "-m", "5", "http://10.1.11.2/"];
    assert!(!one.host("c-fra").run(&fetch).expect("curl").success());
    assert_eq!(other.host("c-fra").ok(&fetch).expect("curl"), "fra-t1\n");
}
