//! The brain of a proxy, sans-IO: it is told what happened and what time it is, and answers with
//! what to do. The daemon and the simulator run it alike.
//!
//! ```text
//!   agents ─► join ──counts──► rendezvous ──lists──► ingress ─► datapath
//!               │                  ▲  ▲                 │
//!               └── ring ──────────┘  └── select ◄── proximity
//!                     ▲                                 ▲
//!                     └─────────── membership ──────────┘
//! ```

mod config;
mod counters;
mod effect;
mod events;
mod flows;
mod hand_over;
mod ingress;
mod join;
mod leases;
mod limits;
mod membership;
mod node;
mod notice;
mod outbox;
mod paced;
mod proximity;
mod random;
mod rendezvous;
mod reporting;
mod ring;
mod select;
mod show;
mod timers;
mod timing;
mod view;
mod world;

pub use config::{DEFAULT_HEARTBEAT, NodeConfig, Policy, Seed};
pub use counters::Counters;
pub use effect::{AgentId, CloseReason, Deadline, Delivery, Effect, StandbyAddress, Timer};
pub use hand_over::{NodeState, OwnState};
pub use membership::{MembersSnapshot, Shelf};
pub use node::Node;
pub use notice::{GoneWhy, Notice};
pub use reporting::{Listener, Reporter};
pub use view::{
    CandidateView, CountView, ExplainView, GroupDetailView, GroupView, ProxyView, StatusView,
    TargetView,
};
