use std::time::Duration;

use super::*;
use crate::{flow::Phase, slots::Slots, wire::tcp};

fn new(client_port: u16, protocol: &str) -> NewFlow {
    NewFlow {
        key: FlowKey {
            client: SocketAddr::new("192.0.2.1".parse().unwrap(), client_port),
            group: format!("203.0.113.1:80/{protocol}").parse().unwrap(),
        },
        target: Slots::default().insert(()),
        lease: TargetId(1),
        address: "10.0.0.1:80".parse().unwrap(),
        nat: "192.0.2.200".parse().unwrap(),
        ingress: None,
    }
}

fn table(nat_flows: usize, nat_embryonic: usize) -> NatTable {
    NatTable::new(Limits { nat_flows, nat_embryonic, ..Limits::default() }, 42)
}

const START: Time = Time::from_micros(1_000_000);

fn establish(table: &mut NatTable, handle: Handle) {
    table.target_sent(handle, tcp::SYN | tcp::ACK, START);
    table.client_sent(handle, tcp::ACK, START).unwrap();
    assert_eq!(table.get(handle).unwrap().phase, Phase::Open);
}

#[test]
fn a_forged_reset_ends_nothing_while_its_seeming_sender_goes_on() {
    let mut table = table(4, 4);
    let handle = table.open(new(1, "tcp"), START).unwrap();
    establish(&mut table, handle);
    let phase = |table: &NatTable| table.get(handle).unwrap().phase;
    table.client_sent(handle, tcp::RST, START).unwrap();
    assert_eq!(phase(&table), Phase::Closing);
    table.target_sent(handle, tcp::ACK, START);
    assert_eq!(phase(&table), Phase::Closing, "what was under way proves nothing");
    table.client_sent(handle, tcp::ACK, START).unwrap();
    assert_eq!(phase(&table), Phase::Open);
}

#[test]
fn a_busy_target_takes_new_questions_on_ports_that_rest() {
    let mut table = table(1 << 17, 1 << 17);
    let question = |n: usize| {
        let mut flow = new(1 + (n % 60_000) as u16, "udp");
        flow.key.client.set_ip(std::net::Ipv4Addr::from(0x0A00_0000 + (n / 60_000) as u32).into());
        flow
    };
    for n in 0..200_000 {
        let now = START + Duration::from_micros(50 * n as u64);
        let handle = table.open(question(n), now);
        assert!(handle.is_ok(), "question {n}: {handle:?}");
        table.target_sent(handle.unwrap(), 0, now);
    }
}

#[test]
fn a_flow_is_found_from_both_sides() {
    let mut table = table(100, 100);
    let handle = table.open(new(5, "udp"), START).unwrap();
    let flow = table.get(handle).unwrap();
    assert!(FLOW_PORTS.contains(&flow.nat.port()));
    assert_eq!(table.forward(&flow.key), Some(handle));
    assert_eq!(table.reverse(Protocol::Udp, flow.address, flow.nat), Some(handle));
    assert_eq!(table.reverse(Protocol::Tcp, flow.address, flow.nat), None);
    table.remove(handle);
    assert_eq!((table.forward(&flow.key), table.count(), table.embryonic()), (None, 0, 0));
}

#[test]
fn a_flood_of_syns_evicts_its_own_kind() {
    let mut table = table(64, 8);
    let good: Vec<Handle> = (1..=20)
        .map(|port| {
            let handle = table.open(new(port, "tcp"), START).unwrap();
            establish(&mut table, handle);
            handle
        })
        .collect();
    for port in 1000..3000 {
        let forged = table.open(new(port, "tcp"), START + Duration::from_secs(1)).unwrap();
        // The target answers every other one.
        if port % 2 == 0 {
            table.target_sent(forged, tcp::SYN | tcp::ACK, START);
        }
    }
    assert_eq!((table.count(), table.embryonic()), (28, 8));
    assert!(good.iter().all(|&handle| table.get(handle).is_some()));
    assert_eq!(table.take_evicted(), 2000 - 8);
}

#[test]
fn a_table_full_of_established_flows_takes_no_more() {
    let mut table = table(4, 4);
    for port in 1..=4 {
        let handle = table.open(new(port, "tcp"), START).unwrap();
        establish(&mut table, handle);
    }
    assert_eq!(table.open(new(9, "tcp"), START), Err(DropReason::NatTableFull));
}

#[test]
fn both_ends_must_finish_before_a_flow_closes() {
    let mut table = table(4, 4);
    let handle = table.open(new(1, "tcp"), START).unwrap();
    establish(&mut table, handle);
    let phase = |table: &NatTable| table.get(handle).unwrap().phase;
    table.client_sent(handle, tcp::FIN | tcp::ACK, START).unwrap();
    assert_eq!(phase(&table), Phase::Open);
    table.target_sent(handle, tcp::FIN | tcp::ACK, START);
    assert_eq!(phase(&table), Phase::Closing);
    table.age(START + Duration::from_secs(239));
    assert_eq!(table.count(), 1);
    table.age(START + Duration::from_secs(240));
    assert_eq!(table.count(), 0);
}

#[test]
fn every_port_towards_one_target_is_used_before_none_is_left() {
    let mut table = table(1 << 17, 1 << 17);
    let opened = (0..FLOW_PORTS.len())
        .filter(|&n| {
            let mut flow = new(1 + (n % 60_000) as u16, "udp");
            if n >= 60_000 {
                flow.key.client.set_ip("192.0.2.2".parse().unwrap());
            }
            table.open(flow, START).is_ok()
        })
        .count();
    assert!(opened > 55_000, "only {opened} ports found");
    let mut other = new(1, "udp");
    other.address = "10.0.0.2:80".parse().unwrap();
    other.key.client.set_ip("192.0.2.3".parse().unwrap());
    assert!(table.open(other, START).is_ok(), "another target has all ports of its own");
}
