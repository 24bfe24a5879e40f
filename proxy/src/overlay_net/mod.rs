//! Connections between proxies: QUIC with mutual TLS on every unicast address.
//!
//! ```text
//!             send()                                       Input::Message
//!  brain ───────────────► peer task ═══ connection ═══ reader ───────────► brain
//!           datagrams: straight onto the connection
//!           messages:  a bounded queue, then one stream
//! ```
//! One task a peer owns dialling and the outgoing stream; one task a connection reads. A peer's
//! identity is the name in its certificate, never what it says or where it sends from.

mod gate;
mod peer;
mod receive;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use pias_overlay::Delivery;
use pias_protocol::{envelope, ids::ProxyId, overlay::OverlayMessage};
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, Incoming, Runtime, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::{Semaphore, mpsc};

use crate::{
    brain::Input,
    identity::{Identity, TlsError, proxy_name},
    keys::ResetKeys,
    limits,
    log_limit::LogLimit,
    metrics::{Direction, OverlayCounters, Queue},
};
use gate::{Gate, GatedSocket};
use peer::{Outgoing, PeerHandle};

/// Why connections between proxies cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum OverlayNetError {
    /// An address cannot be bound.
    #[error(
        "cannot bind {address} for the overlay: {source}; is the address on this host, and no other piasd running?"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Who this proxy is to others, and how it reaches them.
pub struct OverlayNetConfig<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its addresses, each bound.
    pub unicast: &'a [IpAddr],
    /// UDP port of all proxies' overlay; 0 binds any (and can be dialled by tests alone).
    pub port: u16,
    /// Certificate, key and CA.
    pub identity: &'a Identity,
    /// Shared secret of stateless resets.
    pub reset_keys: &'a ResetKeys,
}

/// The proxy's connections to all others. Clones are the same.
#[derive(Clone)]
pub struct OverlayNet(Arc<Shared>);

struct Shared {
    own: ProxyId,
    port: u16,
    endpoints: Vec<Endpoint>,
    /// The endpoints' sockets, for the process that takes over.
    sockets: Vec<UdpSocket>,
    gate: Arc<Gate>,
    peers: Mutex<HashMap<ProxyId, PeerHandle>>,
    handshakes: Arc<Semaphore>,
    inputs: mpsc::Sender<Input>,
    counters: OverlayCounters,
    /// Set at the end: what is sent from then on goes nowhere.
    closing: AtomicBool,
}

impl OverlayNet {
    /// Binds every unicast address and begins to accept. Messages of peers go to `inputs`.
    ///
    /// # Errors
    /// As [`OverlayNetError`] tells.
    pub fn start(
        config: &OverlayNetConfig<'_>,
        inputs: mpsc::Sender<Input>,
        counters: OverlayCounters,
    ) -> Result<Self, OverlayNetError> {
        let bind = |&address: &IpAddr| {
            let address = SocketAddr::new(address, config.port);
            UdpSocket::bind(address).map_err(|source| OverlayNetError::Bind { address, source })
        };
        let sockets = config.unicast.iter().map(bind).collect::<Result<_, _>>()?;
        Self::on(sockets, Gate::default(), config, inputs, counters)
    }

    /// Goes on with the sockets of the process before, in the order of the unicast addresses. They
    /// are shut: nothing is received or sent before [`Self::open`].
    ///
    /// # Errors
    /// As [`OverlayNetError`] tells.
    pub fn take_over(
        sockets: Vec<UdpSocket>,
        config: &OverlayNetConfig<'_>,
        inputs: mpsc::Sender<Input>,
        counters: OverlayCounters,
    ) -> Result<Self, OverlayNetError> {
        Self::on(sockets, Gate::new_shut(), config, inputs, counters)
    }

    fn on(
        sockets: Vec<UdpSocket>,
        gate: Gate,
        config: &OverlayNetConfig<'_>,
        inputs: mpsc::Sender<Input>,
        counters: OverlayCounters,
    ) -> Result<Self, OverlayNetError> {
        let transport = Arc::new(transport());
        let mut server = ServerConfig::with_crypto(Arc::new(config.identity.overlay_server()?));
        server.transport_config(transport.clone());
        let mut client = ClientConfig::new(Arc::new(config.identity.overlay_client()?));
        client.transport_config(transport);
        let gate = Arc::new(gate);
        let mut endpoints = Vec::new();
        for (socket, &address) in sockets.iter().zip(config.unicast) {
            let address = SocketAddr::new(address, config.port);
            let bind = |source| OverlayNetError::Bind { address, source };
            let socket = TokioRuntime.wrap_udp_socket(socket.try_clone().map_err(bind)?);
            let socket = GatedSocket { socket: socket.map_err(bind)?, gate: gate.clone() };
            let mut endpoint = Endpoint::new_with_abstract_socket(
                config.reset_keys.endpoint(),
                Some(server.clone()),
                Arc::new(socket),
                Arc::new(TokioRuntime),
            )
            .map_err(bind)?;
            endpoint.set_default_client_config(client.clone());
            endpoints.push(endpoint);
        }
        let net = Self(Arc::new(Shared {
            own: ProxyId::of(config.name),
            port: config.port,
            endpoints,
            sockets,
            gate,
            peers: Mutex::new(HashMap::new()),
            handshakes: Arc::new(Semaphore::new(limits::OVERLAY_HANDSHAKES)),
            inputs,
            counters,
            closing: AtomicBool::new(false),
        }));
        for endpoint in net.0.endpoints.clone() {
            tokio::spawn(net.clone().accept_all(endpoint));
        }
        Ok(net)
    }

    /// Receives nothing, and sends nothing, until [`Self::open`]: what arrives waits in the kernel,
    /// what is sent is lost.
    pub fn shut(&self) {
        self.0.gate.shut();
    }

    /// Receives and sends.
    pub fn open(&self) {
        self.0.gate.open();
    }

    /// The sockets, for another process.
    ///
    /// # Errors
    /// This process may not open more descriptors.
    pub fn sockets(&self) -> io::Result<Vec<UdpSocket>> {
        self.0.sockets.iter().map(UdpSocket::try_clone).collect()
    }

    /// Sends a message to a proxy. Never waits: what does not fit is dropped and counted.
    pub fn send(
        &self,
        to: ProxyId,
        name: &str,
        address: IpAddr,
        delivery: Delivery,
        message: &OverlayMessage,
    ) {
        self.send_to(to, name, SocketAddr::new(address, self.0.port), delivery, message);
    }

    fn send_to(
        &self,
        to: ProxyId,
        name: &str,
        address: SocketAddr,
        delivery: Delivery,
        message: &OverlayMessage,
    ) {
        let shared = &self.0;
        if shared.closing.load(Ordering::Relaxed) {
            return;
        }
        let bytes = envelope::encode(message);
        let mut peers = shared.peers();
        let Some(peer) = self.peer(&mut peers, to, name) else {
            shared.counters.dropped(Queue::Peers);
            return;
        };
        let outgoing = Outgoing { address, datagram: delivery == Delivery::Datagram, bytes };
        match peer.send(outgoing) {
            Ok(()) => shared.counters.message(Direction::Sent, message),
            Err(queue) => shared.counters.dropped(queue),
        }
    }

    /// Connections that are open, in either direction.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.0.endpoints.iter().map(Endpoint::open_connections).sum()
    }

    /// Closes all connections after what was sent before has arrived, so that peers need not find
    /// out by themselves. Waits until they know, which takes as long as the slowest of them.
    pub async fn close(&self) {
        self.0.closing.store(true, Ordering::Relaxed);
        let flushed: Vec<_> = self.0.peers().values().map(PeerHandle::flush).collect();
        for peer in flushed {
            // Resolves with an error by design: the sender is dropped when it is done.
            let _ = peer.await;
        }
        for endpoint in &self.0.endpoints {
            endpoint.close(VarInt::from_u32(0), b"stopping");
        }
        for endpoint in &self.0.endpoints {
            endpoint.wait_idle().await;
        }
    }

    /// The peer of this id, with a task of its own from now on; `None` when there are too many.
    fn peer<'a>(
        &self,
        peers: &'a mut HashMap<ProxyId, PeerHandle>,
        id: ProxyId,
        name: &str,
    ) -> Option<&'a PeerHandle> {
        if !peers.contains_key(&id) {
            if peers.len() >= limits::PEERS {
                return None;
            }
            peers.insert(id, peer::spawn(self.clone(), id, name.to_owned()));
        }
        peers.get(&id)
    }

    async fn accept_all(self, endpoint: Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            let Ok(permit) = self.0.handshakes.clone().try_acquire_owned() else {
                self.0.counters.refused();
                incoming.refuse();
                continue;
            };
            let net = self.clone();
            tokio::spawn(async move {
                net.accept(incoming).await;
                drop(permit);
            });
        }
    }

    async fn accept(&self, incoming: Incoming) {
        static FAILED: LogLimit = LogLimit::new();
        let remote = incoming.remote_address();
        let connection = match tokio::time::timeout(limits::DIAL_TIME, incoming).await {
            Ok(Ok(connection)) => connection,
            // The peer gave up an attempt of its own because ours had succeeded.
            Ok(Err(ConnectionError::ApplicationClosed(_))) => return,
            Ok(Err(error)) => {
                self.0.counters.refused();
                if let Some(suppressed) = FAILED.permit() {
                    tracing::warn!(%remote, %error, suppressed, "a peer's handshake failed");
                }
                return;
            }
            Err(_) => return self.0.counters.refused(),
        };
        let Some(name) = peer_name(&connection) else {
            connection.close(VarInt::from_u32(1), b"no proxy's certificate");
            return self.0.counters.refused();
        };
        let id = ProxyId::of(&name);
        if id == self.0.own {
            connection.close(VarInt::from_u32(1), b"your own name");
            return self.0.counters.refused();
        }
        let adopted = {
            let mut peers = self.0.peers();
            self.peer(&mut peers, id, &name).is_some_and(|peer| peer.adopt(connection.clone()))
        };
        if adopted {
            tracing::debug!(peer = name, %remote, "a peer connected");
            self.read(id, connection);
        } else {
            self.0.counters.refused();
            connection.close(VarInt::from_u32(2), b"too many");
        }
    }

    /// Reads a connection until it ends.
    fn read(&self, from: ProxyId, connection: Connection) {
        tokio::spawn(receive::read_all(
            from,
            connection,
            self.0.inputs.clone(),
            self.0.counters.clone(),
        ));
    }
}

impl Shared {
    fn peers(&self) -> MutexGuard<'_, HashMap<ProxyId, PeerHandle>> {
        // The table is whole even if a holder panicked: every change to it is one call.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The endpoint of an address' family.
    fn endpoint(&self, remote: SocketAddr) -> Option<&Endpoint> {
        let fits = |endpoint: &&Endpoint| {
            endpoint.local_addr().is_ok_and(|local| local.is_ipv4() == remote.is_ipv4())
        };
        self.endpoints.iter().find(fits)
    }
}

/// The name in the certificate that the other side has shown.
fn peer_name(connection: &Connection) -> Option<String> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    proxy_name(chain.first()?)
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = limits::OVERLAY_IDLE.try_into().expect("a few seconds are a valid idle time");
    transport
        .max_idle_timeout(Some(idle))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(limits::OVERLAY_STREAMS))
        .datagram_receive_buffer_size(Some(limits::OVERLAY_DATAGRAM_BUFFER))
        .datagram_send_buffer_size(limits::OVERLAY_DATAGRAM_BUFFER)
        .initial_rtt(std::time::Duration::from_millis(100));
    transport
}

#[cfg(test)]
mod tests;
