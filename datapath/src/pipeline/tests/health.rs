//! What flows and probes show of targets.

use pias_protocol::forwarding::ProbeOutcome;

use super::*;
use crate::wire::tcp;

const TARGET: &str = "10.0.0.1:8080";

fn jap() -> Proxy {
    let mut proxy = Proxy::new();
    proxy.target(6, "203.0.113.10:80/tcp", TARGET, TargetState::Up);
    proxy.target(5, "203.0.113.10:53/udp", "10.0.0.1:5353", TargetState::Up);
    proxy.candidates("203.0.113.10:80/tcp", &[SELF]);
    proxy.candidates("203.0.113.10:53/udp", &[SELF]);
    proxy
}

fn reports(proxy: &mut Proxy) -> Vec<ForwardingEvent> {
    let mut events = proxy.events();
    events.retain(|event| {
        !matches!(event, ForwardingEvent::IngressUsed(_) | ForwardingEvent::TargetUsed(_))
    });
    events
}

#[test]
fn three_flows_in_a_row_without_an_answer_make_a_target_silent() {
    let mut proxy = jap();
    let nat: Vec<_> = (1..=3)
        .map(|port| proxy.delivered(&mut testing::syn(&format!("192.0.2.1:{port}"), WEB)))
        .collect();
    proxy.wait(Duration::from_millis(199));
    assert_eq!(reports(&mut proxy), []);
    proxy.wait(Duration::from_millis(1));
    let silent = ForwardingEvent::TargetSilent { target: TargetId(6), unanswered: 3 };
    assert_eq!(reports(&mut proxy), [silent]);

    proxy.tun(&mut testing::tcp_between(sock(TARGET), nat[0], tcp::SYN | tcp::ACK, b""));
    assert_eq!(reports(&mut proxy), [ForwardingEvent::TargetAnswers(TargetId(6))]);
    proxy.tun(&mut testing::tcp_between(sock(TARGET), nat[1], tcp::SYN | tcp::ACK, b""));
    assert_eq!(reports(&mut proxy), [], "said once");
}

#[test]
fn a_retransmission_tells_sooner_but_a_pair_of_questions_does_not() {
    let mut proxy = jap();
    for port in 1..=3 {
        let client = format!("192.0.2.1:{port}");
        proxy.delivered(&mut testing::udp(&client, DNS, b"A"));
        proxy.delivered(&mut testing::udp(&client, DNS, b"AAAA"));
    }
    assert_eq!(reports(&mut proxy), []);
    proxy.now = proxy.now + Duration::from_millis(50);
    for port in 1..=3 {
        proxy.delivered(&mut testing::udp(&format!("192.0.2.1:{port}"), DNS, b"A"));
    }
    let silent = ForwardingEvent::TargetSilent { target: TargetId(5), unanswered: 3 };
    assert_eq!(reports(&mut proxy), [silent]);
}

#[test]
fn an_answer_in_between_starts_the_count_anew() {
    let mut proxy = jap();
    for port in 1..=8 {
        let nat = proxy.delivered(&mut testing::syn(&format!("192.0.2.1:{port}"), WEB));
        if port % 3 == 0 {
            proxy.tun(&mut testing::tcp_between(sock(TARGET), nat, tcp::SYN | tcp::ACK, b""));
        }
        proxy.wait(Duration::from_millis(200));
    }
    assert_eq!(reports(&mut proxy), []);
}

#[test]
fn a_reset_to_a_syn_is_a_refusal_and_one_to_a_connection_is_not() {
    let mut proxy = jap();
    let nat = proxy.delivered(&mut testing::syn(CLIENT, WEB));
    let mut reset = testing::tcp_between(sock(TARGET), nat, tcp::RST | tcp::ACK, b"");
    assert_eq!(proxy.tun(&mut reset), Verdict::Tun, "the client learns of it");
    assert_eq!(reports(&mut proxy), [ForwardingEvent::TargetRefuses(TargetId(6))]);

    let nat = proxy.delivered(&mut testing::syn("192.0.2.1:2", WEB));
    proxy.tun(&mut testing::tcp_between(sock(TARGET), nat, tcp::SYN | tcp::ACK, b""));
    reports(&mut proxy);
    proxy.tun(&mut testing::tcp_between(sock(TARGET), nat, tcp::RST, b""));
    assert_eq!(reports(&mut proxy), []);
}

#[test]
fn use_of_a_target_is_reported_a_few_times_a_second() {
    let mut proxy = jap();
    for port in 1..=1000 {
        proxy.delivered(&mut testing::udp(&format!("192.0.2.1:{port}"), DNS, b"q"));
        proxy.now = proxy.now + Duration::from_millis(1);
    }
    let used = proxy
        .events()
        .iter()
        .filter(|event| **event == ForwardingEvent::TargetUsed(TargetId(5)))
        .count();
    assert!((4..=6).contains(&used), "{used}");
}

fn probe(proxy: &mut Proxy, target: u64) -> Packet {
    proxy.apply(ForwardingUpdate::Probe { target: TargetId(target) });
    let (verdict, packet) = proxy.packet();
    assert_eq!(verdict, Verdict::Tun);
    testing::assert_checksums(packet.bytes());
    packet
}

/// What the target sends back to a probe.
fn answer_to(probe: &Packet, flags: u8) -> Packet {
    let (ip, syn) = (View::parse(probe.bytes()).unwrap().ip, transport(probe));
    let sequence = crate::wire::double_word(&probe.bytes()[ip.payload..], tcp::SEQUENCE);
    let (from, to) = (syn.destination, syn.source);
    crate::tcp_reset::segment_between(from, to, 5, sequence.wrapping_add(1), flags)
}

fn done(target: u64, outcome: ProbeOutcome) -> [ForwardingEvent; 1] {
    [ForwardingEvent::ProbeDone { target: TargetId(target), outcome }]
}

#[test]
fn a_probe_that_is_answered_leaves_nothing_half_open() {
    let mut proxy = jap();
    let probe = probe(&mut proxy, 6);
    let syn = transport(&probe);
    assert_eq!((syn.destination, syn.flags), (sock(TARGET), tcp::SYN));
    let mut answer = answer_to(&probe, tcp::SYN | tcp::ACK);
    let acknowledged = crate::wire::double_word(&answer.bytes()[20..], tcp::ACKNOWLEDGEMENT);
    assert_eq!(proxy.tun(&mut answer), Verdict::Drop(DropReason::ProbeAnswer));
    assert_eq!(proxy.events(), done(6, ProbeOutcome::Answered));
    let (_, reset) = proxy.packet();
    assert_eq!(transport(&reset).flags, tcp::RST);
    let sequence = crate::wire::double_word(&reset.bytes()[20..], tcp::SEQUENCE);
    assert_eq!(sequence, acknowledged);
}

#[test]
fn a_probe_can_be_refused_by_reset_and_by_icmp() {
    let mut proxy = jap();
    let syn = probe(&mut proxy, 6);
    proxy.tun(&mut answer_to(&syn, tcp::RST | tcp::ACK));
    assert_eq!(proxy.events(), done(6, ProbeOutcome::Refused));

    let datagram = probe(&mut proxy, 5);
    let ip = View::parse(datagram.bytes()).unwrap().ip;
    let problem = crate::icmp_error::Problem::Port;
    let mut error =
        crate::icmp_error::about(datagram.bytes(), &ip, problem, addr("10.0.0.1")).unwrap();
    assert_eq!(proxy.tun(&mut error), Verdict::Drop(DropReason::ProbeAnswer));
    assert_eq!(proxy.events(), done(5, ProbeOutcome::Refused));
}

#[test]
fn nobody_takes_a_target_out_by_forging_the_answer_to_a_probe() {
    let mut proxy = jap();
    let probe = probe(&mut proxy, 6);
    let syn = transport(&probe);
    for flags in [tcp::RST, tcp::RST | tcp::ACK, tcp::SYN | tcp::ACK, tcp::ACK] {
        let mut forged = testing::tcp_between(syn.destination, syn.source, flags, b"");
        assert_eq!(proxy.tun(&mut forged), Verdict::Drop(DropReason::UnknownFlow));
    }
    let guessed = testing::syn(&syn.source.to_string(), TARGET);
    let ip = View::parse(guessed.bytes()).unwrap().ip;
    let problem = crate::icmp_error::Problem::Port;
    let mut error =
        crate::icmp_error::about(guessed.bytes(), &ip, problem, addr("10.0.0.1")).unwrap();
    assert_eq!(proxy.tun(&mut error), Verdict::Drop(DropReason::IcmpUnrelated));
    assert_eq!(proxy.events(), []);

    let ip = View::parse(probe.bytes()).unwrap().ip;
    let mut error =
        crate::icmp_error::about(probe.bytes(), &ip, problem, addr("10.0.0.1")).unwrap();
    assert_eq!(proxy.tun(&mut error), Verdict::Drop(DropReason::ProbeAnswer));
    assert_eq!(proxy.events(), done(6, ProbeOutcome::Refused));
}

#[test]
fn a_probe_without_an_answer_is_repeated_and_then_silent() {
    let mut proxy = jap();
    probe(&mut proxy, 6);
    proxy.apply(ForwardingUpdate::Probe { target: TargetId(6) });
    assert!(proxy.packets().is_empty(), "one at a time");
    for _ in 0..20 {
        proxy.wait(Duration::from_millis(50));
    }
    assert_eq!(proxy.packets().len(), 4);
    assert_eq!(proxy.events(), done(6, ProbeOutcome::Silent));
}
