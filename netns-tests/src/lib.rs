//! The lab: a small Internet on one machine, with real routing daemons, real
//! servers and unmodified clients, each host a network namespace.
//!
//! ```no_run
//! use pias_lab::{Lab, Options, Signal, Topology};
//!
//! let lab = Lab::up(&Topology::three_pops(), &Options::default())?;
//! let answer = lab.host("c-fra").ok(&["dig", "+short", "@10.1.11.2", "whoami", "TXT"])?;
//! assert_eq!(answer, "\"fra-t1\"\n");
//! lab.host("fra-t1").kill("nsd", Signal::SIGKILL)?;
//! lab.cut_link("fra-t2")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Dropping the [`Lab`] takes it down. Should this process die instead, the
//! kernel does: the lab's PID 1 reads a pipe whose other end dies with us, and
//! all its processes, namespaces, interfaces and mounts are held by PID 1's PID
//! namespace alone.
//!
//! | file | subject |
//! | --- | --- |
//! | `topology` | the TOML model and its checks |
//! | `plan`, `config` | pure: what to make, and the daemons' configurations |
//! | `namespace`, `network`, `process` | making it |
//! | `boot`, `keeper`, `control` | the lab's own processes, and talking to them |
//! | `linkemu` | delay, jitter, loss, rate and reordering |
//! | `tool` | what clients and targets run where Debian has no program for it |
//! | `lab`, `host`, `join`, `clients`, `stream`, `crowd`, `fault`, `capture`, `wait` | the library that tests use |

pub mod bench;
pub mod boot;
mod capture;
mod certificates;
mod clients;
mod config;
pub mod control;
mod crowd;
mod fault;
mod host;
mod join;
pub mod keeper;
mod lab;
pub mod limits;
pub mod linkemu;
pub mod namespace;
pub mod network;
mod plan;
pub mod process;
mod programs;
mod readiness;
mod stream;
pub mod testing;
pub mod tool;
pub mod topology;
mod wait;

pub use capture::{Capture, CaptureError};
pub use certificates::CertificateError;
pub use clients::{Answer, Transport, bracketed};
pub use crowd::{Crowd, Report, Reports};
pub use fault::Cut;
pub use host::{Host, Output, RunError, Signal};
pub use join::{Join, JoinError, Joined};
pub use lab::{BootTimes, Lab, Options, UpError, default_state_base};
pub use programs::{ENGINE_VARIABLE, MissingProgram, PROGRAMS_VARIABLE};
pub use readiness::NotReady;
pub use stream::{Questions, Stream, StreamError};
pub use tool::{Answered, FailedQuery, Heard, HoldReport, QueryReport, clock};
pub use topology::Topology;
pub use wait::{TimedOut, wait_for, wait_until};
