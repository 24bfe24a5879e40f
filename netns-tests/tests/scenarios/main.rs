//! What PIAS does for its users, each test a scenario on real traffic: real
//! routing daemons, real servers and unmodified clients in the lab.
//!
//! Figures that a scenario measured are on its standard output
//! (`cargo test --test scenarios -- --nocapture`).

mod drain_load;
mod hostile;
mod icmp;
mod losses;
mod machine;
mod many_targets;
mod paths;
mod proxies;
mod service;
mod split;
mod stage;
mod table1_ingress;
mod table1_join;
mod table1_pop;
mod table1_rendezvous;
mod table1_target;
mod targets;
mod underlay;
mod upgrade;
mod watch;
