//! The daemon's life: start, announce, drain, stop.
//!
//! ```text
//!  start ─► engine ─► QUIC ─► brain ─► admin ─► (overlay ready) routes ─► READY=1
//!  SIGTERM ─► drain: routes withdrawn, agents sent elsewhere ─► wait ─► leave ─► stop
//!             a second SIGTERM, or a SIGINT: stop at once
//! ```

use std::time::Instant;

use pias_datapath::{
    engine::{self, EngineConfig, EngineFailure, Hooks},
    limits::Limits,
    pipeline::PipelineConfig,
};
use pias_overlay::{Node, NodeConfig, StandbyAddress};
use pias_protocol::ids::ProxyId;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
};

use crate::{
    admin::{self, App, Parts, ServeError},
    brain::{self, BrainHandle, Inlets, Outlets},
    config::Config,
    host, incarnation,
    join_net::{JoinNet, JoinNetError},
    limits,
    log_limit::LogLimit,
    metrics::DaemonCounters,
    notify,
    overlay_net::{OverlayNet, OverlayNetConfig, OverlayNetError},
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
    /// Routes cannot be changed.
    #[error(transparent)]
    Routes(#[from] RouteError),
    /// Operators cannot be served.
    #[error(transparent)]
    Admin(#[from] ServeError),
    /// Signals cannot be heard.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] std::io::Error),
    /// No randomness.
    #[error("the operating system gives no randomness")]
    Random,
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// As [`DaemonError`] tells.
pub async fn run(config: Config) -> Result<(), DaemonError> {
    let mut signals = Signals::new().map_err(DaemonError::Signals)?;
    notify::waiting("starting");
    let mut running = Running::start(&config).await?;
    let stopped = running.until_stopped(&mut signals).await;
    running.shut_down(&config, &mut signals, stopped).await
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
}

impl Running {
    async fn start(config: &Config) -> Result<Self, DaemonError> {
        let counters = DaemonCounters::default();
        let (input, inputs) = mpsc::channel(limits::BRAIN_INPUTS);
        let (event, events) = mpsc::channel(limits::BRAIN_EVENTS);
        let (datagram, datagrams) = mpsc::channel(limits::REGISTRATION_QUEUE);
        let (end, ended) = oneshot::channel();
        let hooks = Hooks {
            event: Box::new(move |happened| event.try_send(happened).is_ok()),
            registration: Box::new(move |arrived| datagram.try_send(arrived).is_ok()),
            ended: Box::new(move |outcome| {
                // After the end nobody waits for it any more.
                let _ = end.send(outcome);
            }),
        };
        let engine = engine::start(engine_config(config)?, hooks)?;
        host::prepare(engine.device_name());
        let overlay = OverlayNet::start(
            &OverlayNetConfig {
                name: &config.name,
                unicast: &config.unicast,
                port: config.overlay_port,
                identity: &config.identity,
                reset_keys: &config.reset_keys,
            },
            input.clone(),
            counters.overlay.clone(),
        )?;
        let sender = engine.handle();
        let join = JoinNet::start(
            &config.identity,
            &config.reset_keys,
            datagrams,
            Box::new(move |datagram| sender.send_registration(datagram)),
            input,
            counters.join.clone(),
        )?;
        tracing::warn!(
            "joins are open: whoever reaches the registration port may join any group; \
             admit only your own targets' networks to it"
        );
        let (announcer, announce) = watch::channel(false);
        let (stander, standby) = watch::channel(Vec::new());
        let outlets = Outlets {
            overlay: overlay.clone(),
            join: join.clone(),
            forward: forward(engine.handle()),
            announce: announcer,
            standby: stander,
        };
        let seed = random()?;
        let brain = brain::start(node_config(config), seed, Inlets { inputs, events }, outlets);
        let app = App::new(Parts {
            brain: brain.clone(),
            datapath: Box::new(engine.handle()),
            overlay: overlay.clone(),
            counters,
            started: Instant::now(),
        });
        admin::serve_socket(app.clone(), &config.admin_socket)?;
        tokio::spawn(notify::watch(app.clone()));
        admin::serve_metrics(app, config.metrics).await?;
        let routes = Routes::new(engine.device_index(), config.anycast.clone(), &config.nat)?;
        tracing::info!(
            name = config.name,
            cluster = config.cluster,
            device = engine.device_name(),
            "started, not announced yet"
        );
        Ok(Self { engine, ended, overlay, join, brain, routes, announce, standby })
    }

    /// Keeps the routes as the overlay wishes, until there is a reason to stop.
    async fn until_stopped(&mut self, signals: &mut Signals) -> Stopped {
        loop {
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
                _ = signals.terminate.recv() => return Stopped::Drain,
                _ = signals.interrupt.recv() => return Stopped::AtOnce,
            }
        }
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
            self.routes.withdraw().await?;
            tracing::info!("withdrawn: the routes of the anycast prefixes are removed");
            notify::waiting("not announced");
        }
        Ok(())
    }

    async fn shut_down(
        mut self,
        config: &Config,
        signals: &mut Signals,
        stopped: Stopped,
    ) -> Result<(), DaemonError> {
        notify::stopping();
        let outcome = match stopped {
            Stopped::Drain => {
                self.drain(config, signals).await;
                Ok(())
            }
            Stopped::AtOnce => {
                tracing::info!("stopping at once");
                Ok(())
            }
            Stopped::Failed(error) => Err(error),
        };
        if let Err(error) = self.routes.withdraw().await {
            tracing::warn!(%error, "a route may be left until the device is gone");
        }
        // A brain that is gone has nobody to say goodbye to.
        let _ = self.brain.ask(Node::leave).await;
        // Routing daemons hear of removed routes at once, of those that go with the device later.
        if let Err(error) = self.routes.withdraw_nat().await {
            tracing::warn!(%error, "a route may be left until the device is gone");
        }
        let close = async {
            tokio::join!(self.join.close(), self.overlay.close());
        };
        if tokio::time::timeout(limits::CLOSE_TIME, close).await.is_err() {
            // Agents that have moved do not answer here, and need not.
            tracing::debug!("some connections were not closed in time");
        }
        self.engine.stop();
        // The path was made by this process, which alone knows that it is of no use any more.
        let _ = std::fs::remove_file(&config.admin_socket);
        tracing::info!("stopped");
        outcome
    }

    /// Withdraws the routes and sends agents elsewhere, then gives flows time to move.
    async fn drain(&mut self, config: &Config, signals: &mut Signals) {
        tracing::info!(wait = ?config.drain_wait, "draining; another SIGTERM stops at once");
        if self.brain.ask(Node::drain).await.is_err() {
            return;
        }
        if let Err(error) = self.routes.withdraw().await {
            tracing::warn!(%error, "draining though a route stands");
        }
        let wait = tokio::time::sleep(config.drain_wait);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => return,
                _ = &mut self.ended => return,
                _ = signals.terminate.recv() => return,
                _ = signals.interrupt.recv() => return,
                Ok(()) = self.standby.changed() => self.stand_by().await,
            }
        }
    }
}

/// Updates for the datapath. One that is lost shows in the log, and the engine's end stops the
/// daemon.
fn forward(handle: engine::EngineHandle) -> brain::Forward {
    static LOST: LogLimit = LogLimit::new();
    Box::new(move |update| {
        if handle.update(update).is_err()
            && let Some(suppressed) = LOST.permit()
        {
            tracing::error!(suppressed, "the datapath did not take an update");
        }
    })
}

fn engine_config(config: &Config) -> Result<EngineConfig, DaemonError> {
    Ok(EngineConfig {
        device: config.device.clone(),
        pipeline: PipelineConfig {
            self_id: ProxyId::of(&config.name),
            anycast: config.anycast.clone(),
            nat: config.nat.clone(),
            unicast: config.unicast.clone(),
            underlay_mtu: config.mtu,
            limits: Limits::default(),
            seed: random()?,
        },
    })
}

fn node_config(config: &Config) -> NodeConfig {
    let (incarnation, kept) = incarnation::next(&config.state_directory);
    if let Err(error) = kept {
        let directory = config.state_directory.display();
        tracing::warn!(%error, "cannot keep state in {directory}: a clock that goes back would delay the next start");
    }
    NodeConfig {
        name: config.name.clone(),
        cluster: config.cluster.clone(),
        unicast: config.unicast.clone(),
        nat: config.nat.clone(),
        anycast: config.anycast.clone(),
        seeds: config.seeds.clone(),
        heartbeat: config.heartbeat,
        policies: config.groups.iter().copied().collect(),
        drain_wait: config.drain_wait,
        incarnation,
    }
}

fn random() -> Result<u64, DaemonError> {
    let mut octets = [0; 8];
    aws_lc_rs::rand::fill(&mut octets).map_err(|_| DaemonError::Random)?;
    Ok(u64::from_ne_bytes(octets))
}
