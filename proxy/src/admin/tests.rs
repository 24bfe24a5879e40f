//! The admin API over a socket in a temporary directory, asked by `piasctl` itself.

use std::time::Duration;

use clap::Parser;
use pias_datapath::{
    counters::Path as Way, drop_reason::DropReason, explain::Step, xdp::layout::Mode,
};
use pias_protocol::time::Time;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::{
    brain::{self, Inlets, Outlets},
    ctl::{self, Cli},
    join_net::JoinNet,
    overlay_net::OverlayNetConfig,
    testing::{Operator, node_config},
};

/// A datapath that has seen one packet, and dropped two.
struct Still;

impl Datapath for Still {
    fn counters(&self) -> Result<Counters, EngineGone> {
        let mut counters = Counters::default();
        counters.count(Way::Echo);
        counters.count_drops(DropReason::HopLimit, 2);
        Ok(counters)
    }

    fn occupancy(&self) -> Result<Occupancy, EngineGone> {
        Ok(Occupancy::default())
    }

    fn fast(&self) -> Result<FastView, EngineGone> {
        let busy = Err("another program is there".to_owned());
        Ok(FastView {
            interfaces: vec![("eth0".to_owned(), Ok(Mode::Native)), ("eth1".to_owned(), busy)],
        })
    }

    fn flows(&self, _groups: Vec<GroupKey>, _limit: usize) -> Result<Vec<FlowView>, EngineGone> {
        Ok(Vec::new())
    }

    fn explain(&self, client: SocketAddr, group: GroupKey) -> Result<Explanation, EngineGone> {
        Ok(Explanation { client, group, steps: vec![Step::NotPinned, Step::Missed] })
    }
}

/// A datapath whose engine hangs.
struct Hung;

impl Datapath for Hung {
    fn counters(&self) -> Result<Counters, EngineGone> {
        Err(EngineGone)
    }

    fn occupancy(&self) -> Result<Occupancy, EngineGone> {
        Err(EngineGone)
    }

    fn fast(&self) -> Result<FastView, EngineGone> {
        Err(EngineGone)
    }

    fn flows(&self, _groups: Vec<GroupKey>, _limit: usize) -> Result<Vec<FlowView>, EngineGone> {
        Err(EngineGone)
    }

    fn explain(&self, _client: SocketAddr, _group: GroupKey) -> Result<Explanation, EngineGone> {
        Err(EngineGone)
    }
}

struct Daemon {
    operator: Operator,
    app: App,
    socket: PathBuf,
    announce: watch::Receiver<bool>,
    _datagrams: mpsc::Sender<pias_datapath::engine::Datagram>,
    _server: AdminServer,
}

fn daemon() -> Daemon {
    daemon_over(Still)
}

fn daemon_over(datapath: impl Datapath) -> Daemon {
    let operator = Operator::new(&["fra1"]);
    let (identity, reset_keys) = (operator.identity("fra1"), operator.reset_keys());
    let counters = DaemonCounters::default();
    let (input, inputs) = mpsc::channel(16);
    let (_, events) = mpsc::channel(1);
    let (datagrams, arrived) = mpsc::channel(1);
    let config = OverlayNetConfig {
        name: "fra1",
        unicast: &["127.0.0.1".parse().unwrap()],
        port: 0,
        identity: &identity,
        reset_keys: &reset_keys,
    };
    let overlay = OverlayNet::start(&config, input.clone(), counters.overlay.clone()).unwrap();
    let send = Box::new(|_| true);
    let join = JoinNet::start(&identity, &reset_keys, arrived, send, input, counters.join.clone())
        .unwrap();
    let (announcer, announce) = watch::channel(false);
    let outlets = Outlets {
        overlay: overlay.clone(),
        join,
        forward: Box::new(|_| {}),
        announce: announcer,
        standby: watch::channel(Vec::new()).0,
    };
    let (brain, orders) = brain::channel();
    let node = Node::new(node_config(), 7, Time::ZERO);
    brain::start(node, orders, Inlets { inputs, events }, outlets);
    let (_, taken) = watch::channel(None);
    let parts = Parts {
        brain,
        datapath: Box::new(datapath),
        overlay,
        counters,
        started: Instant::now(),
        successor: Mutex::new(hand_over::Command::new("/bin/false".into(), Vec::new())),
        taken,
    };
    let socket = operator.path().join("run/piasd.sock");
    let app = App::new(parts);
    let server = serve(app.clone(), PrivateListener::bind(&socket).unwrap().publish());
    Daemon { operator, app, socket, announce, _datagrams: datagrams, _server: server }
}

impl Daemon {
    async fn ctl(&self, arguments: &[&str]) -> Result<String, ctl::CtlError> {
        let socket = self.socket.to_str().unwrap();
        let cli = Cli::parse_from(["piasctl", "--socket", socket].iter().chain(arguments));
        let mut out = Vec::new();
        ctl::run(cli, &mut out).await.map(|()| String::from_utf8(out).unwrap())
    }

    async fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let arguments: Vec<_> = arguments.iter().copied().chain(["-o", "json"]).collect();
        serde_json::from_str(&self.ctl(&arguments).await.unwrap()).unwrap()
    }
}

#[tokio::test]
async fn a_daemon_whose_engine_hangs_is_not_alive_though_its_overlay_answers() {
    assert!(daemon().app.is_alive().await);
    assert!(!daemon_over(Hung).app.is_alive().await);
}

#[tokio::test]
async fn the_status_has_the_figures_of_overlay_and_datapath() {
    let daemon = daemon();
    let status = daemon.json(&["status"]).await;
    assert_eq!((&status["name"], &status["cluster"]), (&"fra1".into(), &"fra".into()));
    assert_eq!(status["engine"]["paths"]["echo"], 1);
    assert_eq!(status["engine"]["dropped"], 2);
    assert!(status["ready"].is_boolean() && status["uptime_s"].is_u64());
    let shown = daemon.ctl(&["status"]).await.unwrap();
    assert!(shown.contains("fra1 (cluster fra)") && shown.contains("echo"), "{shown}");
    assert_eq!(status["engine"]["kind"], "xdp");
    assert_eq!(status["engine"]["interfaces"][1]["reason"], "another program is there");
    assert!(shown.contains("xdp (eth0 native, eth1 not attached)"), "{shown}");
}

#[tokio::test]
async fn every_reason_of_a_drop_is_listed_even_those_that_never_happened() {
    let daemon = daemon();
    let drops = daemon.json(&["drops"]).await;
    let drops = drops["drops"].as_array().unwrap();
    assert_eq!(drops.len(), DropReason::ALL.len());
    assert!(drops.contains(&serde_json::json!({ "reason": "hop_limit", "packets": 2 })));
}

#[tokio::test]
async fn lists_are_lists_even_when_empty() {
    let daemon = daemon();
    for (question, field) in
        [("groups", "groups"), ("targets", "targets"), ("flows", "flows"), ("proxies", "proxies")]
    {
        assert!(daemon.json(&[question]).await[field].is_array(), "{question}");
        daemon.ctl(&[question]).await.unwrap();
    }
}

#[tokio::test]
async fn an_explanation_tells_the_flow_s_way() {
    let daemon = daemon();
    let shown = daemon.ctl(&["explain", "198.51.100.7:4000", "203.0.113.10:53/udp"]).await.unwrap();
    assert!(shown.contains("203.0.113.10:53/udp"), "{shown}");
    assert!(shown.contains("2. nothing is known of the group"), "{shown}");
    let shown = daemon.ctl(&["explain", "198.51.100.7", "203.0.113.10:53"]).await.unwrap();
    assert!(shown.contains("203.0.113.10:53/tcp"), "{shown}");
    assert!(shown.contains("write 198.51.100.7:PORT"), "{shown}");
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_answered_with_what_to_write() {
    let daemon = daemon();
    for question in ["group", "flows"] {
        let error = daemon.ctl(&[question, "203.0.113.10"]).await.unwrap_err();
        assert!(error.to_string().contains("write 203.0.113.10:53"), "{error}");
        assert_eq!(error.exit_code(), 1);
    }
    let error = daemon.ctl(&["explain", "me", "203.0.113.10:53"]).await.unwrap_err();
    assert!(error.to_string().contains("`me` is no client"), "{error}");
}

#[tokio::test]
async fn drain_reaches_the_overlay() {
    let mut daemon = daemon();
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, daemon.announce.wait_for(|ready| *ready))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(daemon.json(&["drain"]).await["draining"], true);
    assert_eq!(daemon.json(&["status"]).await["state"], "draining");
    assert!(!*daemon.announce.borrow());
}

#[tokio::test]
async fn the_socket_belongs_to_its_owner_alone_and_to_one_daemon() {
    let daemon = daemon();
    let mode = fs::metadata(&daemon.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(check_free(&daemon.socket), Err(ServeError::Taken(_))));
}

#[tokio::test]
async fn a_socket_that_a_dead_daemon_left_is_replaced() {
    let daemon = daemon();
    let left = daemon.operator.path().join("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    check_free(&left).unwrap();
    let listener = PrivateListener::bind(&left).unwrap().publish();
    let _server = serve(daemon.app.clone(), listener);
    let answered = tokio::net::UnixStream::connect(&left).await;
    assert!(answered.is_ok(), "{answered:?}");
}

#[tokio::test]
async fn a_socket_that_is_never_published_leaves_nothing_behind() {
    let operator = Operator::new(&["fra1"]);
    let directory = operator.path().join("run");
    let socket = directory.join("piasd.sock");
    let found = || std::fs::read_dir(&directory).unwrap().count();
    let listener = PrivateListener::bind(&socket).unwrap();
    assert_eq!(found(), 1);
    drop(listener);
    assert_eq!(found(), 0, "a process that could not take over");
    let _published = PrivateListener::bind(&socket).unwrap().publish();
    assert!(socket.exists());
}

#[tokio::test]
async fn an_upgrade_to_what_does_not_accept_the_configuration_says_so_and_changes_nothing() {
    let daemon = daemon();
    let error = daemon.ctl(&["upgrade"]).await.unwrap_err().to_string();
    assert!(error.contains("/bin/false does not accept the configuration"), "{error}");
    let error = daemon.ctl(&["upgrade", "/no/such/program"]).await.unwrap_err().to_string();
    assert!(error.contains("cannot run /no/such/program"), "{error}");
    // It accepts everything, and ends.
    let error = daemon.ctl(&["upgrade", "/bin/true"]).await.unwrap_err().to_string();
    assert!(error.contains("did not take over, and this piasd goes on"), "{error}");
    assert_eq!(daemon.json(&["status"]).await["name"], "fra1");
}

#[tokio::test]
async fn metrics_have_names_units_and_help() {
    let daemon = daemon();
    let text = metrics::render(&daemon.app).await.unwrap();
    for line in [
        "# HELP pias_drops Packets that went no further, by reason.",
        "pias_drops_total{reason=\"hop_limit\"} 2",
        "pias_drops_total{reason=\"malformed\"} 0",
        "pias_packets_total{path=\"echo\"} 1",
        "# UNIT pias_uptime_seconds seconds",
        "pias_queue_drops_total{queue=\"brain\"} 0",
        "pias_targets{state=\"up\"} 0",
        "pias_xdp_attached{interface=\"eth0\",mode=\"native\"} 1",
        "pias_xdp_attached{interface=\"eth1\",mode=\"none\"} 0",
        "# EOF",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
}
