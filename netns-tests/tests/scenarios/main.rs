//! What PIAS does for its users, each test a scenario on real traffic: real
//! routing daemons, real servers and unmodified clients in the lab.
//!
//! Figures that a scenario measured are on its standard output
//! (`cargo test --test scenarios -- --nocapture`).

mod hostile;
mod icmp;
mod paths;
mod proxies;
mod service;
mod stage;
mod targets;
mod underlay;
