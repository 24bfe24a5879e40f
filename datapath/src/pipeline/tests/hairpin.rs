//! A client that is itself a member of the group it calls, behind the same join proxy.

use super::*;
use crate::{icmp_error::Problem, wire::tcp};

/// Group, the member that asks, and the member that answers.
fn families() -> [(&'static str, &'static str, &'static str); 2] {
    [(WEB, "10.0.0.1:40000", "10.0.0.2:80"), (WEB6, "[2001:db8:9::1]:40000", "[2001:db8:9::2]:80")]
}

fn two_members(group: &str, asker: &str, answerer: &str) -> Proxy {
    let mut proxy = Proxy::new();
    let its_own = std::net::SocketAddr::new(sock(asker).ip(), 80).to_string();
    for protocol in ["tcp", "udp"] {
        let group = format!("{group}/{protocol}");
        for (id, address) in [(6, its_own.as_str()), (7, answerer)] {
            let id = if protocol == "tcp" { id } else { id + 10 };
            proxy.target(id, &group, address, TargetState::Up);
        }
        proxy.candidates(&group, &[SELF]);
    }
    proxy
}

#[test]
fn members_behind_one_proxy_see_only_its_addresses_of_each_other() {
    for (group, asker, answerer) in families() {
        let mut proxy = two_members(group, asker, answerer);
        for mut question in [testing::syn(asker, group), testing::udp(asker, group, b"q")] {
            let udp = transport(&question).protocol == Protocol::Udp;
            let nat = proxy.delivered(&mut question);
            assert_eq!(Some(nat.ip()), proxy.pipeline.nat_address(nat.is_ipv6()));
            assert_eq!(transport(&question).destination, sock(answerer));
            let mut answer = if udp {
                testing::udp_between(sock(answerer), nat, b"a")
            } else {
                testing::tcp_between(sock(answerer), nat, tcp::SYN | tcp::ACK, b"")
            };
            assert_eq!(proxy.tun(&mut answer), Verdict::Tun);
            testing::assert_checksums(answer.bytes());
            let seen = transport(&answer);
            assert_eq!((seen.source, seen.destination), (sock(group), sock(asker)));
        }
    }
}

#[test]
fn errors_between_members_behind_one_proxy_arrive() {
    for (group, asker, answerer) in families() {
        let mut proxy = two_members(group, asker, answerer);
        let mut question = testing::syn(asker, group);
        let nat = proxy.delivered(&mut question);
        let mut refused = icmp::error(&question, Problem::Port, &sock(answerer).ip().to_string());
        assert_eq!(proxy.tun(&mut refused), Verdict::Tun);
        let (source, destination, about) = icmp::read(&refused);
        assert_eq!((source, destination), (sock(group).ip(), sock(asker).ip()));
        assert_eq!((about.source, about.destination), (sock(asker), sock(group)));

        let mut answer = testing::tcp_between(sock(answerer), nat, tcp::SYN | tcp::ACK, b"");
        proxy.tun(&mut answer);
        let mut gone = icmp::error(&answer, Problem::Port, &sock(asker).ip().to_string());
        assert_eq!(proxy.tun(&mut gone), Verdict::Tun);
        let (source, destination, about) = icmp::read(&gone);
        assert_eq!((source, destination), (nat.ip(), sock(answerer).ip()));
        assert_eq!((about.source, about.destination), (sock(answerer), nat));
    }
}
