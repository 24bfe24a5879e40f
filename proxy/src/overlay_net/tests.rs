//! Proxies on loopback addresses.

use std::time::Duration;

use pias_protocol::overlay::{CountAck, Heartbeat, NoTarget};

use super::*;
use crate::testing::{Operator, eventually};

/// Longer than anything here takes; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Proxy {
    net: OverlayNet,
    inputs: mpsc::Receiver<Input>,
    counters: OverlayCounters,
    address: SocketAddr,
    id: ProxyId,
    name: String,
}

impl Proxy {
    fn start(operator: &Operator, name: &str) -> Self {
        Self::at(operator, name, 0)
    }

    fn at(operator: &Operator, name: &str, port: u16) -> Self {
        let (input, inputs) = mpsc::channel(64);
        let counters = OverlayCounters::default();
        let config = OverlayNetConfig {
            name,
            unicast: &["127.0.0.1".parse().unwrap()],
            port,
            identity: &operator.identity(name),
            reset_keys: &operator.reset_keys(),
        };
        let net = OverlayNet::start(&config, input, counters.clone()).unwrap();
        let address = net.0.endpoints[0].local_addr().unwrap();
        Self { net, inputs, counters, address, id: ProxyId::of(name), name: name.to_owned() }
    }

    fn say(&self, to: &Self, delivery: Delivery, message: impl Into<OverlayMessage>) {
        self.net.send_to(to.id, &to.name, to.address, delivery, &message.into());
    }

    async fn hear(&mut self) -> Input {
        tokio::time::timeout(PATIENCE, self.inputs.recv())
            .await
            .expect("something is heard")
            .unwrap()
    }

    async fn hear_from(&mut self, other: ProxyId) -> OverlayMessage {
        match self.hear().await {
            Input::Message { from, message } if from == other => message,
            other => panic!("heard {other:?}"),
        }
    }
}

fn count(percent: u8) -> CountAck {
    CountAck { group: "203.0.113.10:53/udp".parse().unwrap(), count: 1, band_percent: percent }
}

#[tokio::test]
async fn messages_between_proxies_arrive_in_order_both_ways() {
    let operator = Operator::new(&["fra1", "nyc1"]);
    let (mut fra, mut nyc) = (Proxy::start(&operator, "fra1"), Proxy::start(&operator, "nyc1"));
    for percent in [25, 50, 100] {
        fra.say(&nyc, Delivery::Stream, count(percent));
    }
    for percent in [25, 50, 100] {
        assert_eq!(nyc.hear_from(fra.id).await, count(percent).into());
    }
    nyc.say(&fra, Delivery::Datagram, Heartbeat { sequence: 7, asks: true });
    assert_eq!(fra.hear_from(nyc.id).await, Heartbeat { sequence: 7, asks: true }.into());
    assert_eq!(nyc.net.open_connections(), 1, "the answer uses the connection that is there");
}

#[tokio::test]
async fn two_that_dial_each_other_at_once_hear_each_other() {
    let operator = Operator::new(&["fra1", "nyc1"]);
    let (mut fra, mut nyc) = (Proxy::start(&operator, "fra1"), Proxy::start(&operator, "nyc1"));
    for percent in 1..=20 {
        fra.say(&nyc, Delivery::Stream, count(percent));
        nyc.say(&fra, Delivery::Stream, count(percent));
    }
    for percent in 1..=20 {
        assert_eq!(fra.hear_from(nyc.id).await, count(percent).into());
        assert_eq!(nyc.hear_from(fra.id).await, count(percent).into());
    }
}

#[tokio::test]
async fn a_proxy_of_another_operator_is_refused() {
    let (ours, theirs) = (Operator::new(&["fra1"]), Operator::new(&["nyc1"]));
    let (mut fra, nyc) = (Proxy::start(&ours, "fra1"), Proxy::start(&theirs, "nyc1"));
    fra.say(&nyc, Delivery::Stream, count(25));
    assert!(matches!(fra.hear().await, Input::PeerUnreachable(peer) if peer == nyc.id));
    assert_eq!(fra.counters.drops(Queue::Unreachable), 1);
}

#[tokio::test]
async fn a_proxy_that_is_not_who_was_dialled_is_refused() {
    let operator = Operator::new(&["fra1", "nyc1"]);
    let (mut fra, nyc) = (Proxy::start(&operator, "fra1"), Proxy::start(&operator, "nyc1"));
    let sin = ProxyId::of("sin1");
    fra.net.send_to(sin, "sin1", nyc.address, Delivery::Stream, &count(25).into());
    assert!(matches!(fra.hear().await, Input::PeerUnreachable(peer) if peer == sin));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    use rustls_pki_types::pem::PemObject;
    let operator = Operator::new(&["fra1"]);
    let fra = Proxy::start(&operator, "fra1");
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(operator.path().join("ca.pem")).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![pias_protocol::ALPN_OVERLAY.to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let client = ClientConfig::new(Arc::new(tls));
    let connecting = endpoint.connect_with(client, fra.address, "fra1").unwrap();
    // The client's side of TLS 1.3 may finish before the server has refused.
    if let Ok(connection) = connecting.await {
        connection.closed().await;
    }
    assert_eq!(fra.net.0.peers().len(), 0);
}

#[tokio::test]
async fn a_peer_that_restarted_is_reached_again_at_once() {
    let operator = Operator::new(&["fra1", "nyc1"]);
    let mut fra = Proxy::start(&operator, "fra1");
    // A runtime of its own dies as a process does: without a goodbye.
    let process = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut nyc = {
        let _inside = process.enter();
        Proxy::start(&operator, "nyc1")
    };
    fra.say(&nyc, Delivery::Stream, count(25));
    nyc.hear_from(fra.id).await;
    let port = nyc.address.port();
    drop(nyc);
    process.shutdown_background();
    eventually(|| UdpSocket::bind(("127.0.0.1", port)).is_ok()).await;
    let mut nyc = Proxy::at(&operator, "nyc1", port);
    let heard = tokio::time::timeout(PATIENCE, async {
        loop {
            fra.say(&nyc, Delivery::Datagram, Heartbeat { sequence: 1, asks: true });
            let next = tokio::time::timeout(Duration::from_millis(20), nyc.inputs.recv());
            if let Ok(Some(input)) = next.await {
                break input;
            }
        }
    });
    let input = heard.await.expect("the new process is reached");
    assert!(matches!(input, Input::Message { from, .. } if from == fra.id));
    let told = fra.hear().await;
    assert!(matches!(told, Input::Undelivered(peer) if peer == nyc.id), "{told:?}");
}

#[tokio::test]
async fn what_could_not_be_said_is_told_once_the_peer_is_there() {
    let operator = Operator::new(&["fra1", "nyc1"]);
    let (mut fra, absent) = (Proxy::start(&operator, "fra1"), Proxy::start(&operator, "nyc1"));
    let port = absent.address.port();
    absent.net.close().await;
    drop(absent);
    eventually(|| UdpSocket::bind(("127.0.0.1", port)).is_ok()).await;
    let nyc = ProxyId::of("nyc1");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    fra.net.send_to(nyc, "nyc1", address, Delivery::Stream, &count(25).into());
    assert!(matches!(fra.hear().await, Input::PeerUnreachable(peer) if peer == nyc));
    let there = Proxy::at(&operator, "nyc1", port);
    there.say(&fra, Delivery::Stream, count(50));
    let told = fra.hear().await;
    assert!(matches!(told, Input::Undelivered(peer) if peer == nyc), "{told:?}");
    assert_eq!(fra.hear_from(nyc).await, count(50).into());
}

#[tokio::test]
async fn what_was_said_before_the_close_arrives() {
    let operator = Operator::new(&["fra1", "nyc1"]);
    let (fra, mut nyc) = (Proxy::start(&operator, "fra1"), Proxy::start(&operator, "nyc1"));
    let group = "203.0.113.10:53/udp".parse().unwrap();
    fra.say(&nyc, Delivery::Stream, NoTarget { group });
    fra.net.close().await;
    assert_eq!(nyc.hear_from(fra.id).await, NoTarget { group }.into());
}

#[tokio::test]
async fn bytes_that_are_no_message_end_the_connection_and_are_counted() {
    let operator = Operator::new(&["fra1", "nyc1"]);
    let (fra, nyc) = (Proxy::start(&operator, "fra1"), Proxy::start(&operator, "nyc1"));
    let connection = nyc.net.0.endpoints[0].connect(fra.address, "fra1").unwrap().await.unwrap();
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(&[0xff; 64]).await.unwrap();
    let why = tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap();
    assert!(why.to_string().contains("malformed"), "{why}");
}
