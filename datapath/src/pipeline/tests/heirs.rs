//! Flows that are held by more than the heir of their proxy: B was A's heir once, and another is now.

use super::{
    standby::{A, A_TUNNEL, B, TARGET, TICK, die, pair, pass},
    *,
};
use crate::{limits::STANDBY_FOR, wire::tcp};

/// B, which was told of a connection of A, and then A died and the third proxy was its heir.
fn former_heir() -> (Proxy, std::net::SocketAddr) {
    let (_, mut b, nat) = pair(CLIENT, WEB, TARGET);
    die(A, &mut b, THIRD);
    b.wait(TICK);
    (b, nat)
}

fn more() -> Packet {
    testing::tcp(CLIENT, WEB, tcp::ACK, b"more")
}

#[test]
fn only_the_heir_goes_on_with_a_flow() {
    let (mut b, nat) = former_heir();
    assert!(direct(THIRD_TUNNEL)(&b.tun(&mut more())), "a client's packet");
    let mut answer = testing::tcp_between(sock(TARGET), nat, tcp::ACK, b"data");
    assert!(direct(THIRD_TUNNEL)(&b.tun(&mut answer)), "a target's packet");
    assert_eq!((b.path(Path::FlowPromoted), b.pipeline.occupancy().nat_flows), (0, 0));
    b.wait(STANDBY_FOR);
    assert_eq!(b.pipeline.occupancy().standby_flows, 0, "held as long as a live mate's");
}

#[test]
fn the_heir_of_the_heir_goes_on_with_what_it_holds_itself() {
    let (mut b, nat) = former_heir();
    die(THIRD, &mut b, B);
    b.wait(TICK);
    assert_eq!(b.path(Path::FlowPromoted), 1);
    let mut answer = testing::tcp_between(sock(TARGET), nat, tcp::ACK, b"data");
    assert_eq!(b.tun(&mut answer), Verdict::Tun);
}

#[test]
fn a_flow_of_a_former_life_stays_with_the_heir_though_its_proxy_is_back() {
    let (mut b, _) = former_heir();
    b.apply(ForwardingUpdate::Peer { id: A, tunnel: addr(A_TUNNEL) });
    assert!(direct(THIRD_TUNNEL)(&b.tun(&mut more())));
}

#[test]
fn a_proxy_that_is_back_and_tells_of_its_flow_has_it() {
    let (mut a, mut b, _) = pair(CLIENT, WEB, TARGET);
    die(A, &mut b, THIRD);
    b.apply(ForwardingUpdate::Peer { id: A, tunnel: addr(A_TUNNEL) });
    a.apply(ForwardingUpdate::Replicate { wanted: true, young: false });
    a.wait(TICK);
    assert_eq!(pass(&mut a, A, &mut b), 1);
    assert!(direct(A_TUNNEL)(&b.tun(&mut more())));
}
