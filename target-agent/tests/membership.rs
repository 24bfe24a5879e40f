//! The agent against a proxy: joining, staying, leaving, and being refused.

mod common;

use std::time::Duration;

use common::{Operator, event, joined_through};
use pias_agent::{End, EventKind, Observer, RefusalCode};
use pias_protocol::agent::{
    AgentMessage, Health, KeepAlive, KeepAliveAck, Leave, Ping, Pong, Refused, TargetChange,
};
use pias_protocol::ids::TargetId;

#[tokio::test]
async fn an_agent_joins_stays_answers_and_leaves() {
    let operator = Operator::new();
    let proxy = operator.proxy("fra1").await;
    let mut agent = operator.agent(proxy.address.port(), &["127.0.0.1:53/udp"]);

    let (mut talk, join) = proxy.accept_and_join(100).await;
    assert_eq!(join.group.to_string(), "127.0.0.1:53/udp");
    assert_eq!(join.target.to_string(), "127.0.0.1:53", "the address that the route uses");
    assert!(join.healthy);
    let joined = event(&mut agent, |kind| matches!(kind, EventKind::Joined { .. })).await;
    let EventKind::Joined { proxy: name, cluster, rtt, lease } = joined.kind else { panic!() };
    assert_eq!((name.as_str(), cluster.as_str()), ("fra1", "fra"));
    assert_eq!(lease, Duration::from_secs(5));
    assert!(rtt < Duration::from_secs(1));

    for sequence in 1..=3 {
        assert_eq!(talk.hear().await, Some(KeepAlive { sequence }.into()));
        talk.say(KeepAliveAck { sequence, keep_alive_ms: 100, lease_ms: 5_000 }).await;
    }
    // From now on only what is asked for: the next keep-alive is a minute away.
    assert_eq!(talk.hear().await, Some(KeepAlive { sequence: 4 }.into()));
    talk.say(KeepAliveAck { sequence: 4, keep_alive_ms: 60_000, lease_ms: 5_000 }).await;
    talk.say(Ping { sequence: 42 }).await;
    assert_eq!(talk.hear().await, Some(Pong { sequence: 42 }.into()));

    let lease = TargetId(1);
    agent.memberships()[0].set_healthy(false);
    assert_eq!(talk.hear().await, Some(Health { lease, up: false }.into()));
    agent.memberships()[0].set_healthy(true);
    assert_eq!(talk.hear().await, Some(Health { lease, up: true }.into()));

    let (left, ()) = tokio::join!(agent.leave(), async {
        assert_eq!(talk.hear().await, Some(Leave { lease }.into()));
        assert_eq!(talk.hear().await, None, "the stream ends behind the leave");
    });
    assert_eq!(left, End::Left);
    event(&mut agent, |kind| *kind == EventKind::Left).await;
    assert_eq!(agent.next().await, None);
}

#[tokio::test]
async fn what_the_proxy_sees_of_the_target_is_told() {
    let operator = Operator::new();
    let proxy = operator.proxy("fra1").await;
    let mut agent = operator.agent(proxy.address.port(), &["127.0.0.1:53/udp"]);
    let (mut talk, _) = proxy.accept_and_join(1_000).await;
    let (lease, reason) = (TargetId(1), "port unreachable".to_owned());
    talk.say(TargetChange { lease, up: false, reason: reason.clone() }).await;
    let down = EventKind::TargetDown { by: Observer::Proxy, reason };
    event(&mut agent, |kind| *kind == down).await;
    talk.say(TargetChange { lease, up: true, reason: String::new() }).await;
    event(&mut agent, |kind| *kind == EventKind::TargetUp { by: Observer::Proxy }).await;
}

fn refusal(request: u32, code: RefusalCode) -> Refused {
    Refused { request, code, reason: "no".into() }
}

#[tokio::test]
async fn one_refused_group_leaves_the_others() {
    let operator = Operator::new();
    let proxy = operator.proxy("fra1").await;
    let mut agent = operator.agent(proxy.address.port(), &["127.0.0.1:53/udp", "127.0.0.1:80/tcp"]);
    let mut talk = proxy.accept().await;
    let first = talk.hear_join().await;
    talk.say(refusal(first.request, RefusalCode::NotAnycast)).await;
    talk.grant(1_000).await;
    let refused = event(&mut agent, |kind| matches!(kind, EventKind::Refused { .. })).await;
    assert_eq!(refused.group, first.group);
    assert!(matches!(refused.kind, EventKind::Refused { retry_in: None, .. }));
    assert_eq!(joined_through(&mut agent).await, "fra1");
}

#[tokio::test]
async fn an_agent_ends_when_every_group_is_refused() {
    let operator = Operator::new();
    let proxy = operator.proxy("fra1").await;
    let mut agent = operator.agent(proxy.address.port(), &["127.0.0.1:53"]);
    let mut talk = proxy.accept().await;
    for _ in 0..2 {
        let join = talk.hear_join().await;
        talk.say(refusal(join.request, RefusalCode::NotAnycast)).await;
    }
    event(&mut agent, |kind| matches!(kind, EventKind::Refused { .. })).await;
    assert_eq!(agent.ended().await, End::Refused);
}

#[tokio::test]
async fn a_full_proxy_is_asked_again() {
    let operator = Operator::new();
    let proxy = operator.proxy("fra1").await;
    let mut agent = operator.agent(proxy.address.port(), &["127.0.0.1:53/udp"]);
    let mut talk = proxy.accept().await;
    let join = talk.hear_join().await;
    talk.say(refusal(join.request, RefusalCode::Full)).await;
    event(&mut agent, |kind| matches!(kind, EventKind::Refused { retry_in: Some(_), .. })).await;
    talk.grant(1_000).await;
    assert_eq!(joined_through(&mut agent).await, "fra1");
}

#[tokio::test]
async fn groups_at_one_address_share_a_connection_and_others_do_not() {
    let operator = Operator::new();
    let proxy = operator.proxy("fra1").await;
    let agent = operator
        .agent(proxy.address.port(), &["127.0.0.1:53/udp", "127.0.0.1:80/tcp", "127.0.0.2:80/tcp"]);
    let mut talk = proxy.accept().await;
    let groups =
        [talk.grant(1_000).await.group.to_string(), talk.grant(1_000).await.group.to_string()];
    assert_eq!(groups, ["127.0.0.1:53/udp", "127.0.0.1:80/tcp"]);
    assert_eq!(agent.memberships().len(), 3);
    let keep_alive = talk.hear().await;
    assert!(matches!(keep_alive, Some(AgentMessage::KeepAlive(_))), "no third join");
}

#[tokio::test]
async fn a_proxy_of_another_operator_is_not_spoken_to() {
    let (operator, other) = (Operator::new(), Operator::new());
    let proxy = other.proxy("evil").await;
    let port = proxy.address.port();
    tokio::spawn(async move {
        while let Some(incoming) = proxy.endpoint.accept().await {
            assert!(incoming.await.is_err(), "the agent must not complete the handshake");
        }
    });
    let mut agent = pias_agent::Agent::builder()
        .certificate_authority(operator.ca_pem.clone())
        .group("127.0.0.1:53/udp")
        .port(port)
        .fail_fast(true)
        .start()
        .unwrap();
    let lost = event(&mut agent, |kind| matches!(kind, EventKind::Lost { .. })).await;
    let EventKind::Lost { reason } = lost.kind else { panic!() };
    assert!(reason.contains("certificate"), "{reason}");
    assert_eq!(agent.ended().await, End::Unreachable);
}
