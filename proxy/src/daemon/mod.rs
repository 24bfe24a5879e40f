//! The daemon's life: start, announce, drain, stop.
//!
//! ```text
//!  start ─► engine ─► QUIC ─► brain ─► admin ─► (overlay ready) routes ─► READY=1
//!  SIGTERM ─► drain: routes withdrawn, agents sent elsewhere ─► wait ─► leave ─► stop
//!             a second SIGTERM, or a SIGINT: stop at once
//!  hand-over ─► another process serves ─► stop, and withdraw nothing
//! ```

mod start;

use std::{net::TcpListener, sync::Arc, time::Duration};

use pias_datapath::engine::{self, EngineFailure};
use pias_overlay::{Node, StandbyAddress};
use tokio::{
    net::{UnixListener, UnixStream},
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
};

use crate::{
    admin::{AdminServer, ServeError, Taken},
    brain::BrainHandle,
    config::Config,
    hand_over::{self, Command, Frozen, Given, Hello, TakeError},
    interfaces::InterfaceError,
    join_net::{JoinNet, JoinNetError},
    limits,
    log_limit::LogLimit,
    notify,
    overlay_net::{OverlayNet, OverlayNetError},
    routes::{RouteError, Routes},
};

/// Why the daemon did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The datapath cannot be started.
    #[error(transparent)]
    Engine(#[from] engine::StartError),
    /// The datapath ended by itself.
    #[error("the datapath has ended: {0}")]
    EngineFailed(#[from] EngineFailure),
    /// Proxies cannot be reached.
    #[error(transparent)]
    Overlay(#[from] OverlayNetError),
    /// Agents cannot be served.
    #[error(transparent)]
    Join(#[from] JoinNetError),
    /// XDP is required, and its interfaces are not known.
    #[error(transparent)]
    Interfaces(#[from] InterfaceError),
    /// Routes cannot be changed.
    #[error(transparent)]
    Routes(#[from] RouteError),
    /// Operators cannot be served.
    #[error(transparent)]
    Admin(#[from] ServeError),
    /// Signals cannot be heard.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] std::io::Error),
    /// The running piasd goes on.
    #[error(transparent)]
    TakeOver(#[from] TakeError),
    /// No randomness.
    #[error("the operating system gives no randomness")]
    Random,
}

/// Runs the daemon until it is told to stop, or another process takes over. `take_over`: goes on where
/// a running piasd ends, if there is one. `command` is how this process was started.
///
/// # Errors
/// As [`DaemonError`] tells.
pub async fn run(config: Config, command: Command, take_over: bool) -> Result<(), DaemonError> {
    let mut signals = Signals::new().map_err(DaemonError::Signals)?;
    notify::waiting("starting");
    let mut running = if take_over {
        start_in_place(&config, command).await?
    } else {
        Running::start(&config, command, None).await?
    };
    let stopped = running.until_stopped(&config, &mut signals).await;
    running.shut_down(&config, &mut signals, stopped).await
}

/// Goes on where the running piasd ends. Starts anew where there is none, or it dies meanwhile.
async fn start_in_place(config: &Config, command: Command) -> Result<Running, DaemonError> {
    let (socket, hello) = (hand_over::socket_path(&config.admin_socket), Hello::of(config));
    // What takes long is done before anything stands still: the sockets, the tables, XDP's programs, and
    // the first random number, for which entropy is gathered for a tenth of a second.
    let engine_config = start::engine_config(config).await?;
    let prepared = engine::Prepared::new(&engine_config)?;
    let has = prepared.tables();
    let asked = spawn_blocking(move || hand_over::connect(&socket, &hello)?.ask(has)).await;
    let (legacy, taking) = match asked.unwrap_or(Err(TakeError::Died)) {
        Ok(taken) => taken,
        Err(none @ (TakeError::Nobody | TakeError::Died)) => {
            tracing::info!("{none}: starting anew");
            return Running::start(config, command, None).await;
        }
        Err(error) => return Err(error.into()),
    };
    match Running::start(config, command, Some((legacy, engine_config, prepared))).await {
        Ok(running) => {
            taking.taken();
            Ok(running)
        }
        Err(error) => {
            taking.failed(&error.to_string());
            Err(error)
        }
    }
}

/// SIGTERM drains, and then stops; SIGINT stops.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// Why the daemon stops.
enum Stopped {
    Drain,
    AtOnce,
    HandedOver { taken: Taken, frozen: Frozen },
    Failed(DaemonError),
}

/// All that was started.
struct Running {
    engine: engine::Engine,
    ended: oneshot::Receiver<Result<(), EngineFailure>>,
    overlay: OverlayNet,
    join: JoinNet,
    brain: BrainHandle,
    routes: Routes,
    announce: watch::Receiver<bool>,
    standby: watch::Receiver<Vec<StandbyAddress>>,
    admin: AdminServer,
    metrics: Arc<TcpListener>,
    successors: Successors,
}

/// Processes that wish to take over.
struct Successors {
    listener: UnixListener,
    /// Whether one is being served: others wait.
    busy: bool,
    give: mpsc::Sender<Given<Frozen>>,
    given: mpsc::Receiver<Given<Frozen>>,
    taken: watch::Sender<Option<Taken>>,
}

impl Successors {
    fn new(listener: UnixListener, taken: watch::Sender<Option<Taken>>) -> Self {
        let (give, given) = mpsc::channel(1);
        Self { listener, busy: false, give, given, taken }
    }
}

/// The next process that wishes to take over. Where none can be accepted, as there are no descriptors
/// left, it waits in the queue.
async fn next_successor(listener: &UnixListener) -> UnixStream {
    static FAILED: LogLimit = LogLimit::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                if let Some(suppressed) = FAILED.permit() {
                    tracing::warn!(%error, suppressed, "cannot accept a hand-over");
                }
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Running {
    /// Keeps the routes as the overlay wishes, until there is a reason to stop.
    async fn until_stopped(&mut self, config: &Config, signals: &mut Signals) -> Stopped {
        loop {
            let busy = self.successors.busy;
            tokio::select! {
                changed = self.announce.changed() => {
                    let ready = changed.is_ok() && *self.announce.borrow_and_update();
                    if let Err(error) = self.announce(ready).await {
                        return Stopped::Failed(error.into());
                    }
                }
                Ok(()) = self.standby.changed() => self.stand_by().await,
                outcome = &mut self.ended => {
                    let failure = match outcome {
                        Ok(Err(failure)) => failure,
                        Ok(Ok(())) | Err(_) => EngineFailure::Panicked,
                    };
                    return Stopped::Failed(failure.into());
                }
                stream = next_successor(&self.successors.listener), if !busy => {
                    self.hand_over(config, stream);
                }
                Some(given) = self.successors.given.recv() => match given {
                    Given::Taken { by, frozen, paused } => {
                        return Stopped::HandedOver { taken: Taken { by, paused }, frozen };
                    }
                    Given::Kept { why } => {
                        self.successors.busy = false;
                        tracing::warn!(why, "no other piasd took over: this one goes on");
                    }
                },
                // A signal waits until it is clear which process it is meant for.
                _ = signals.terminate.recv(), if !busy => return Stopped::Drain,
                _ = signals.interrupt.recv(), if !busy => return Stopped::AtOnce,
            }
        }
    }

    /// Begins to hand over to the process at the other end.
    fn hand_over(&mut self, config: &Config, stream: UnixStream) {
        let stream = match stream.into_std() {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(%error, "cannot hand over"),
        };
        let parts = hand_over::Parts {
            brain: self.brain.clone(),
            engine: self.engine.handle(),
            overlay: self.overlay.clone(),
            metrics: self.metrics.clone(),
        };
        let (own, give) = (Hello::of(config), self.successors.give.clone());
        self.successors.busy = true;
        tokio::spawn(async move {
            hand_over::be_heard(&parts.brain).await;
            let given = hand_over::give(stream, own, |has| hand_over::freeze(&parts, has)).await;
            // The daemon that does not hear it has ended.
            let _ = give.send(given).await;
        });
    }

    /// Routes mates' NAT addresses here as the overlay wishes. Without such a route flows are lost when
    /// their proxy dies, and none before.
    async fn stand_by(&mut self) {
        let wanted = self.standby.borrow_and_update().clone();
        if let Err(error) = self.routes.stand_by(&wanted).await {
            tracing::warn!(%error, "standing by for mates' flows without all routes");
        }
    }

    async fn announce(&self, ready: bool) -> Result<(), RouteError> {
        if ready {
            self.routes.install().await?;
            tracing::info!("announced: the routes are installed");
            notify::ready();
        } else {
            self.withdraw().await?;
            tracing::info!("withdrawn: the routes of the anycast prefixes are removed");
            notify::waiting("not announced");
        }
        Ok(())
    }

    /// Withdraws the routes as soon as the mate has been told of young connections, too.
    async fn withdraw(&self) -> Result<(), RouteError> {
        tokio::time::sleep(limits::TELL_TIME).await;
        self.routes.withdraw().await
    }

    async fn shut_down(
        mut self,
        config: &Config,
        signals: &mut Signals,
        stopped: Stopped,
    ) -> Result<(), DaemonError> {
        let mut drained = false;
        let outcome = match stopped {
            Stopped::HandedOver { taken, frozen } => {
                self.end_in_favour_of(taken, frozen).await;
                return Ok(());
            }
            Stopped::Drain => {
                notify::stopping();
                drained = self.drain(config, signals).await;
                Ok(())
            }
            Stopped::AtOnce => {
                notify::stopping();
                tracing::info!("stopping at once");
                Ok(())
            }
            Stopped::Failed(error) => {
                notify::stopping();
                Err(error)
            }
        };
        if let Err(error) = self.routes.withdraw().await {
            tracing::warn!(%error, "a route may be left until the device is gone");
        }
        // A brain that is gone has nobody to say goodbye to.
        let _ = self.brain.ask(Node::leave).await;
        if !drained {
            self.withdraw_nat().await;
        }
        let close = async {
            tokio::join!(self.join.close(), self.overlay.close());
        };
        let last_answers = if drained { limits::LAST_ANSWERS } else { Duration::ZERO };
        let (closed, ()) = tokio::join!(
            tokio::time::timeout(limits::CLOSE_TIME, close),
            tokio::time::sleep(last_answers)
        );
        if closed.is_err() {
            // Agents that have moved do not answer here, and need not.
            tracing::debug!("some connections were not closed in time");
        }
        if drained {
            self.withdraw_nat().await;
        }
        self.engine.stop();
        // The paths were made by this process, which alone knows that they are of no use any more.
        let _ = std::fs::remove_file(&config.admin_socket);
        let _ = std::fs::remove_file(hand_over::socket_path(&config.admin_socket));
        tracing::info!("stopped");
        outcome
    }

    /// Routing daemons hear of removed routes at once, of those that go with the device later.
    async fn withdraw_nat(&mut self) {
        if let Err(error) = self.routes.withdraw_nat().await {
            tracing::warn!(%error, "a route may be left until the device is gone");
        }
    }

    /// Ends, though the proxy goes on: nothing is withdrawn, and nobody is told goodbye.
    async fn end_in_favour_of(self, taken: Taken, frozen: Frozen) {
        frozen.forever();
        // Nothing leaves from the agents' connections any more: they end by a reset of the new
        // process.
        self.engine.stop();
        notify::handed_over(taken.by);
        tracing::info!(process = taken.by, paused = ?taken.paused, "another process took over");
        self.successors.taken.send_replace(Some(taken));
        self.admin.finish().await;
    }

    /// Sends agents elsewhere, tells the mate of young connections, too, and withdraws the routes; then gives flows
    /// time to move. Whether they had it, and packets are still forwarded.
    async fn drain(&mut self, config: &Config, signals: &mut Signals) -> bool {
        tracing::info!(wait = ?config.drain_wait, "draining; another SIGTERM stops at once");
        if self.brain.ask(Node::drain).await.is_err() {
            return false;
        }
        if let Err(error) = self.withdraw().await {
            tracing::warn!(%error, "draining though a route stands");
        }
        let wait = tokio::time::sleep(config.drain_wait);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => return true,
                _ = &mut self.ended => return false,
                _ = signals.terminate.recv() => return false,
                _ = signals.interrupt.recv() => return false,
                Ok(()) = self.standby.changed() => self.stand_by().await,
            }
        }
    }
}
