//! A small JAP on loopback, driven by the test, and an operator's CA.
#![allow(dead_code, reason = "each test program uses its part")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::hmac;
use pias_agent::{Agent, Event, EventKind};
use pias_protocol::{
    ALPN_JOIN, PROXY_TLS_NAME,
    agent::{AgentMessage, JapMessage, Join, Joined, KeepAliveAck, Welcome},
    envelope::{self, Decoded},
    ids::TargetId,
};
use quinn::{
    Connection, Endpoint, EndpointConfig, IdleTimeout, Incoming, RecvStream, SendStream,
    ServerConfig, TransportConfig, VarInt, crypto::rustls::QuicServerConfig, default_runtime,
};
use quinn_proto::HashedConnectionIdGenerator;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{net::UdpSocket, time::timeout};

/// Longer than anything that works, so that a failing test ends.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The operator: a CA, and a proxy certificate that it issued.
pub(crate) struct Operator {
    pub(crate) ca_pem: String,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Operator {
    pub(crate) fn new() -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let proxy = CertificateParams::new(vec!["fra1".into(), PROXY_TLS_NAME.into()]).unwrap();
        let certificate = proxy.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        Self {
            ca_pem: ca_certificate.pem(),
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }

    fn server_config(&self) -> ServerConfig {
        let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            .unwrap();
        tls.alpn_protocols = vec![ALPN_JOIN.to_vec()];
        let crypto = QuicServerConfig::try_from(tls).unwrap();
        let mut transport = TransportConfig::default();
        transport.max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(60_000))));
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(Arc::new(transport));
        config
    }

    /// A proxy on a port of its own; all proxies share the keys of stateless reset.
    pub(crate) async fn proxy(&self, name: &str) -> Proxy {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        self.proxy_on(name, socket.into_std().unwrap())
    }

    /// A proxy on an open socket: several take turns on one, as routing would have them.
    pub(crate) fn proxy_on(&self, name: &str, socket: std::net::UdpSocket) -> Proxy {
        let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &[7; 32])));
        config.cid_generator(|| Box::new(HashedConnectionIdGenerator::from_key(7)));
        let server = Some(self.server_config());
        let address = socket.local_addr().unwrap();
        let endpoint = Endpoint::new(config, server, socket, default_runtime().unwrap()).unwrap();
        Proxy { name: name.to_owned(), endpoint, address }
    }

    /// An agent for groups at loopback, that registers at `port`.
    pub(crate) fn agent(&self, port: u16, groups: &[&str]) -> Agent {
        let mut builder = Agent::builder().certificate_authority(self.ca_pem.clone()).port(port);
        for group in groups {
            builder = builder.group(*group);
        }
        builder.start().unwrap()
    }
}

pub(crate) struct Proxy {
    pub(crate) name: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) address: SocketAddr,
}

impl Proxy {
    /// The next agent that connects and says something.
    pub(crate) async fn accept(&self) -> Talk {
        let accept = async {
            let incoming = self.endpoint.accept().await.unwrap();
            Talk::begin(incoming, self.name.clone()).await.expect("the agent went away")
        };
        timeout(PATIENCE, accept).await.expect("no agent came")
    }

    /// Accepts an agent and grants its first wish.
    pub(crate) async fn accept_and_join(&self, keep_alive_ms: u32) -> (Talk, Join) {
        let mut talk = self.accept().await;
        let join = talk.grant(keep_alive_ms).await;
        (talk, join)
    }

    /// Serves agents until it is dropped: grants every wish, and answers keep-alives.
    pub(crate) fn serve(self) -> Serving {
        let heard = Heard::default();
        let (address, to) = (self.address, heard.clone());
        let task = tokio::spawn(async move {
            while let Some(incoming) = self.endpoint.accept().await {
                let (heard, name) = (to.clone(), self.name.clone());
                // Each by itself: one may be the late packet of an attempt long given up.
                tokio::spawn(async move {
                    let Some(mut talk) = Talk::begin(incoming, name).await else { return };
                    while let Some(()) = talk.serve_one(&heard).await {}
                });
            }
        });
        Serving { address, heard, task }
    }
}

pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    pub(crate) heard: Heard,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What agents said to a serving proxy.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<AgentMessage>>>);

impl Heard {
    pub(crate) fn any(&self, mut matches: impl FnMut(&AgentMessage) -> bool) -> bool {
        self.0.lock().unwrap().iter().any(&mut matches)
    }
}

/// The proxy's end of one connection.
pub(crate) struct Talk {
    pub(crate) connection: Connection,
    send: SendStream,
    recv: RecvStream,
    buffer: Vec<u8>,
    leases: u64,
}

impl Talk {
    async fn begin(incoming: Incoming, proxy: String) -> Option<Self> {
        let connection = incoming.await.ok()?;
        let (send, recv) = connection.accept_bi().await.ok()?;
        let mut talk = Self { connection, send, recv, buffer: Vec::new(), leases: 0 };
        talk.say(Welcome { proxy, cluster: "fra".to_owned() }).await;
        Some(talk)
    }

    pub(crate) async fn say(&mut self, message: impl Into<JapMessage>) {
        self.send.write_all(&envelope::encode(&message.into())).await.unwrap();
    }

    /// The next message, or `None` at the end of the stream.
    pub(crate) async fn hear(&mut self) -> Option<AgentMessage> {
        timeout(PATIENCE, self.next()).await.expect("the agent is silent")
    }

    async fn next(&mut self) -> Option<AgentMessage> {
        loop {
            match envelope::decode(&self.buffer).unwrap() {
                Decoded::Message(message, taken) => {
                    self.buffer.drain(..taken);
                    return Some(message);
                }
                Decoded::Unknown(_, taken) => drop(self.buffer.drain(..taken)),
                Decoded::Incomplete(_) => {
                    let chunk = self.recv.read_chunk(4096, true).await.ok()??;
                    self.buffer.extend_from_slice(&chunk.bytes);
                }
            }
        }
    }

    pub(crate) async fn hear_join(&mut self) -> Join {
        match self.hear().await {
            Some(AgentMessage::Join(join)) => join,
            other => panic!("a join was expected, not {other:?}"),
        }
    }

    pub(crate) async fn grant(&mut self, keep_alive_ms: u32) -> Join {
        let join = self.hear_join().await;
        self.joined(&join, keep_alive_ms).await;
        join
    }

    pub(crate) async fn joined(&mut self, join: &Join, keep_alive_ms: u32) {
        self.leases += 1;
        let (request, lease) = (join.request, TargetId(self.leases));
        self.say(Joined { request, lease, keep_alive_ms, lease_ms: 5_000 }).await;
    }

    async fn serve_one(&mut self, heard: &Heard) -> Option<()> {
        let message = self.next().await?;
        heard.0.lock().unwrap().push(message.clone());
        match message {
            AgentMessage::Join(join) => self.joined(&join, 100).await,
            AgentMessage::KeepAlive(keep) => {
                let (keep_alive_ms, lease_ms) = (100, 5_000);
                self.say(KeepAliveAck { sequence: keep.sequence, keep_alive_ms, lease_ms }).await;
            }
            _ => {}
        }
        Some(())
    }
}

/// The agent's next event that `matches`.
pub(crate) async fn event(agent: &mut Agent, matches: impl Fn(&EventKind) -> bool) -> Event {
    let found = async {
        loop {
            let event = agent.next().await.expect("the agent ended");
            println!("{event:?}");
            if matches(&event.kind) {
                return event;
            }
        }
    };
    timeout(PATIENCE, found).await.expect("the event did not come")
}

/// The next `Joined`, and the name of the proxy.
pub(crate) async fn joined_through(agent: &mut Agent) -> String {
    let event = event(agent, |kind| matches!(kind, EventKind::Joined { .. })).await;
    let EventKind::Joined { proxy, .. } = event.kind else { unreachable!() };
    proxy
}
