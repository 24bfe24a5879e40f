//! Agents on plain UDP sockets, and a bridge in the place of the datapath.

use std::{net::SocketAddr, time::Duration};

use pias_protocol::{
    ALPN_JOIN, PROXY_TLS_NAME,
    agent::{AgentMessage, KeepAlive, KeepAliveAck, Welcome},
    envelope,
};
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::net::UdpSocket;

use super::*;
use crate::{
    framing::{Frame, Frames},
    metrics::AgentEnd,
    testing::Operator,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy whose anycast address is a UDP socket on loopback.
struct Proxy {
    net: JoinNet,
    inputs: mpsc::Receiver<Input>,
    counters: JoinCounters,
    /// Datagrams that reach the proxy come from here.
    arrive: mpsc::Sender<Datagram>,
}

/// Carries datagrams between agents and whichever proxy routing picks.
struct Anycast {
    address: SocketAddr,
    chosen: Arc<Mutex<Option<mpsc::Sender<Datagram>>>>,
    socket: Arc<UdpSocket>,
}

impl Anycast {
    async fn new() -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = socket.local_addr().unwrap();
        let chosen = Arc::new(Mutex::new(None::<mpsc::Sender<Datagram>>));
        let (carried, route) = (socket.clone(), chosen.clone());
        tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            while let Ok((octets, remote)) = carried.recv_from(&mut buffer).await {
                let payload = buffer[..octets].to_vec();
                let datagram =
                    Datagram { local: address, remote, ecn: 0, segment_size: None, payload };
                let to = route.lock().unwrap().clone();
                if let Some(to) = to {
                    let _ = to.try_send(datagram);
                }
            }
        });
        Self { address, chosen, socket }
    }

    fn route_to(&self, proxy: &Proxy) {
        *self.chosen.lock().unwrap() = Some(proxy.arrive.clone());
    }

    fn proxy(&self, operator: &Operator, name: &str) -> Proxy {
        let (arrive, arrived) = mpsc::channel(64);
        let (input, inputs) = mpsc::channel(64);
        let counters = JoinCounters::default();
        let socket = self.socket.clone();
        let send = move |datagram: Datagram| {
            socket.try_send_to(&datagram.payload, datagram.remote).is_ok()
        };
        let net = JoinNet::start(
            &operator.identity(name),
            &operator.reset_keys(),
            arrived,
            Box::new(send),
            input,
            counters.clone(),
        )
        .unwrap();
        Proxy { net, inputs, counters, arrive }
    }
}

impl Proxy {
    async fn hear(&mut self) -> Input {
        tokio::time::timeout(PATIENCE, self.inputs.recv())
            .await
            .expect("something is heard")
            .unwrap()
    }

    async fn agent(&mut self) -> AgentId {
        match self.hear().await {
            Input::AgentConnected { agent, .. } => agent,
            other => panic!("heard {other:?}"),
        }
    }
}

struct Agent {
    connection: Connection,
    send: SendStream,
    receive: Frames<JapMessage>,
}

impl Agent {
    async fn connect(operator: &Operator, to: SocketAddr) -> Result<Self, ConnectionError> {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(operator.path().join("ca.pem")).unwrap();
        roots.add(ca).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![ALPN_JOIN.to_vec()];
        let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(tls));
        let connection = endpoint.connect_with(config, to, PROXY_TLS_NAME).unwrap().await?;
        let (send, receive): (SendStream, RecvStream) = connection.open_bi().await?;
        Ok(Self { connection, send, receive: Frames::new(receive) })
    }

    async fn keep_alive(&mut self, sequence: u64) {
        let message = AgentMessage::from(KeepAlive { sequence });
        self.send.write_all(&envelope::encode(&message)).await.unwrap();
    }

    async fn hear(&mut self) -> JapMessage {
        match tokio::time::timeout(PATIENCE, self.receive.next()).await.unwrap().unwrap() {
            Some(Frame::Message(message)) => message,
            other => panic!("heard {other:?}"),
        }
    }

    async fn closed(&self) -> ConnectionError {
        tokio::time::timeout(PATIENCE, self.connection.closed()).await.expect("closed in time")
    }
}

async fn joined(operator: &Operator, anycast: &Anycast, proxy: &mut Proxy) -> (Agent, AgentId) {
    anycast.route_to(proxy);
    let mut agent = Agent::connect(operator, anycast.address).await.unwrap();
    agent.keep_alive(1).await;
    let id = proxy.agent().await;
    assert!(matches!(proxy.hear().await, Input::AgentMessage { agent, .. } if agent == id));
    (agent, id)
}

#[tokio::test]
async fn an_agent_and_the_overlay_hear_each_other() {
    let operator = Operator::new(&["fra1"]);
    let anycast = Anycast::new().await;
    let mut proxy = anycast.proxy(&operator, "fra1");
    let (mut agent, id) = joined(&operator, &anycast, &mut proxy).await;
    let welcome = Welcome { proxy: "fra1".into(), cluster: "fra".into() };
    proxy.net.say(id, welcome.clone().into());
    assert_eq!(agent.hear().await, welcome.into());
    agent.connection.close(VarInt::from_u32(0), b"bye");
    assert!(matches!(proxy.hear().await, Input::AgentClosed(closed) if closed == id));
    assert_eq!((proxy.counters.agents(), proxy.counters.ended(AgentEnd::Agent)), (0, 1));
}

#[tokio::test]
async fn an_agent_that_the_overlay_closes_reads_the_last_words_first() {
    let operator = Operator::new(&["fra1"]);
    let anycast = Anycast::new().await;
    let mut proxy = anycast.proxy(&operator, "fra1");
    let (mut agent, id) = joined(&operator, &anycast, &mut proxy).await;
    let ack = KeepAliveAck { sequence: 1, keep_alive_ms: 1000, lease_ms: 5000 };
    proxy.net.say(id, ack.clone().into());
    proxy.net.close_agent(id, "join elsewhere".into());
    assert_eq!(agent.hear().await, ack.into());
    let why = agent.closed().await;
    assert!(why.to_string().contains("join elsewhere"), "{why}");
}

#[tokio::test]
async fn the_next_proxy_resets_the_connections_of_a_dead_one() {
    let operator = Operator::new(&["fra1", "nyc1"]);
    let anycast = Anycast::new().await;
    let mut first = anycast.proxy(&operator, "fra1");
    let (mut agent, _) = joined(&operator, &anycast, &mut first).await;
    let second = anycast.proxy(&operator, "nyc1");
    anycast.route_to(&second);
    agent.keep_alive(2).await;
    assert_eq!(agent.closed().await, ConnectionError::Reset);
}

#[tokio::test]
async fn the_heir_of_a_dead_proxy_resets_its_agents_before_they_say_a_word() {
    let operator = Operator::new(&["fra1", "fra2"]);
    let anycast = Anycast::new().await;
    let mut first = anycast.proxy(&operator, "fra1");
    anycast.route_to(&first);
    let mut agent = Agent::connect(&operator, anycast.address).await.unwrap();
    agent.keep_alive(1).await;
    let link = match first.hear().await {
        Input::AgentConnected { link, .. } => link,
        other => panic!("heard {other:?}"),
    };
    let heir = anycast.proxy(&operator, "fra2");
    anycast.route_to(&heir);
    heir.net.reset(&link);
    assert_eq!(agent.closed().await, ConnectionError::Reset);
}

#[tokio::test]
async fn an_agent_that_talks_nonsense_is_closed_and_counted() {
    let operator = Operator::new(&["fra1"]);
    let anycast = Anycast::new().await;
    let mut proxy = anycast.proxy(&operator, "fra1");
    let (mut agent, id) = joined(&operator, &anycast, &mut proxy).await;
    agent.send.write_all(&[0xff; 64]).await.unwrap();
    assert!(agent.closed().await.to_string().contains("version 255"));
    assert!(matches!(proxy.hear().await, Input::AgentClosed(closed) if closed == id));
    assert_eq!(proxy.counters.ended(AgentEnd::Malformed), 1);
}

#[tokio::test]
async fn an_agent_that_does_not_read_is_disconnected() {
    let operator = Operator::new(&["fra1"]);
    let anycast = Anycast::new().await;
    let mut proxy = anycast.proxy(&operator, "fra1");
    let (agent, id) = joined(&operator, &anycast, &mut proxy).await;
    for sequence in 0..=limits::AGENT_QUEUE as u64 {
        let ack = KeepAliveAck { sequence, keep_alive_ms: 1000, lease_ms: 5000 };
        proxy.net.say(id, ack.into());
    }
    assert!(agent.closed().await.to_string().contains("not read"));
    assert_eq!(proxy.counters.ended(AgentEnd::Slow), 1);
}

#[tokio::test]
async fn one_address_may_hold_so_many_connections_and_no_more() {
    let operator = Operator::new(&["fra1"]);
    let anycast = Anycast::new().await;
    let mut proxy = anycast.proxy(&operator, "fra1");
    let (_agent, _) = joined(&operator, &anycast, &mut proxy).await;
    let source = "127.0.0.1".parse().unwrap();
    let places: Vec<_> =
        (1..limits::AGENTS_PER_SOURCE).map(|_| proxy.net.0.enter(source).unwrap()).collect();
    assert!(Agent::connect(&operator, anycast.address).await.is_err());
    drop(places);
    assert!(Agent::connect(&operator, anycast.address).await.is_ok());
}
