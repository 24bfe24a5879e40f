//! The registration port: QUIC with agents on the anycast addresses.
//!
//! ```text
//!  datapath ──Datagram──► RegistrationSocket ─► quinn ─► agent task ──Input──► brain
//!           ◄─────────────                   ◄──       ◄──JapMessage──
//! ```
//! Anyone may connect, so every step is bounded: handshakes at once, agents in all and of one
//! address, messages that wait. When many handshakes are in progress, an agent must prove its
//! address first.

mod agent;
mod socket;

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use pias_datapath::engine::Datagram;
use pias_overlay::AgentId;
use pias_protocol::{agent::JapMessage, overlay::AgentLink};
use quinn::{Endpoint, Incoming, ServerConfig, TransportConfig, VarInt};
use tokio::sync::{Semaphore, mpsc};

use crate::{
    brain::Input,
    identity::{Identity, TlsError},
    keys::ResetKeys,
    limits,
    metrics::{AgentRefusal, JoinCounters},
};
use agent::Saying;
pub use socket::{RegistrationSocket, SendDatagram};

/// Why the registration port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum JoinNetError {
    /// QUIC cannot be set up.
    #[error("cannot serve the registration port: {0}")]
    Endpoint(#[from] io::Error),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The agents connected to this proxy. Clones are the same.
#[derive(Clone)]
pub struct JoinNet(Arc<Shared>);

struct Shared {
    endpoint: Endpoint,
    socket: Arc<RegistrationSocket>,
    reset_keys: ResetKeys,
    agents: Mutex<HashMap<AgentId, mpsc::Sender<Saying>>>,
    sources: Mutex<HashMap<IpAddr, usize>>,
    handshakes: Arc<Semaphore>,
    next: AtomicU64,
    inputs: mpsc::Sender<Input>,
    counters: JoinCounters,
}

impl JoinNet {
    /// Serves the registration port. What agents say goes to `inputs`.
    ///
    /// # Errors
    /// As [`JoinNetError`] tells.
    pub fn start(
        identity: &Identity,
        reset_keys: &ResetKeys,
        received: mpsc::Receiver<Datagram>,
        send: SendDatagram,
        inputs: mpsc::Sender<Input>,
        counters: JoinCounters,
    ) -> Result<Self, JoinNetError> {
        let mut server = ServerConfig::with_crypto(Arc::new(identity.join_server()?));
        server
            .transport_config(Arc::new(transport()))
            .token_key(reset_keys.token_key())
            .max_incoming(limits::AGENT_HANDSHAKES);
        let socket = RegistrationSocket::new(received, send, counters.clone());
        let endpoint = Endpoint::new_with_abstract_socket(
            reset_keys.endpoint(),
            Some(server),
            socket.clone(),
            Arc::new(quinn::TokioRuntime),
        )?;
        let net = Self(Arc::new(Shared {
            endpoint,
            socket,
            reset_keys: reset_keys.clone(),
            agents: Mutex::default(),
            sources: Mutex::default(),
            handshakes: Arc::new(Semaphore::new(limits::AGENT_HANDSHAKES)),
            next: AtomicU64::new(1),
            inputs,
            counters,
        }));
        tokio::spawn(net.clone().accept_all());
        Ok(net)
    }

    /// Says something to an agent. Never waits: an agent that does not read is disconnected.
    pub fn say(&self, agent: AgentId, message: JapMessage) {
        self.hand(agent, Saying::Message(message));
    }

    /// Closes an agent's connection, after what was said to it before.
    pub fn close_agent(&self, agent: AgentId, reason: String) {
        self.hand(agent, Saying::Close(reason));
    }

    /// Resets the connection of an agent to another proxy, which is dead.
    pub fn reset(&self, link: &AgentLink) {
        if let Ok(packet) = self.0.reset_keys.stateless_reset(&link.connection) {
            self.0.socket.send(link.anycast, link.remote, packet);
        }
    }

    /// Closes all connections: agents join elsewhere at once.
    pub async fn close(&self) {
        self.0.endpoint.close(VarInt::from_u32(0), b"stopping");
        self.0.endpoint.wait_idle().await;
    }

    fn hand(&self, agent: AgentId, saying: Saying) {
        let mut agents = self.0.agents();
        if agents.get(&agent).is_some_and(|queue| queue.try_send(saying).is_err()) {
            // Its task sees that nobody speaks to it any more, and closes.
            agents.remove(&agent);
        }
    }

    async fn accept_all(self) {
        while let Some(incoming) = self.0.endpoint.accept().await {
            let free = self.0.handshakes.available_permits();
            let Ok(permit) = self.0.handshakes.clone().try_acquire_owned() else {
                self.refuse(incoming, AgentRefusal::Handshakes);
                continue;
            };
            let busy = limits::AGENT_HANDSHAKES - free >= limits::AGENT_HANDSHAKES_BUSY;
            if busy && incoming.may_retry() && !incoming.remote_address_validated() {
                self.0.counters.retried();
                // Fails only for what may not be retried, which was asked above.
                let _ = incoming.retry();
                continue;
            }
            match self.0.enter(incoming.remote_address().ip()) {
                Ok(place) => {
                    tokio::spawn(agent::serve(self.clone(), incoming, place, permit));
                }
                Err(why) => self.refuse(incoming, why),
            }
        }
    }

    fn refuse(&self, incoming: Incoming, why: AgentRefusal) {
        self.0.counters.refused(why);
        incoming.refuse();
    }
}

impl Shared {
    fn agents(&self) -> MutexGuard<'_, HashMap<AgentId, mpsc::Sender<Saying>>> {
        // Every change to the table is one call.
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sources(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_id(&self) -> AgentId {
        AgentId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A place for an agent of this address, if there is one.
    fn enter(self: &Arc<Self>, source: IpAddr) -> Result<Place, AgentRefusal> {
        let mut sources = self.sources();
        // The sum of all sources is what is open now, handshakes included.
        if self.endpoint.open_connections() >= limits::AGENTS {
            return Err(AgentRefusal::Total);
        }
        let held = sources.entry(source).or_insert(0);
        if *held >= limits::AGENTS_PER_SOURCE {
            return Err(AgentRefusal::Source);
        }
        *held += 1;
        Ok(Place { shared: self.clone(), source })
    }
}

/// One connection's share of its source's bound; given back when dropped.
struct Place {
    shared: Arc<Shared>,
    source: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sources = self.shared.sources();
        if let Some(held) = sources.get_mut(&self.source) {
            *held -= 1;
            if *held == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = limits::AGENT_IDLE.try_into().expect("a minute is a valid idle time");
    transport
        .max_idle_timeout(Some(idle))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(limits::AGENT_WINDOW))
        .receive_window(VarInt::from_u32(limits::AGENT_WINDOW))
        .send_window(u64::from(limits::AGENT_WINDOW))
        .datagram_receive_buffer_size(None);
    transport
}

#[cfg(test)]
mod tests;
