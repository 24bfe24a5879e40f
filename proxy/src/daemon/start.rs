//! Starting all parts, anew or with what another process handed over.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use pias_datapath::{
    engine::{self, EngineConfig, EngineFailure, FastConfig, HandOver, Hooks, Prepared},
    limits::Limits,
    pipeline::{PipelineConfig, Tables},
};
use pias_overlay::{Node, NodeConfig, NodeState};
use pias_protocol::{ids::ProxyId, time::Time};
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use super::{DaemonError, Running, Successors};
use crate::{
    admin::{self, App, Parts, PrivateListener},
    brain::{self, Inlets, Outlets},
    config::{self, Config},
    hand_over::{self, Command, Legacy},
    host, incarnation, interfaces,
    join_net::JoinNet,
    limits,
    log_limit::LogLimit,
    metrics::DaemonCounters,
    notify,
    overlay_net::{OverlayNet, OverlayNetConfig},
    routes::Routes,
};

/// Where systemd and most others mount it.
const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";

/// A legacy, in the parts that use it.
#[derive(Default)]
struct Handed {
    engine: Option<HandOver>,
    node: Option<NodeState>,
    overlay: Option<Vec<std::net::UdpSocket>>,
    metrics: Option<TcpListener>,
}

impl From<Legacy> for Handed {
    fn from(legacy: Legacy) -> Self {
        let Legacy { engine, node, overlay, metrics } = legacy;
        Self {
            engine: Some(engine),
            node: Some(node),
            overlay: Some(overlay),
            metrics: Some(metrics),
        }
    }
}

impl Running {
    /// Starts all parts. With a legacy nothing is read or sent before all that can fail is done, so
    /// that on an error the other process can go on.
    pub(super) async fn start(
        config: &Config,
        command: Command,
        legacy: Option<(Legacy, EngineConfig, Prepared)>,
    ) -> Result<Self, DaemonError> {
        let anew = legacy.is_none();
        let (handed, engine_config, prepared) = match legacy {
            Some((legacy, config, prepared)) => (legacy.into(), config, Some(prepared)),
            None => (Handed::default(), engine_config(config).await?, None),
        };
        if anew {
            admin::check_free(&config.admin_socket)?;
        }
        let counters = DaemonCounters::default();
        let (input, inputs) = mpsc::channel(limits::BRAIN_INPUTS);
        let (event, events) = mpsc::channel(limits::BRAIN_EVENTS);
        let (datagram, datagrams) = mpsc::channel(limits::REGISTRATION_QUEUE);
        let (end, ended) = oneshot::channel();
        let hooks = hooks(event, datagram, end);
        let to_take = handed.engine.zip(prepared);
        let (engine, flows) = start_engine(engine_config, hooks, to_take)?;
        let overlay = start_overlay(config, handed.overlay, input.clone(), &counters)?;
        let join = start_join(config, engine.handle(), datagrams, input, &counters)?;
        let (announcer, announce) = watch::channel(false);
        let (stander, standby) = watch::channel(Vec::new());
        let outlets = Outlets {
            overlay: overlay.clone(),
            join: join.clone(),
            forward: forward(engine.handle()),
            announce: announcer,
            standby: stander,
        };
        let (brain, orders) = brain::channel();
        let (taken, watched) = watch::channel(None);
        let app = App::new(Parts {
            brain: brain.clone(),
            datapath: Box::new(engine.handle()),
            overlay: overlay.clone(),
            counters,
            started: Instant::now(),
            successor: Mutex::new(command),
            taken: watched,
        });
        let metrics = serve_metrics(config, app.clone(), handed.metrics)?;
        let questions = PrivateListener::bind(&config.admin_socket)?;
        let successions = PrivateListener::bind(&hand_over::socket_path(&config.admin_socket))?;
        let mut routes = Routes::new(engine.device_index(), config.anycast.clone(), &config.nat)?;
        let node = start_node(config, handed.node, &mut routes)?;

        // From here on nothing can fail but the engine, and its end is this process's.
        overlay.open();
        brain::start(node, orders, Inlets { inputs, events }, outlets);
        if let Some(flows) = flows {
            go_on(&engine.handle(), flows);
        }
        tokio::spawn(notify::watch(app.clone()));
        let admin = admin::serve(app, questions.publish());
        let successors = Successors::new(successions.publish(), taken);
        say_started(config, engine.device_name(), anew);
        Ok(Self {
            engine,
            ended,
            overlay,
            join,
            brain,
            routes,
            announce,
            standby,
            admin,
            metrics: Arc::new(metrics),
            successors,
        })
    }
}

fn say_started(config: &Config, device: &str, anew: bool) {
    let Config { name, cluster, .. } = config;
    if anew {
        tracing::info!(name, cluster, device, "started, not announced yet");
    } else {
        tracing::info!(name, cluster, device, "started, in the place of another process");
    }
    tracing::warn!(
        "joins are open: whoever reaches the registration port may join any group; \
         admit only your own targets' networks to it"
    );
}

fn hooks(
    event: mpsc::Sender<pias_protocol::forwarding::ForwardingEvent>,
    datagram: mpsc::Sender<engine::Datagram>,
    end: oneshot::Sender<Result<(), EngineFailure>>,
) -> Hooks {
    Hooks {
        event: Box::new(move |happened| event.try_send(happened).is_ok()),
        registration: Box::new(move |arrived| datagram.try_send(arrived).is_ok()),
        ended: Box::new(move |outcome| {
            // After the end nobody waits for it any more.
            let _ = end.send(outcome);
        }),
    }
}

/// The engine. One that goes on with flows is to be told of them when it knows proxies and targets.
fn start_engine(
    config: EngineConfig,
    hooks: Hooks,
    handed: Option<(HandOver, Prepared)>,
) -> Result<(engine::Engine, Option<Tables>), DaemonError> {
    if let Some((HandOver { device, tunnels, tables }, prepared)) = handed {
        let engine = engine::take_over(config, hooks, prepared, device, tunnels)?;
        return Ok((engine, Some(tables)));
    }
    let engine = engine::start(config, hooks)?;
    host::prepare(engine.device_name());
    Ok((engine, None))
}

/// Lets an engine that was told of proxies and targets go on with flows.
fn go_on(engine: &engine::EngineHandle, flows: Tables) {
    if engine.adopt(flows).and_then(|()| engine.resume()).is_err() {
        tracing::error!("the datapath has ended before it began");
    }
}

fn start_join(
    config: &Config,
    engine: engine::EngineHandle,
    datagrams: mpsc::Receiver<engine::Datagram>,
    input: mpsc::Sender<brain::Input>,
    counters: &DaemonCounters,
) -> Result<JoinNet, DaemonError> {
    Ok(JoinNet::start(
        &config.identity,
        &config.reset_keys,
        datagrams,
        Box::new(move |datagram| engine.send_registration(datagram)),
        input,
        counters.join.clone(),
    )?)
}

fn start_node(
    config: &Config,
    handed: Option<NodeState>,
    routes: &mut Routes,
) -> Result<Node, DaemonError> {
    let (node_config, seed) = (node_config(config), random()?);
    Ok(match handed {
        Some(state) => {
            routes.assume(&state.own.standby);
            Node::take_over(node_config, state, seed, Time::ZERO)
        }
        None => Node::new(node_config, seed, Time::ZERO),
    })
}

fn start_overlay(
    config: &Config,
    handed: Option<Vec<std::net::UdpSocket>>,
    input: mpsc::Sender<brain::Input>,
    counters: &DaemonCounters,
) -> Result<OverlayNet, DaemonError> {
    let net = OverlayNetConfig {
        name: &config.name,
        unicast: &config.unicast,
        port: config.overlay_port,
        identity: &config.identity,
        reset_keys: &config.reset_keys,
    };
    let counters = counters.overlay.clone();
    Ok(match handed {
        Some(sockets) => OverlayNet::take_over(sockets, &net, input, counters)?,
        None => OverlayNet::start(&net, input, counters)?,
    })
}

/// Serves metrics at the listener that was handed over, unless the configuration names another address
/// by now.
fn serve_metrics(
    config: &Config,
    app: App,
    handed: Option<TcpListener>,
) -> Result<TcpListener, DaemonError> {
    let same = |listener: &TcpListener| listener.local_addr().is_ok_and(|a| a == config.metrics);
    let listener = match handed.filter(same) {
        Some(listener) => listener,
        None => admin::bind_metrics(config.metrics)?,
    };
    admin::serve_metrics(app, listener.try_clone().map_err(admin::ServeError::Listen)?)?;
    Ok(listener)
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

pub(super) async fn engine_config(config: &Config) -> Result<EngineConfig, DaemonError> {
    Ok(EngineConfig {
        device: config.device.clone(),
        pins: pins(&config.device),
        fast: fast_config(config).await?,
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

/// Where XDP's files are. A BPF file system may be seen from several network namespaces, each of which can have
/// a device of this name.
fn pins(device: &str) -> PathBuf {
    let namespace = fs::metadata("/proc/self/ns/net").map_or(0, |file| file.ino());
    Path::new(BPF_FILE_SYSTEM).join(format!("pias-{device}-{namespace}"))
}

/// Where XDP shall work. With `auto`, what is wrong with that is told, and no more.
async fn fast_config(config: &Config) -> Result<Option<FastConfig>, DaemonError> {
    let required = match config.engine {
        config::Engine::Tun => return Ok(None),
        config::Engine::Auto => false,
        config::Engine::Xdp => true,
    };
    match interfaces::find(&config.interfaces).await {
        Ok(interfaces) => Ok(Some(FastConfig { interfaces, required })),
        Err(error) if required => Err(error.into()),
        Err(error) => {
            tracing::warn!("the TUN engine forwards alone: {error}");
            Ok(None)
        }
    }
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

pub(super) fn random() -> Result<u64, DaemonError> {
    let mut octets = [0; 8];
    aws_lc_rs::rand::fill(&mut octets).map_err(|_| DaemonError::Random)?;
    Ok(u64::from_ne_bytes(octets))
}
