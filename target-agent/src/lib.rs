//! Puts a service into an anycast group, and keeps it there.
//!
//! The agent connects (QUIC) to the anycast address of the group, so routing picks the proxy; joins;
//! keeps the membership alive; takes the target out while it is not healthy; and joins again,
//! through whichever proxy is nearest then, when the proxy is lost or drains.
//!
//! ```no_run
//! use pias_agent::{Agent, EventKind};
//!
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! let mut agent = Agent::builder()
//!     .certificate_authority(std::fs::read("/etc/pias/ca.pem")?)
//!     .group("203.0.113.10:53/udp")
//!     .start()?;
//!
//! while let Some(event) = agent.next().await {
//!     if let EventKind::Joined { proxy, rtt, .. } = event.kind {
//!         println!("{} is a member of {} through {proxy} ({rtt:?})", event.target.unwrap(), event.group);
//!         break;
//!     }
//! }
//!
//! // No new flows while this host is busy with something else:
//! agent.memberships()[0].set_healthy(false);
//! agent.memberships()[0].set_healthy(true);
//!
//! agent.leave().await;
//! # Ok(())
//! # }
//! ```
//!
//! | module | subject |
//! | --- | --- |
//! | `session` | the talk on one connection; no I/O, no clock |
//! | `registration` | which connections there are, and what the application hears; no I/O, no clock |
//! | `transport`, `driver` | QUIC and the clock around them |
//! | `check`, `health` | whether the local service works |
//! | [`config`], [`output`] | what the program `pias-join` reads and prints |
//! | [`limits`] | every bound |

mod agent;
mod backoff;
mod check;
pub mod config;
mod driver;
mod event;
mod group;
mod health;
pub mod limits;
pub mod output;
mod registration;
mod session;
mod target;
mod tls;
mod transport;

pub use pias_protocol::{
    agent::RefusalCode,
    group::{GroupKey, ParseGroupError, Protocol},
};

pub use self::{
    agent::{Agent, AgentBuilder, Membership, StartError},
    check::{Check, CheckTiming, HttpUrl, ParseCheckError},
    event::{Event, EventKind, Events, Observer},
    group::{Group, GroupError},
    registration::End,
    target::{ParseTargetError, Target, route_source},
    tls::TlsError,
};
