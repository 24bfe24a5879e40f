//! Health checks against real services, through to what the proxy hears.

mod common;

use std::{net::SocketAddr, time::Duration};

use common::{Operator, Talk, event, joined_through};
use pias_agent::{Agent, Check, CheckTiming, EventKind, Group, Observer, Target};
use pias_protocol::agent::{AgentMessage, Health, Join, KeepAliveAck};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};

const FAST: CheckTiming = CheckTiming {
    interval: Duration::from_millis(20),
    timeout: Duration::from_millis(500),
    rise: 2,
    fall: 3,
};

/// An agent whose target is checked, joined, and the proxy's end of it.
async fn joined(check: &str, target: SocketAddr) -> (Agent, Talk, Join) {
    let operator = Operator::new();
    let proxy = operator.proxy("fra1").await;
    let group: Group = "127.0.0.1:53/udp".parse().unwrap();
    let group = group.to(Target::from(target)).check(check.parse::<Check>().unwrap()).timing(FAST);
    let mut agent = Agent::builder()
        .certificate_authority(operator.ca_pem.clone())
        .port(proxy.address.port())
        .group(group)
        .start()
        .unwrap();
    let (talk, join) = proxy.accept_and_join(200).await;
    joined_through(&mut agent).await;
    (agent, talk, join)
}

/// The next word on health, while keep-alives are answered.
async fn health(talk: &mut Talk) -> bool {
    loop {
        match talk.hear().await {
            Some(AgentMessage::Health(Health { up, .. })) => return up,
            Some(AgentMessage::KeepAlive(keep)) => {
                let (keep_alive_ms, lease_ms) = (200, 5_000);
                talk.say(KeepAliveAck { sequence: keep.sequence, keep_alive_ms, lease_ms }).await;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Whatever the join said, the proxy comes to know that the service is up.
async fn becomes_up(talk: &mut Talk, join: &Join) {
    if !join.healthy {
        assert!(health(talk).await);
    }
}

#[tokio::test]
async fn a_tcp_service_that_stops_is_taken_out_and_brought_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let (mut agent, mut talk, join) = joined("tcp", target).await;
    becomes_up(&mut talk, &join).await;

    drop(listener);
    assert!(!health(&mut talk).await);
    let down = event(&mut agent, |kind| matches!(kind, EventKind::TargetDown { .. })).await;
    let EventKind::TargetDown { by, reason } = down.kind else { panic!() };
    assert_eq!(by, Observer::Agent);
    assert!(reason.contains("refused"), "{reason}");

    let _listener = TcpListener::bind(target).await.unwrap();
    assert!(health(&mut talk).await);
    event(&mut agent, |kind| *kind == EventKind::TargetUp { by: Observer::Agent }).await;
}

#[tokio::test]
async fn a_udp_port_that_nobody_holds_is_down() {
    let service = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = service.local_addr().unwrap();
    drop(service);
    let (_agent, mut talk, join) = joined("udp:00", target).await;
    assert!(!join.healthy, "nothing is known yet, or that it is down");
    let service = UdpSocket::bind(target).await.unwrap();
    let answering = tokio::spawn(async move {
        let mut payload = [0; 16];
        loop {
            let (length, client) = service.recv_from(&mut payload).await.unwrap();
            service.send_to(&payload[..length], client).await.unwrap();
        }
    });
    assert!(health(&mut talk).await);
    answering.abort();
    assert!(answering.await.unwrap_err().is_cancelled());
    assert!(!health(&mut talk).await);
}

#[tokio::test]
async fn an_http_service_is_judged_by_its_status() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let (status, mut wanted) = tokio::sync::watch::channel("204 No Content");
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            assert!(request.starts_with("GET /up?deep HTTP/1.1\r\n"), "{request}");
            let status = *wanted.borrow_and_update();
            // In two pieces: a status line may come in any.
            stream.write_all(b"HTTP/1.").await.unwrap();
            stream.flush().await.unwrap();
            let rest = format!("1 {status}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(rest.as_bytes()).await.unwrap();
        }
    });
    let (mut agent, mut talk, join) = joined(&format!("http://{target}/up?deep"), target).await;
    becomes_up(&mut talk, &join).await;
    status.send_replace("503 Service Unavailable");
    assert!(!health(&mut talk).await);
    let down = event(&mut agent, |kind| matches!(kind, EventKind::TargetDown { .. })).await;
    assert!(format!("{down:?}").contains("HTTP status 503"));
    status.send_replace("302 Found");
    assert!(health(&mut talk).await);
}

#[tokio::test]
async fn a_command_decides_by_its_exit_status_and_knows_whom_it_checks() {
    let directory = tempfile::tempdir().unwrap();
    let flag = directory.path().join("flag");
    std::fs::write(&flag, "").unwrap();
    let command = format!(
        "exec:test -e {} && test $PIAS_GROUP-$PIAS_TARGET = 127.0.0.1:53-127.0.0.1:5353",
        flag.display()
    );
    let (_agent, mut talk, join) = joined(&command, "127.0.0.1:5353".parse().unwrap()).await;
    becomes_up(&mut talk, &join).await;
    std::fs::remove_file(&flag).unwrap();
    assert!(!health(&mut talk).await);
    std::fs::write(&flag, "").unwrap();
    assert!(health(&mut talk).await);
}

#[tokio::test]
async fn a_command_that_hangs_is_killed_with_its_children() {
    let directory = tempfile::tempdir().unwrap();
    let pids = directory.path().join("pids");
    let command = format!("exec:sleep 1000 & echo $! >>{}; wait", pids.display());
    let (mut agent, _talk, _) = joined(&command, "127.0.0.1:5353".parse().unwrap()).await;
    event(&mut agent, |kind| matches!(kind, EventKind::TargetDown { .. })).await;
    let written = std::fs::read_to_string(&pids).unwrap();
    let child: i32 = written.lines().next().unwrap().parse().unwrap();
    let gone = async {
        // A zombie waits for init to reap it: dead all the same.
        while std::fs::read_to_string(format!("/proc/{child}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(common::PATIENCE, gone).await.expect("the child lives on");
}
