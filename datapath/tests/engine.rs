//! The TUN engine on real kernels' packets: hosts are network namespaces of the test itself.

mod support;

use std::{net::UdpSocket, time::Duration};

use pias_datapath::{
    counters::Path,
    drop_reason::DropReason,
    engine::{Datagram, EngineFailure},
};
use support::{
    bed::{Bed, FAR, GROUPS, NEAR, Proxy, TARGETS, socket},
    hosts::{Host, privileged, wait_for},
    traffic::{assert_echo, assert_spoken, echo_service, tcp_there_and_back, udp_client},
};

const BULK: usize = 32 << 20;

/// A bed whose near proxy delivers to the target itself.
fn with_one_proxy() -> (Bed, Proxy) {
    let bed = Bed::new();
    let near = Proxy::start(&bed.near, NEAR, &["10.2.0.1", "2001:db8:2::1"]);
    serve(&bed, &near);
    for group in GROUPS.as_flattened() {
        near.ingress(group, NEAR);
    }
    (bed, near)
}

/// A bed whose near proxy is the ingress and whose far proxy delivers; the tunnel between them is
/// of one family.
fn with_tunnel(near_unicast: &str, far_unicast: &str) -> (Bed, Proxy, Proxy) {
    let bed = Bed::new();
    let near = Proxy::start(&bed.near, NEAR, &[near_unicast]);
    let far = Proxy::start(&bed.far, FAR, &[far_unicast]);
    near.peer(FAR, far_unicast);
    far.peer(NEAR, near_unicast);
    serve(&bed, &far);
    for group in GROUPS.as_flattened() {
        near.ingress(group, FAR);
    }
    (bed, near, far)
}

fn serve(bed: &Bed, proxy: &Proxy) {
    for (groups, target) in GROUPS.iter().zip(TARGETS) {
        echo_service(&bed.target, target.parse().unwrap());
        for group in groups {
            proxy.target(group, target);
        }
    }
}

/// Tells a proxy what [`with_one_proxy`] told the one before it.
fn tell_again(next: &Proxy) {
    for (groups, target) in GROUPS.iter().zip(TARGETS) {
        for group in groups {
            next.target(group, target);
            next.ingress(group, NEAR);
        }
    }
}

fn assert_bulk_is_intact(client: &Host) {
    for [_, group] in GROUPS {
        let (sent, received) = tcp_there_and_back(client, socket(group), BULK);
        assert_eq!(sent, received, "{group}");
    }
}

fn assert_datagrams_come_back(client: &Host) {
    for [group, _] in GROUPS {
        let client = udp_client(client, socket(group));
        for payload in [&b"x"[..], &[7; 1200], &[]] {
            assert_echo(&client, payload);
        }
    }
}

#[test]
fn datagrams_and_streams_pass_one_proxy() {
    if !privileged() {
        return;
    }
    let (bed, near) = with_one_proxy();
    assert_datagrams_come_back(&bed.client);
    assert_bulk_is_intact(&bed.client);
    let counters = near.handle.counters().unwrap();
    let segments = (2 * BULK / 1460) as u64;
    let packets = counters.path(Path::JoinDeliver);
    assert!(packets < segments / 4, "{packets} packets: super-packets do not pass whole");
    assert_eq!(counters.drops(DropReason::TunWrite), 0);
    assert_eq!(counters.path(Path::IngressDirect), 0);
    near.engine.stop();
    assert!(near.ended.recv().unwrap().is_ok());
}

#[test]
fn datagrams_and_streams_pass_a_tunnel_over_ipv4() {
    if !privileged() {
        return;
    }
    let (bed, near, far) = with_tunnel("10.2.0.1", "10.2.0.2");
    assert_datagrams_come_back(&bed.client);
    assert_bulk_is_intact(&bed.client);
    assert!(near.handle.counters().unwrap().path(Path::IngressDirect) > 0);
    assert!(far.handle.counters().unwrap().path(Path::JoinDeliver) > 0);
}

#[test]
fn datagrams_and_streams_pass_a_tunnel_over_ipv6() {
    if !privileged() {
        return;
    }
    let (bed, near, _far) = with_tunnel("2001:db8:2::1", "2001:db8:2::2");
    assert_datagrams_come_back(&bed.client);
    assert_bulk_is_intact(&bed.client);
    assert!(near.handle.counters().unwrap().path(Path::IngressDirect) > 0);
}

#[test]
fn what_came_out_of_the_tunnel_is_joined_again() {
    if !privileged() {
        return;
    }
    let (bed, near, far) = with_tunnel("10.2.0.1", "10.2.0.2");
    let (sent, received) = tcp_there_and_back(&bed.client, socket(GROUPS[0][1]), BULK);
    assert_eq!(sent, received);
    let entered = near.handle.counters().unwrap().path(Path::IngressDirect);
    let delivered = far.handle.counters().unwrap().path(Path::JoinDeliver);
    let segments = (BULK / 1460) as u64;
    assert!(entered < segments / 2, "{entered} of {segments}: not whole through the TUN device");
    assert!(delivered < segments / 2, "{delivered} of {segments}: not joined");
}

#[test]
fn a_shorter_path_between_proxies_is_learnt() {
    if !privileged() {
        return;
    }
    for [near, far] in [["10.2.0.1", "10.2.0.2"], ["2001:db8:2::1", "2001:db8:2::2"]] {
        let (bed, near, _far) = with_tunnel(near, far);
        bed.near.ip(&format!("route add {far} dev far mtu 1400"));
        assert_bulk_is_intact(&bed.client);
        let counters = near.handle.counters().unwrap();
        assert!(counters.drops(DropReason::TunnelSend) > 0, "the MTU to {far} was never met");
        assert!(counters.path(Path::IcmpSent) > 0, "no client was told of it");
    }
}

#[test]
fn a_datagram_to_the_registration_port_reaches_piasd_and_is_answered() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let near = Proxy::start(&bed.near, NEAR, &["10.2.0.1"]);
    for to in ["203.0.113.10:7427", "[2001:db8:a::10]:7427"] {
        let client = udp_client(&bed.client, to.parse().unwrap());
        client.send(b"hello").unwrap();
        let asked = near.registrations.recv_timeout(Duration::from_secs(5)).unwrap();
        assert_eq!((asked.local.to_string(), &asked.payload[..]), (to.to_owned(), &b"hello"[..]));
        assert_eq!(asked.remote.port(), client.local_addr().unwrap().port());

        let answer = Datagram { segment_size: Some(4), payload: b"wellcome!".to_vec(), ..asked };
        assert!(near.handle.send_registration(answer));
        for part in [&b"well"[..], b"come", b"!"] {
            assert_eq!(receive(&client), part);
        }
    }
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 2000];
    wait_for("a datagram", || socket.recv(&mut buffer).ok().map(|len| buffer[..len].to_vec()))
}

#[test]
fn what_is_no_geneve_is_counted() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let near = Proxy::start(&bed.near, NEAR, &["10.2.0.1"]);
    let stranger = udp_client(&bed.client, "10.2.0.1:6081".parse().unwrap());
    wait_for("both to be counted", || {
        stranger.send(b"no Geneve").unwrap();
        stranger.send(&[0, 0, 8, 0, 0, 0, 0, 0, 0x45, 0, 0, 20]).unwrap();
        let counters = near.handle.counters().unwrap();
        let both = [DropReason::TunnelMalformed, DropReason::UnknownPeer];
        both.iter().all(|&reason| counters.drops(reason) > 0).then_some(())
    });
}

#[test]
fn an_engine_whose_device_is_removed_says_so() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let near = Proxy::start(&bed.near, NEAR, &["10.2.0.1"]);
    bed.near.ip("link delete pias0");
    let ended = near.ended.recv_timeout(Duration::from_secs(5)).unwrap();
    assert!(matches!(ended, Err(EngineFailure::Device(_))), "{ended:?}");
    assert!(near.handle.counters().is_err());
}

#[test]
fn an_engine_that_cannot_start_says_why() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let _near = Proxy::start(&bed.near, NEAR, &["10.2.0.1"]);
    let error =
        support::bed::try_start(&bed.near, NEAR, &["192.0.2.99"], "pias1", None).err().unwrap();
    assert!(error.to_string().starts_with("cannot bind a tunnel socket to 192.0.2.99:6081"));
    let error = support::bed::try_start(&bed.near, NEAR, &[], "pias0", None).err().unwrap();
    assert!(error.to_string().starts_with("cannot make the TUN device `pias0`"), "{error}");
}

#[test]
fn the_next_engine_goes_on_with_connections_and_loses_no_datagram() {
    if !privileged() {
        return;
    }
    let (bed, near) = with_one_proxy();
    let [[datagrams, stream], _] = GROUPS;
    let client = udp_client(&bed.client, socket(datagrams));
    assert_echo(&client, b"before");
    let mut talk = bed.client.run(|| std::net::TcpStream::connect(socket(stream)).unwrap());
    talk.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_spoken(&mut talk, b"before");

    near.handle.pause().unwrap();
    client.send(b"meanwhile").unwrap();
    let legacy = near.handle.hand_over(None).unwrap().unwrap();
    let tables = legacy.tables.clone();
    let next =
        Proxy::take_over(&bed.near, NEAR, &["10.2.0.1", "2001:db8:2::1"], None, legacy).unwrap();
    tell_again(&next);
    next.handle.adopt(tables).unwrap();
    let flows = |proxy: &Proxy| proxy.handle.occupancy().unwrap().nat_flows;
    assert_eq!((flows(&near), flows(&next)), (2, 2));
    next.handle.resume().unwrap();
    near.engine.stop();

    let mut buffer = [0; 32];
    let length = client.recv(&mut buffer).expect("what waited in the device is delivered");
    assert_eq!(&buffer[..length], b"meanwhile");
    assert_echo(&client, b"after");
    assert_spoken(&mut talk, b"after");
    assert_bulk_is_intact(&bed.client);
}

#[test]
fn an_engine_that_nobody_took_over_goes_on() {
    if !privileged() {
        return;
    }
    let (bed, near) = with_one_proxy();
    let client = udp_client(&bed.client, socket(GROUPS[0][0]));
    assert_echo(&client, b"before");
    near.handle.pause().unwrap();
    drop(near.handle.hand_over(None).unwrap().unwrap());
    client.send(b"meanwhile").unwrap();
    near.handle.resume().unwrap();
    let mut buffer = [0; 32];
    let length = client.recv(&mut buffer).expect("what waited in the device is delivered");
    assert_eq!(&buffer[..length], b"meanwhile");
    assert_echo(&client, b"after");
}

#[test]
fn a_device_of_another_name_is_not_taken_over() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let near = support::bed::try_start(&bed.near, NEAR, &["10.2.0.1"], "other0", None).unwrap();
    near.handle.pause().unwrap();
    let legacy = near.handle.hand_over(None).unwrap().unwrap();
    let Err(error) = Proxy::take_over(&bed.near, NEAR, &["10.2.0.1"], None, legacy) else {
        panic!("taken over")
    };
    assert!(error.to_string().contains("`other0`"), "{error}");
}
