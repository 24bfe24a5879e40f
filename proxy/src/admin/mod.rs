//! What operators and Prometheus ask: HTTP over a Unix socket (the admin API, for `piasctl`) and
//! over loopback TCP (`/metrics`, nothing else).
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /status`, `/proxies`, `/groups`, `/targets`, `/flows`, `/drops` | JSON, see [`views`] |
//! | `GET /group?group=AA:port[/tcp]` | all about one group |
//! | `GET /explain?client=IP:port&group=AA:port[/tcp]` | where a packet would go, and why |
//! | `POST /drain` | begins to drain |
//! | `POST /upgrade?program=PATH` | starts a new piasd, and answers when it has taken over |

mod explain;
pub mod metrics;
pub mod views;

use std::{
    convert::Infallible,
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use pias_datapath::{
    counters::Counters,
    engine::{EngineGone, EngineHandle, FastView},
    explain::Explanation,
    pipeline::{FlowView, Occupancy},
};
use pias_overlay::Node;
use pias_protocol::group::GroupKey;
use serde::Deserialize;
use tokio::{
    net::UnixListener,
    sync::{Mutex, oneshot, watch},
    task::{JoinHandle, spawn_blocking},
};

use crate::{
    brain::{BrainGone, BrainHandle},
    hand_over::{self, UpgradeError},
    limits,
    metrics::DaemonCounters,
    overlay_net::OverlayNet,
};

/// What is asked of the datapath; each call may block for as long as its engine takes.
pub trait Datapath: Send + Sync + 'static {
    /// What happened to packets.
    ///
    /// # Errors
    /// [`EngineGone`].
    fn counters(&self) -> Result<Counters, EngineGone>;
    /// How full the tables are.
    ///
    /// # Errors
    /// [`EngineGone`].
    fn occupancy(&self) -> Result<Occupancy, EngineGone>;
    /// What XDP does.
    ///
    /// # Errors
    /// [`EngineGone`].
    fn fast(&self) -> Result<FastView, EngineGone>;
    /// Up to `limit` flows of these groups, or of all if there are none.
    ///
    /// # Errors
    /// [`EngineGone`].
    fn flows(&self, groups: Vec<GroupKey>, limit: usize) -> Result<Vec<FlowView>, EngineGone>;
    /// Where a packet would go, and why.
    ///
    /// # Errors
    /// [`EngineGone`].
    fn explain(&self, client: SocketAddr, group: GroupKey) -> Result<Explanation, EngineGone>;
}

impl Datapath for EngineHandle {
    fn counters(&self) -> Result<Counters, EngineGone> {
        Self::counters(self)
    }

    fn occupancy(&self) -> Result<Occupancy, EngineGone> {
        Self::occupancy(self)
    }

    fn fast(&self) -> Result<FastView, EngineGone> {
        Self::fast(self)
    }

    fn flows(&self, groups: Vec<GroupKey>, limit: usize) -> Result<Vec<FlowView>, EngineGone> {
        Self::flows(self, groups, limit)
    }

    fn explain(&self, client: SocketAddr, group: GroupKey) -> Result<Explanation, EngineGone> {
        Self::explain(self, client, group)
    }
}

/// What the answers are made of. Clones are the same.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// The parts of an [`App`].
pub struct Parts {
    /// The overlay.
    pub brain: BrainHandle,
    /// The datapath.
    pub datapath: Box<dyn Datapath>,
    /// The connections to peers.
    pub overlay: OverlayNet,
    /// What the daemon counts.
    pub counters: DaemonCounters,
    /// When the daemon started.
    pub started: Instant,
    /// How its successor is started. Held by the one upgrade that is under way.
    pub successor: Mutex<hand_over::Command>,
    /// The process that took over, once there is one.
    pub taken: watch::Receiver<Option<Taken>>,
}

/// A hand-over that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The process that serves.
    pub by: u32,
    /// For how long packets waited.
    pub paused: Duration,
}

impl App {
    /// Answers made of these.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Whether both the overlay's task and the datapath's thread answer.
    pub async fn is_alive(&self) -> bool {
        let overlay = self.0.brain.ask(|_, _| ()).await;
        overlay.is_ok() && self.datapath(Datapath::occupancy).await.is_ok()
    }

    /// Asks the datapath without blocking the caller's thread.
    async fn datapath<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Datapath) -> Result<T, EngineGone> + Send + 'static,
    ) -> Result<T, ApiError> {
        let app = self.clone();
        let asked = spawn_blocking(move || question(app.0.datapath.as_ref())).await;
        Ok(asked.map_err(|_| EngineGone)??)
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The overlay does not answer.
    #[error(transparent)]
    Brain(#[from] BrainGone),
    /// The datapath does not answer.
    #[error(transparent)]
    Engine(#[from] EngineGone),
    /// The question is wrong.
    #[error("{0}")]
    Question(String),
    /// No other process took over.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    /// One at a time.
    #[error("an upgrade is under way")]
    Upgrading,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Brain(_) | Self::Engine(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Question(_) => StatusCode::BAD_REQUEST,
            Self::Upgrade(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Upgrading => StatusCode::CONFLICT,
        };
        (status, Json(serde_json::json!({ "error": self.to_string() }))).into_response()
    }
}

type Answer<T> = Result<Json<T>, ApiError>;

/// Why the admin API or the metrics cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be made.
    #[error("cannot serve the admin API at {path}: {source}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another piasd answers there.
    #[error("another piasd answers at {0}: stop it, or choose another socket under [admin]")]
    Taken(PathBuf),
    /// The metrics' listener cannot be used.
    #[error("cannot serve metrics: {0}")]
    Listen(#[source] io::Error),
    /// The address cannot be bound.
    #[error("cannot serve metrics at {address}: {source}; choose another address under [admin]")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Serves the admin API.
#[must_use]
pub fn serve(app: App, listener: UnixListener) -> AdminServer {
    let (end, ended) = oneshot::channel::<Infallible>();
    let serve = axum::serve(listener, router(app)).with_graceful_shutdown(async {
        // The other end is dropped.
        let _ = ended.await;
    });
    let task = tokio::spawn(async move {
        if let Err(error) = serve.await {
            tracing::error!(%error, "the admin API has ended");
        }
    });
    AdminServer { task, end }
}

/// The admin API's server. Where this is dropped, it takes no more questions.
pub struct AdminServer {
    task: JoinHandle<()>,
    end: oneshot::Sender<Infallible>,
}

impl AdminServer {
    /// Takes no more questions, and waits until those that were asked are answered, or
    /// [`limits::ANSWER_TIME`] is over.
    pub async fn finish(self) {
        drop(self.end);
        // Who still reads its answer then is too slow.
        let _ = tokio::time::timeout(limits::ANSWER_TIME, self.task).await;
    }
}

/// Whether another piasd answers at this socket.
///
/// # Errors
/// [`ServeError::Taken`].
pub fn check_free(path: &Path) -> Result<(), ServeError> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(ServeError::Taken(path.to_owned())),
        Err(_) => Ok(()),
    }
}

/// A Unix socket that its owner alone may use, and that nobody finds before it is published.
pub struct PrivateListener {
    listener: UnixListener,
    unborn: Unborn,
    path: PathBuf,
}

/// A socket's path until it is published. It goes with one that never is.
struct Unborn(PathBuf);

impl Drop for Unborn {
    fn drop(&mut self) {
        // Of a published one nothing is there.
        let _ = fs::remove_file(&self.0);
    }
}

impl PrivateListener {
    /// Makes the socket, under a name that nobody knows.
    ///
    /// # Errors
    /// [`ServeError::Socket`].
    pub fn bind(path: &Path) -> Result<Self, ServeError> {
        let socket = |source| ServeError::Socket { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(socket)?;
        }
        let mut unborn = path.as_os_str().to_owned();
        unborn.push(format!(".{}.new", std::process::id()));
        let unborn = Unborn(PathBuf::from(unborn));
        match fs::remove_file(&unborn.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(socket(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&unborn.0).map_err(socket)?;
        fs::set_permissions(&unborn.0, fs::Permissions::from_mode(0o600)).map_err(socket)?;
        Ok(Self { listener, unborn, path: path.to_owned() })
    }

    /// Puts it in the place of what was at its path.
    #[must_use]
    pub fn publish(self) -> UnixListener {
        if let Err(error) = fs::rename(&self.unborn.0, &self.path) {
            let path = self.path.display();
            tracing::error!(%error, "cannot put the socket in its place: nobody finds {path}");
        }
        self.listener
    }
}

/// Binds the address of `/metrics`.
///
/// # Errors
/// [`ServeError::Metrics`].
pub fn bind_metrics(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).map_err(|source| ServeError::Metrics { address, source })
}

/// Serves `/metrics`.
///
/// # Errors
/// As [`ServeError`] tells.
pub fn serve_metrics(app: App, listener: TcpListener) -> Result<(), ServeError> {
    let listen = || {
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    let listener = listen().map_err(ServeError::Listen)?;
    let router = Router::new().route("/metrics", get(scrape)).with_state(app);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "metrics have ended");
        }
    });
    Ok(())
}

fn router(app: App) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/proxies", get(proxies))
        .route("/groups", get(groups))
        .route("/group", get(group))
        .route("/targets", get(targets))
        .route("/flows", get(flows))
        .route("/drops", get(drops))
        .route("/explain", get(explained))
        .route("/drain", post(drain))
        .route("/upgrade", post(upgrade))
        .with_state(app)
}

async fn status(State(app): State<App>) -> Answer<views::Status> {
    let overlay = app.0.brain.ask(|node, _| node.status()).await?;
    let ask = |datapath: &dyn Datapath| {
        let (counters, tables) = (datapath.counters()?, datapath.occupancy()?);
        Ok(views::Engine::new(&counters, tables, &datapath.fast()?))
    };
    let engine = app.datapath(ask).await?;
    Ok(Json(views::Status {
        overlay,
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: app.0.started.elapsed().as_secs(),
        connections: app.0.overlay.open_connections(),
        engine,
    }))
}

async fn proxies(State(app): State<App>) -> Answer<views::Proxies> {
    let proxies = app.0.brain.ask(|node, now| node.proxies(now)).await?;
    Ok(Json(views::Proxies { proxies }))
}

async fn groups(State(app): State<App>) -> Answer<views::Groups> {
    let groups = app.0.brain.ask(|node, _| node.groups()).await?;
    Ok(Json(views::Groups { groups }))
}

async fn targets(State(app): State<App>) -> Answer<views::Targets> {
    let targets = app.0.brain.ask(|node, now| node.targets(now)).await?;
    Ok(Json(views::Targets { targets }))
}

#[derive(Deserialize)]
struct GroupQuestion {
    group: String,
}

async fn group(
    State(app): State<App>,
    Query(question): Query<GroupQuestion>,
) -> Answer<views::GroupDetails> {
    let keys = views::group_keys(&question.group)?;
    let ask = move |node: &mut Node, now| keys.iter().map(|key| node.group(key, now)).collect();
    Ok(Json(views::GroupDetails { groups: app.0.brain.ask(ask).await? }))
}

#[derive(Deserialize)]
struct FlowsQuestion {
    group: Option<String>,
}

async fn flows(
    State(app): State<App>,
    Query(question): Query<FlowsQuestion>,
) -> Answer<views::Flows> {
    let groups = question.group.as_deref().map_or(Ok(vec![]), views::group_keys)?;
    let proxies = app.0.brain.ask(|node, now| node.proxies(now)).await?;
    let names = views::Names::new(&proxies);
    let flows = app.datapath(|datapath| datapath.flows(groups, limits::FLOWS_LISTED)).await?;
    let flows = flows.iter().map(|flow| views::Flow::new(flow, &names)).collect();
    Ok(Json(views::Flows { flows }))
}

async fn drops(State(app): State<App>) -> Answer<views::Drops> {
    let counters = app.datapath(Datapath::counters).await?;
    Ok(Json(views::Drops::new(&counters)))
}

#[derive(Deserialize)]
struct ExplainQuestion {
    client: String,
    group: String,
}

async fn explained(
    State(app): State<App>,
    Query(question): Query<ExplainQuestion>,
) -> Answer<views::Explained> {
    // A group without protocol is asked about as TCP, as `piasctl explain` says.
    let group = views::group_keys(&question.group)?[0];
    let client = views::Client::parse(&question.client)?;
    let (overlay, proxies) = app
        .0
        .brain
        .ask(move |node, now| (node.explain(&group, client.socket), node.proxies(now)))
        .await?;
    let datapath = match client.socket {
        Some(socket) => {
            let names = views::Names::new(&proxies);
            let found = app.datapath(move |datapath| datapath.explain(socket, group)).await?;
            found.steps.iter().map(|step| explain::sentence(step, &names)).collect()
        }
        None => vec![format!(
            "write {}:PORT to see which way one flow takes through the datapath",
            client.address
        )],
    };
    Ok(Json(views::Explained { client: question.client, overlay, datapath }))
}

async fn drain(State(app): State<App>) -> Answer<views::Drained> {
    app.0.brain.ask(Node::drain).await?;
    tracing::info!("draining, as asked by piasctl");
    Ok(Json(views::Drained { draining: true }))
}

#[derive(Deserialize)]
struct UpgradeQuestion {
    program: Option<PathBuf>,
}

async fn upgrade(
    State(app): State<App>,
    Query(question): Query<UpgradeQuestion>,
) -> Answer<views::Upgraded> {
    let successor = app.0.successor.try_lock().map_err(|_| ApiError::Upgrading)?;
    let mut taken = app.0.taken.clone();
    let taken = async {
        let found = taken.wait_for(Option::is_some).await.ok().and_then(|taken| *taken);
        match found {
            Some(taken) => taken,
            // The daemon ends without a hand-over.
            None => std::future::pending().await,
        }
    };
    let taken = hand_over::upgrade(&successor, question.program.as_deref(), taken).await?;
    Ok(Json(views::Upgraded { pid: taken.by, paused_ms: taken.paused.as_secs_f64() * 1e3 }))
}

async fn scrape(State(app): State<App>) -> Result<Response, ApiError> {
    let text = metrics::render(&app).await?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

#[cfg(test)]
mod tests;
