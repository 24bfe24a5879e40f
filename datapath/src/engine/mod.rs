//! The TUN engine: one thread that owns the pipeline and all of the datapath's I/O.
//!
//! ```text
//!            ┌──────────────────────── engine thread ───────────────────────┐
//!  pias0 ───►│ device ─► Pipeline::from_tun ──────┬─► outbox ─► Geneve sockets ───► proxies
//!  (TUN) ◄───│ device ◄──────────────────────────┬┘                         │
//!            │      Pipeline::from_tunnel ◄─ coalesce ◄─ Geneve sockets  ◄─────── proxies
//!            └─▲──────────────┬──────────────────────▲──────────┬───────────┘
//!   ForwardingUpdate     ForwardingEvent          Datagram   Datagram
//!     and queries         (Hooks::event)                     (Hooks::registration)
//!              │              ▼                      │          ▼
//!              └──────── overlay ───────┘            └── QUIC ──┘
//! ```
//!
//! The thread waits in `epoll`, and takes at most a batch from each source per turn, so that none
//! starves another. Nothing is shared: other threads reach it through the bounded queues behind an
//! [`EngineHandle`], and hear from it through [`Hooks`].
//!
//! | module | subject |
//! | --- | --- |
//! | `worker` | the loop, and what is done with a verdict |
//! | `sources` | where packets come from and go to |
//! | `device`, `vnet` | the TUN device, and the header before each of its packets |
//! | `tunnel`, `outbox` | Geneve sockets: receiving, and sending by flow |
//! | `segment`, `coalesce` | cutting super-packets for the tunnel, and joining what came out of it |
//! | `registration` | datagrams between the TUN device and piasd's QUIC endpoint |
//! | `fast`, `route_watch` | XDP in front of it, and hearing what its next hops depend on |
//! | `ports` | what XDP is attached to, and the thread that attaches it |
//! | `mailbox` | what other threads ask of the engine |
//! | `hand_over` | what the engine of the next process takes over |

mod coalesce;
mod device;
mod fast;
mod forward;
mod hand_over;
mod linger;
mod mailbox;
mod outbox;
mod ports;
mod registration;
mod route_watch;
mod segment;
mod sources;
mod tunnel;
mod vnet;
mod worker;

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    thread,
};

use pias_protocol::{forwarding::ForwardingEvent, forwarding::ForwardingUpdate, group::GroupKey};

use crate::{
    counters::Counters,
    explain::Explanation,
    limits::engine::HAND_OVER_WITHIN,
    pipeline::{FlowView, Occupancy, PipelineConfig, Tables},
};
pub use fast::{FastConfig, FastError, FastView};
pub use hand_over::{HandOver, TablesId, TunDevice};
use mailbox::{Command, Inbox, Mailbox};
pub use registration::Datagram;
pub use sources::Prepared;
use sources::Sources;
use worker::Worker;

/// What an engine is told once.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The TUN device's name, at most 15 octets. The device must not exist, unless it is taken over;
    /// it vanishes with the last engine that has it, and so do the routes to it.
    pub device: String,
    /// The pipeline's part. The engine binds its tunnel sockets to `pipeline.unicast`.
    pub pipeline: PipelineConfig,
    /// A directory in a BPF file system, for what outlives a process: see [`kept`](crate::xdp::kept). It
    /// is made when it is needed, and nobody else puts anything there.
    pub pins: PathBuf,
    /// XDP in front of it, if any.
    pub fast: Option<FastConfig>,
}

/// What the engine calls, from its own thread: none of these may block.
pub struct Hooks {
    /// An event for the overlay. `false`: its queue is full, which is counted.
    pub event: Box<dyn FnMut(ForwardingEvent) -> bool + Send>,
    /// A datagram that was sent to the registration port of an anycast address. `false`: the
    /// queue is full, which is counted.
    pub registration: Box<dyn FnMut(Datagram) -> bool + Send>,
    /// The engine has ended: by [`Engine::stop`], or else it failed and nothing is forwarded any
    /// more.
    pub ended: Box<dyn FnOnce(Result<(), EngineFailure>) + Send>,
}

/// Why no engine could be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The TUN device could not be made.
    #[error(
        "cannot make the TUN device `{name}`: {source} (it needs CAP_NET_ADMIN, /dev/net/tun, and a name that is free)"
    )]
    Device {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The TUN device could not be taken over.
    #[error("cannot take the TUN device `{name}` over: {source}")]
    Adopt {
        /// Its name.
        name: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A tunnel socket could not be bound.
    #[error(
        "cannot bind a tunnel socket to {address}: {source} (is it an address of this host, and nothing else bound to UDP port 6081?)"
    )]
    Tunnel {
        /// The address and port.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// XDP is required, and cannot be had.
    #[error("XDP cannot be used, and `datapath.engine` is \"xdp\": {0}")]
    Fast(#[source] FastError),
    /// The thread or what it waits with could not be made.
    #[error("cannot start the engine's thread: {0}")]
    Thread(#[source] io::Error),
}

/// Why an engine ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum EngineFailure {
    /// The TUN device cannot be read any more: somebody removed it.
    #[error("cannot read the TUN device any more: {0}")]
    Device(#[source] io::Error),
    /// Waiting for packets failed.
    #[error("cannot wait for packets: {0}")]
    Wait(#[source] io::Error),
    /// The engine's thread panicked; its message is on stderr. (Programs built to abort on a panic
    /// end there and then, and the kernel takes device and routes away.)
    #[error("the engine's thread panicked")]
    Panicked,
}

/// The engine has ended, or did not answer within [`ANSWER_WITHIN`](crate::limits::engine::ANSWER_WITHIN).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the datapath engine has ended or does not answer")]
pub struct EngineGone;

/// A running engine. Dropping it leaves the engine running; [`Self::stop`] ends it.
pub struct Engine {
    device_index: u32,
    device_name: String,
    handle: EngineHandle,
    thread: thread::JoinHandle<()>,
}

/// Makes the TUN device and the tunnel sockets, and starts the engine's thread.
///
/// Times in the pipeline count from this call, or, where the flows of a process are gone on with that was
/// killed a moment ago, from the start of that one.
///
/// # Errors
/// As [`StartError`] tells; then nothing is left behind.
pub fn start(config: EngineConfig, hooks: Hooks) -> Result<Engine, StartError> {
    let sources = Sources::open(&config)?;
    run(config, hooks, |config, hooks, inbox| Worker::new(config, hooks, inbox, sources))
}

/// Starts an engine with the device and the sockets that another one handed over. It is paused:
/// nothing is read before [`EngineHandle::resume`]. Its flows it is to be told before that, by
/// [`EngineHandle::adopt`].
///
/// # Errors
/// As [`StartError`] tells; then the other engine can go on.
pub fn take_over(
    config: EngineConfig,
    hooks: Hooks,
    prepared: Prepared,
    device: TunDevice,
    tunnels: Vec<UdpSocket>,
) -> Result<Engine, StartError> {
    let sources = Sources::adopt(&config, prepared, device, tunnels)?;
    run(config, hooks, |config, hooks, inbox| Worker::paused(config, hooks, inbox, sources))
}

fn run(
    config: EngineConfig,
    hooks: Hooks,
    worker: impl FnOnce(EngineConfig, Hooks, Inbox) -> Result<Worker, StartError>,
) -> Result<Engine, StartError> {
    let (mailbox, inbox) = mailbox::create().map_err(StartError::Thread)?;
    let worker = worker(config, hooks, inbox)?;
    let (device_index, device_name) = (worker.device_index(), worker.device_name().to_owned());
    let thread = thread::Builder::new()
        .name("pias-engine".to_owned())
        .spawn(move || worker.run())
        .map_err(StartError::Thread)?;
    Ok(Engine { device_index, device_name, handle: EngineHandle { mailbox }, thread })
}

impl Engine {
    /// The TUN device's interface index, for routes.
    #[must_use]
    pub const fn device_index(&self) -> u32 {
        self.device_index
    }

    /// The TUN device's name.
    #[must_use]
    pub fn device_name(&self) -> &str {
        &self.device_name
    }

    /// What other threads reach the engine by.
    #[must_use]
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// Ends the engine and waits until its device and sockets are closed.
    pub fn stop(self) {
        self.handle.mailbox.stop();
        // A panic has been reported through `Hooks::ended`.
        let _ = self.thread.join();
    }
}

/// What other threads reach an engine by. Cheap to clone.
#[derive(Clone)]
pub struct EngineHandle {
    mailbox: Mailbox,
}

impl EngineHandle {
    /// Hands the engine an update; they are applied in order. Waits for room while the queue is
    /// full, up to a second.
    ///
    /// # Errors
    /// [`EngineGone`]; then the update is lost.
    pub fn update(&self, update: ForwardingUpdate) -> Result<(), EngineGone> {
        self.mailbox.send(Command::Update(update))
    }

    /// Sends a datagram from an anycast address, past the pipeline. `false`: the queue is full or
    /// the engine has ended, and the datagram is lost.
    #[must_use]
    pub fn send_registration(&self, datagram: Datagram) -> bool {
        self.mailbox.send_registration(datagram)
    }

    /// The counters of the pipeline and the engine together, once all earlier updates are applied.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub fn counters(&self) -> Result<Counters, EngineGone> {
        self.mailbox.ask(Command::Counters)
    }

    /// What XDP does. An engine without has no interfaces.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub fn fast(&self) -> Result<FastView, EngineGone> {
        self.mailbox.ask(Command::Fast)
    }

    /// How full the tables are.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub fn occupancy(&self) -> Result<Occupancy, EngineGone> {
        self.mailbox.ask(Command::Occupancy)
    }

    /// Reads no more packets, from now on until [`Self::resume`]: they wait in the kernel. Updates
    /// and queries are served as before.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub fn pause(&self) -> Result<(), EngineGone> {
        self.mailbox.ask(Command::Pause)
    }

    /// Goes on with flows of another engine, whose proxies and targets it was told before.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub fn adopt(&self, tables: Tables) -> Result<(), EngineGone> {
        self.mailbox.send(Command::Adopt(Box::new(tables)))
    }

    /// Reads packets again.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub fn resume(&self) -> Result<(), EngineGone> {
        self.mailbox.send(Command::Resume)
    }

    /// The device, the sockets and all that is known of flows, for the engine of another process;
    /// packets that wait for the overlay, and fragments, are left behind. To be called while paused. Flows in
    /// tables that the other process `has`, too, stay where they are.
    ///
    /// # Errors
    /// [`EngineGone`], or the descriptors cannot be duplicated.
    pub fn hand_over(&self, has: Option<TablesId>) -> Result<io::Result<HandOver>, EngineGone> {
        self.mailbox.ask_within(HAND_OVER_WITHIN, |answer| Command::HandOver(has, answer))
    }

    /// Up to `limit` flows that pass here, of these groups, or of all if there are none.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub fn flows(&self, groups: Vec<GroupKey>, limit: usize) -> Result<Vec<FlowView>, EngineGone> {
        self.mailbox.ask(|answer| Command::Flows(groups, limit, answer))
    }

    /// Where a packet of this client to this group would go that entered here, and why.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub fn explain(&self, client: SocketAddr, group: GroupKey) -> Result<Explanation, EngineGone> {
        self.mailbox.ask(|answer| Command::Explain(client, group, answer))
    }
}
