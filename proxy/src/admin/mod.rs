//! What operators and Prometheus ask: HTTP over a Unix socket (the admin API, for `piasctl`) and
//! over loopback TCP (`/metrics`, nothing else).
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /status`, `/proxies`, `/groups`, `/targets`, `/flows`, `/drops` | JSON, see [`views`] |
//! | `GET /group?group=AA:port[/tcp]` | all about one group |
//! | `GET /explain?client=IP:port&group=AA:port[/tcp]` | where a packet would go, and why |
//! | `POST /drain` | begins to drain |

mod explain;
pub mod metrics;
pub mod views;

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
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
    engine::{EngineGone, EngineHandle},
    explain::Explanation,
    pipeline::{FlowView, Occupancy},
};
use pias_overlay::Node;
use pias_protocol::group::GroupKey;
use serde::Deserialize;
use tokio::{
    net::{TcpListener, UnixListener},
    task::spawn_blocking,
};

use crate::{
    brain::{BrainGone, BrainHandle},
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
    /// Up to `limit` flows.
    ///
    /// # Errors
    /// [`EngineGone`].
    fn flows(&self, limit: usize) -> Result<Vec<FlowView>, EngineGone>;
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

    fn flows(&self, limit: usize) -> Result<Vec<FlowView>, EngineGone> {
        Self::flows(self, limit)
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
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Brain(_) | Self::Engine(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Question(_) => StatusCode::BAD_REQUEST,
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
    /// The address cannot be bound.
    #[error("cannot serve metrics at {address}: {source}; choose another address under [admin]")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Serves the admin API at a Unix socket that its owner alone may use.
///
/// # Errors
/// As [`ServeError`] tells.
pub fn serve_socket(app: App, path: &Path) -> Result<(), ServeError> {
    let socket = |source| ServeError::Socket { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(socket)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ServeError::Taken(path.to_owned()));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(socket(error)),
        _ => {}
    }
    // Bound under a name that nobody knows, so that nobody gets in before the mode is set.
    let unborn = path.with_extension(format!("{}.new", std::process::id()));
    let listener = UnixListener::bind(&unborn).map_err(socket)?;
    fs::set_permissions(&unborn, fs::Permissions::from_mode(0o600)).map_err(socket)?;
    fs::rename(&unborn, path).map_err(socket)?;
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router(app)).await {
            tracing::error!(%error, "the admin API has ended");
        }
    });
    Ok(())
}

/// Serves `/metrics`; the address that was bound.
///
/// # Errors
/// As [`ServeError`] tells.
pub async fn serve_metrics(app: App, address: SocketAddr) -> Result<SocketAddr, ServeError> {
    let bind = |source| ServeError::Metrics { address, source };
    let listener = TcpListener::bind(address).await.map_err(bind)?;
    let bound = listener.local_addr().map_err(bind)?;
    let router = Router::new().route("/metrics", get(scrape)).with_state(app);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "metrics have ended");
        }
    });
    Ok(bound)
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
        .with_state(app)
}

async fn status(State(app): State<App>) -> Answer<views::Status> {
    let overlay = app.0.brain.ask(|node, _| node.status()).await?;
    let (counters, occupancy) =
        app.datapath(|datapath| Ok((datapath.counters()?, datapath.occupancy()?))).await?;
    Ok(Json(views::Status {
        overlay,
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: app.0.started.elapsed().as_secs(),
        connections: app.0.overlay.open_connections(),
        engine: views::Engine::new(&counters, occupancy),
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

async fn flows(State(app): State<App>) -> Answer<views::Flows> {
    let proxies = app.0.brain.ask(|node, now| node.proxies(now)).await?;
    let names = views::Names::new(&proxies);
    let flows = app.datapath(|datapath| datapath.flows(limits::FLOWS_LISTED)).await?;
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

async fn scrape(State(app): State<App>) -> Result<Response, ApiError> {
    let text = metrics::render(&app).await?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

#[cfg(test)]
mod tests;
