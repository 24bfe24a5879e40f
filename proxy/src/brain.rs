//! The task that owns the overlay's [`Node`]: inputs in, effects out, and the clock.
//!
//! ```text
//!  peers, agents ──Input──►┐                    ┌──► connections to peers
//!  datapath ──────event───►│  Node, one task    │──► agents
//!  admin API ───question──►┘  next_timeout ⟲    └──► datapath, routes, log
//! ```

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use pias_overlay::{AgentId, Effect, Node, NodeState, Notice, StandbyAddress};
use pias_protocol::{
    agent::AgentMessage,
    forwarding::{ForwardingEvent, ForwardingUpdate},
    ids::ProxyId,
    overlay::{AgentLink, OverlayMessage},
    time::Time,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{join_net::JoinNet, limits, log_limit::LogLimit, overlay_net::OverlayNet};

/// What peers and agents did.
#[derive(Debug)]
pub enum Input {
    /// A proxy, known by its certificate, says something.
    Message {
        /// Who.
        from: ProxyId,
        /// What.
        message: OverlayMessage,
    },
    /// A proxy cannot be connected to.
    PeerUnreachable(ProxyId),
    /// What was said to a proxy may not have arrived: its connection is lost, or was.
    Undelivered(ProxyId),
    /// An agent opened its stream.
    AgentConnected {
        /// Its number from now on.
        agent: AgentId,
        /// Where it is, and how others could reset it.
        link: AgentLink,
    },
    /// An agent says something.
    AgentMessage {
        /// Who.
        agent: AgentId,
        /// What.
        message: AgentMessage,
    },
    /// An agent's connection is gone.
    AgentClosed(AgentId),
}

/// Something to be asked of the node, or done to it.
type Question = Box<dyn FnOnce(&mut Node, Time) + Send>;

/// What the brain is told beside its inputs.
enum Order {
    Ask(Question),
    /// To tell its state, `None` if the proxy is not in service, and to do nothing until the other
    /// end of `thaw` is dropped.
    Freeze {
        state: oneshot::Sender<Option<NodeState>>,
        thaw: oneshot::Receiver<Infallible>,
    },
}

/// Keeps a frozen brain frozen until it is dropped.
pub struct Thaw {
    /// Its drop is heard.
    _keep: oneshot::Sender<Infallible>,
}

/// Where the brain hears its orders.
pub struct Orders(mpsc::Receiver<Order>);

/// Applies an update to the datapath.
pub type Forward = Box<dyn FnMut(ForwardingUpdate) + Send>;

/// Where effects go.
pub struct Outlets {
    /// Connections to peers.
    pub overlay: OverlayNet,
    /// Connections to agents.
    pub join: JoinNet,
    /// The datapath.
    pub forward: Forward,
    /// Whether the routes should be installed.
    pub announce: watch::Sender<bool>,
    /// The mates' NAT addresses that should be routed here as a last resort.
    pub standby: watch::Sender<Vec<StandbyAddress>>,
}

/// Where inputs come from.
pub struct Inlets {
    /// Peers and agents.
    pub inputs: mpsc::Receiver<Input>,
    /// The datapath.
    pub events: mpsc::Receiver<ForwardingEvent>,
}

/// Asks the brain. Clones ask the same one.
#[derive(Clone)]
pub struct BrainHandle(mpsc::Sender<Order>);

/// The brain has stopped, or does not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the overlay has stopped or does not answer")]
pub struct BrainGone;

impl BrainHandle {
    /// What `question` finds in the node, or does to it.
    ///
    /// # Errors
    /// [`BrainGone`], after [`limits::ADMIN_TIME`] at the latest.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Node, Time) -> T + Send + 'static,
    ) -> Result<T, BrainGone> {
        let (answer, answered) = oneshot::channel();
        let question = Box::new(move |node: &mut Node, now| {
            // Who asked may have given up.
            let _ = answer.send(question(node, now));
        });
        let ask = async {
            self.0.send(Order::Ask(question)).await.map_err(|_| BrainGone)?;
            answered.await.map_err(|_| BrainGone)
        };
        tokio::time::timeout(limits::ADMIN_TIME, ask).await.map_err(|_| BrainGone)?
    }

    /// Lets the brain stand still, until what is returned last is dropped: what it knows, `None` if
    /// the proxy is not in service. What happens meanwhile waits in queues.
    ///
    /// # Errors
    /// [`BrainGone`], after [`limits::ADMIN_TIME`] at the latest; then it goes on.
    pub async fn freeze(&self) -> Result<(Option<NodeState>, Thaw), BrainGone> {
        let (state, stated) = oneshot::channel();
        let (keep, thaw) = oneshot::channel();
        let ask = async {
            self.0.send(Order::Freeze { state, thaw }).await.map_err(|_| BrainGone)?;
            stated.await.map_err(|_| BrainGone)
        };
        let state =
            tokio::time::timeout(limits::ADMIN_TIME, ask).await.map_err(|_| BrainGone)??;
        Ok((state, Thaw { _keep: keep }))
    }
}

/// A way to ask a brain that is not started yet, and what it will be started with.
#[must_use]
pub fn channel() -> (BrainHandle, Orders) {
    let (asker, orders) = mpsc::channel(limits::BRAIN_QUESTIONS);
    (BrainHandle(asker), Orders(orders))
}

/// Starts the brain that owns `node`, whose time begins. What the node has to say already is said
/// when this returns. The brain stops when all handles are gone.
pub fn start(node: Node, orders: Orders, inlets: Inlets, outlets: Outlets) {
    let mut brain = Brain { node, start: Instant::now(), outlets };
    brain.carry_out();
    tokio::spawn(brain.run(inlets, orders.0));
}

struct Brain {
    node: Node,
    start: Instant,
    outlets: Outlets,
}

impl Brain {
    async fn run(mut self, mut inlets: Inlets, mut orders: mpsc::Receiver<Order>) {
        let mut inputs = Vec::with_capacity(limits::BRAIN_BATCH);
        let mut events = Vec::with_capacity(limits::BRAIN_BATCH);
        loop {
            self.carry_out();
            let due = self.due();
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                order = orders.recv() => match order {
                    Some(order) => self.obey(order, &mut inlets).await,
                    None => return,
                },
                _ = inlets.inputs.recv_many(&mut inputs, limits::BRAIN_BATCH) => {}
                _ = inlets.events.recv_many(&mut events, limits::BRAIN_BATCH) => {}
            }
            for input in inputs.drain(..) {
                self.take(input);
                self.carry_out();
            }
            for event in events.drain(..) {
                self.happened(event);
            }
            // Asked after every turn, so that a stream of inputs cannot hold timers up.
            if self.due() <= Instant::now() {
                let now = self.now();
                self.node.handle_timeout(now);
            }
        }
    }

    async fn obey(&mut self, order: Order, inlets: &mut Inlets) {
        match order {
            Order::Ask(question) => {
                let now = self.now();
                question(&mut self.node, now);
            }
            Order::Freeze { state, thaw } => {
                // What was said last counts, too.
                while let Ok(input) = inlets.inputs.try_recv() {
                    self.take(input);
                }
                while let Ok(event) = inlets.events.try_recv() {
                    self.happened(event);
                }
                // The datapath tells its part of it later.
                self.carry_out();
                // Who froze it may have given up; then `thaw` ends at once.
                let _ = state.send(self.node.hand_over());
                let _ = thaw.await;
            }
        }
    }

    fn happened(&mut self, event: ForwardingEvent) {
        let now = self.now();
        self.node.handle_event(event, now);
        self.carry_out();
    }

    /// Microseconds since the start of the brain.
    fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn due(&self) -> Instant {
        /// A node without timers is looked at this often, which costs nothing.
        const SELDOM: Duration = Duration::from_secs(3600);
        match self.node.next_timeout() {
            Some(deadline) => self.start + Duration::from_micros(deadline.at.as_micros()),
            None => Instant::now() + SELDOM,
        }
    }

    fn take(&mut self, input: Input) {
        let now = self.now();
        match input {
            Input::Message { from, message } => self.node.handle_message(from, message, now),
            Input::PeerUnreachable(peer) => self.node.peer_unreachable(peer, now),
            Input::Undelivered(peer) => self.node.undelivered(peer, now),
            Input::AgentConnected { agent, link } => {
                self.node.agent_connected(agent, link, now);
            }
            Input::AgentMessage { agent, message } => self.node.agent_message(agent, message, now),
            Input::AgentClosed(agent) => self.node.agent_closed(agent, now),
        }
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.node.poll_effect() {
            let outlets = &mut self.outlets;
            match effect {
                Effect::Send { to, name, address, delivery, message } => {
                    outlets.overlay.send(to, &name, address, delivery, &message);
                }
                Effect::Forward(update) => (outlets.forward)(update),
                Effect::Agent { agent, message } => outlets.join.say(agent, message),
                Effect::CloseAgent { agent, reason } => {
                    outlets.join.close_agent(agent, reason.to_string());
                }
                Effect::ResetAgent(link) => outlets.join.reset(&link),
                Effect::Announce(ready) => {
                    outlets.announce.send_replace(ready);
                }
                Effect::StandBy(addresses) => {
                    outlets.standby.send_replace(addresses);
                }
                Effect::Notice(notice) => log(&notice),
            }
        }
    }
}

/// Writes a notice, unless too many of its kind were written in this second.
fn log(notice: &Notice) {
    static PROXIES: LogLimit = LogLimit::per_second(100);
    static RECORDS: LogLimit = LogLimit::new();
    static TARGETS: LogLimit = LogLimit::per_second(50);
    static REFUSALS: LogLimit = LogLimit::per_second(5);
    static OWN: LogLimit = LogLimit::per_second(10);
    let (limit, warn) = match notice {
        Notice::ClusterUp { .. } | Notice::ProxyUp { .. } | Notice::ProxyDraining { .. } => {
            (&PROXIES, false)
        }
        Notice::ClusterGone { .. } | Notice::ProxyGone { .. } | Notice::Inherited { .. } => {
            (&PROXIES, true)
        }
        Notice::RecordRefused { .. } => (&RECORDS, true),
        Notice::JoinRefused { .. } => (&REFUSALS, false),
        Notice::TargetDown { .. } => (&TARGETS, true),
        Notice::TargetJoined { .. } | Notice::TargetUp { .. } | Notice::TargetGone { .. } => {
            (&TARGETS, false)
        }
        Notice::Refuted { .. }
        | Notice::ClusterRefuted { .. }
        | Notice::Ready { .. }
        | Notice::Draining => (&OWN, false),
    };
    match (limit.permit(), warn) {
        (None, _) => {}
        (Some(0), true) => tracing::warn!("{notice}"),
        (Some(0), false) => tracing::info!("{notice}"),
        (Some(suppressed), true) => tracing::warn!(suppressed, "{notice}"),
        (Some(suppressed), false) => tracing::info!(suppressed, "{notice}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use pias_protocol::{
        flow::{FlowPhase, FlowRecord},
        hash::FlowKey,
        overlay::{FlowRecords, MemberRecord, MemberState, MemberUpdate},
    };

    use super::*;
    use crate::{
        metrics::DaemonCounters,
        overlay_net::OverlayNetConfig,
        testing::{Operator, node_config},
    };

    /// The proxy `fra1`, announced, with its mate `fra2`.
    fn paired() -> Node {
        let mut node = Node::new(node_config(), 7, Time::ZERO);
        node.handle_timeout(Time::from_micros(1_000_000));
        let mate = MemberRecord {
            name: "fra2".into(),
            cluster: "fra".into(),
            unicast: vec!["127.0.0.2".parse().unwrap()],
            nat: vec!["192.0.2.2".parse().unwrap()],
            incarnation: 1,
            state: MemberState::Up,
        };
        let update = MemberUpdate { pushed: true, members: vec![mate], clusters: vec![] };
        node.handle_message(ProxyId::of("fra2"), update.into(), Time::from_micros(1_000_000));
        node
    }

    #[tokio::test]
    async fn what_came_before_a_freeze_is_done_before_it() {
        let operator = Operator::new(&["fra1"]);
        let (identity, keys) = (operator.identity("fra1"), operator.reset_keys());
        let counters = DaemonCounters::default();
        let (input, inputs) = mpsc::channel(16);
        let (_event, events) = mpsc::channel(1);
        let (_datagram, arrived) = mpsc::channel(1);
        let unicast = ["127.0.0.1".parse().unwrap()];
        let net = OverlayNetConfig {
            name: "fra1",
            unicast: &unicast,
            port: 0,
            identity: &identity,
            reset_keys: &keys,
        };
        let overlay = OverlayNet::start(&net, input.clone(), counters.overlay.clone()).unwrap();
        let (send, to) = (Box::new(|_| true), input.clone());
        let join = JoinNet::start(&identity, &keys, arrived, send, to, counters.join).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let teller = told.clone();
        let outlets = Outlets {
            overlay,
            join,
            forward: Box::new(move |update| teller.lock().unwrap().push(update)),
            announce: watch::channel(false).0,
            standby: watch::channel(Vec::new()).0,
        };
        let record = FlowRecord {
            key: FlowKey {
                client: "192.0.2.9:4000".parse().unwrap(),
                group: "203.0.113.10:80/tcp".parse().unwrap(),
            },
            target: "10.0.0.1:80".parse().unwrap(),
            nat: "192.0.2.2:1024".parse().unwrap(),
            ingress: None,
            phase: FlowPhase::Open,
            client_finished: false,
            target_finished: false,
        };
        let (of, records) = (ProxyId::of("fra2"), vec![record]);
        let message = FlowRecords { records: records.clone() }.into();

        // The order to freeze is there first, and the message by the time that it is obeyed.
        let (brain, mut orders) = channel();
        let (state, stated) = oneshot::channel();
        let (_thaw, thawed) = oneshot::channel();
        brain.0.send(Order::Freeze { state, thaw: thawed }).await.unwrap();
        input.send(Input::Message { from: of, message }).await.unwrap();
        let mut brain = Brain { node: paired(), start: Instant::now(), outlets };
        let order = orders.0.recv().await.unwrap();
        tokio::spawn(async move { brain.obey(order, &mut Inlets { inputs, events }).await });
        assert!(stated.await.unwrap().is_some(), "it is in service");
        let held = ForwardingUpdate::Standby { of, records };
        assert!(told.lock().unwrap().contains(&held));
    }
}
