//! What happens when the proxy goes: by reset, in silence, or with notice.

mod common;

use std::{net::UdpSocket, time::Instant};

use common::{Operator, event, joined_through};
use pias_agent::EventKind;
use pias_protocol::agent::{AgentMessage, Draining, RefusalCode, Refused};

/// A socket that stays on its port while one proxy after the other answers on it.
fn port() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

#[tokio::test]
async fn a_stateless_reset_from_another_proxy_is_followed_by_a_join_within_a_second() {
    let operator = Operator::new();
    let socket = port();
    let (address, second_socket) = (socket.local_addr().unwrap(), socket.try_clone().unwrap());
    let first = operator.proxy_on("fra1", socket);
    let mut agent = operator.agent(address.port(), &["127.0.0.1:53/udp"]);
    let (talk, _) = first.accept_and_join(200).await;
    assert_eq!(joined_through(&mut agent).await, "fra1");

    // The first proxy dies without a word: its endpoint goes on existing, but hears nothing more.
    first.endpoint.rebind(port()).unwrap();
    let second = operator.proxy_on("fra2", second_socket);
    let serving = tokio::spawn(async move {
        let joined = second.accept_and_join(200).await;
        (second, joined)
    });
    let lost = event(&mut agent, |kind| matches!(kind, EventKind::Lost { .. })).await;
    let since = Instant::now();
    let EventKind::Lost { reason } = lost.kind else { panic!() };
    assert!(reason.contains("reset"), "{reason}");
    assert_eq!(joined_through(&mut agent).await, "fra2");
    let took = since.elapsed();
    println!("from reset to re-joined: {took:?}");
    assert!(took.as_millis() < 1_000, "{took:?}");
    drop((talk, serving.await.unwrap()));
}

#[tokio::test]
async fn a_proxy_that_answers_no_keep_alive_is_left() {
    let operator = Operator::new();
    let proxy = operator.proxy("fra1").await;
    let mut agent = operator.agent(proxy.address.port(), &["127.0.0.1:53/udp"]);
    let (mut silent, _) = proxy.accept_and_join(100).await;
    assert_eq!(joined_through(&mut agent).await, "fra1");
    assert!(matches!(silent.hear().await, Some(AgentMessage::KeepAlive(_))));
    let lost = event(&mut agent, |kind| matches!(kind, EventKind::Lost { .. })).await;
    let EventKind::Lost { reason } = lost.kind else { panic!() };
    assert!(reason.contains("keep-alive"), "{reason}");
    let (_talk, _) = proxy.accept_and_join(1_000).await;
    assert_eq!(joined_through(&mut agent).await, "fra1");
}

#[tokio::test]
async fn a_proxy_that_is_not_there_yet_is_found_when_it_comes() {
    let operator = Operator::new();
    // A socket that nobody reads: the first attempts get no answer.
    let socket = port();
    let port = socket.local_addr().unwrap().port();
    let mut agent = operator.agent(port, &["127.0.0.1:53/udp"]);
    event(&mut agent, |kind| matches!(kind, EventKind::Rejoining { .. })).await;
    let proxy = operator.proxy_on("fra1", socket).serve();
    assert_eq!(joined_through(&mut agent).await, "fra1");
    drop(proxy);
}

#[tokio::test]
async fn an_agent_is_joined_elsewhere_before_it_leaves_a_draining_proxy() {
    let operator = Operator::new();
    let first = operator.proxy("fra1").await;
    let mut agent = operator.agent(first.address.port(), &["127.0.0.1:53/udp"]);
    let (mut old, _) = first.accept_and_join(60_000).await;
    assert_eq!(joined_through(&mut agent).await, "fra1");
    old.say(Draining { closes_in_ms: 5_000 }).await;
    event(&mut agent, |kind| matches!(kind, EventKind::Draining { .. })).await;

    // Routing still leads to the draining proxy: by name, by refusal, by another notice.
    let mut again = first.accept().await;
    assert_eq!(again.hear_join().await.group.port, 53);
    assert!(again.hear().await.is_none(), "left when its name was heard");
    let renamed = common::Proxy { name: "fra1b".into(), ..first };
    let mut refusing = renamed.accept().await;
    let request = refusing.hear_join().await.request;
    refusing.say(Refused { request, code: RefusalCode::Full, reason: "draining".into() }).await;
    assert!(refusing.hear().await.is_none());
    let mut noticing = renamed.accept().await;
    noticing.hear_join().await;
    noticing.say(Draining { closes_in_ms: 4_000 }).await;
    assert!(noticing.hear().await.is_none());

    // Now it leads to another; only when that has answered does the old one hear of it.
    let other = common::Proxy { name: "fra2".into(), ..renamed };
    let mut new = other.accept().await;
    let join = new.hear_join().await;
    new.joined(&join, 1_000).await;
    assert_eq!(joined_through(&mut agent).await, "fra2");
    assert!(matches!(old.hear().await, Some(AgentMessage::Leave(_))));
    assert!(old.hear().await.is_none());
}

#[tokio::test]
async fn a_proxy_that_drains_and_closes_with_nobody_else_around_is_lost() {
    let operator = Operator::new();
    let proxy = operator.proxy("fra1").await;
    let mut agent = operator.agent(proxy.address.port(), &["127.0.0.1:53/udp"]);
    let (mut old, _) = proxy.accept_and_join(60_000).await;
    old.say(Draining { closes_in_ms: 10 }).await;
    let mut again = proxy.accept().await;
    assert!(again.hear().await.is_some());
    assert!(again.hear().await.is_none());
    old.connection.close(0_u32.into(), b"drained");
    event(&mut agent, |kind| matches!(kind, EventKind::Lost { .. })).await;
    // The same name is now a new instance, and as good as any.
    loop {
        let mut talk = proxy.accept().await;
        let join = talk.hear_join().await;
        talk.joined(&join, 1_000).await;
        // An attempt that was under way before the close still ends by the name.
        if let Some(AgentMessage::KeepAlive(_)) = talk.hear().await {
            break;
        }
    }
    assert_eq!(joined_through(&mut agent).await, "fra1");
}
