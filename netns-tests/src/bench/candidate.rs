//! What is compared.

use std::net::Ipv4Addr;

use clap::ValueEnum;

use super::places::{
    ANYCAST, ANYCAST_FAR, FAR, NEAR, NEAR_ADDRESS, TARGET, TARGET_ADDRESS, TARGET_FAR,
    TARGET_FAR_ADDRESS,
};
use super::{BenchError, baseline, measure, pias};
use crate::lab::Lab;

/// A way from the client to a server. Only what a candidate's turn needs runs
/// in its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Candidate {
    /// `near` routes, and nothing else.
    Plain,
    /// `near` rewrites destination and source with nftables.
    Nftables,
    /// `near` runs nginx with its `stream` module.
    Nginx,
    /// `near` is ingress, rendezvous and join proxy at once.
    Pias,
    /// `near` and `far` route, and nothing else.
    PlainTwo,
    /// `near` is the ingress, `far` the join proxy.
    PiasTunnel,
}

impl Candidate {
    /// All, in the order of their turns.
    pub(super) const ALL: [Candidate; 6] = [
        Candidate::Plain,
        Candidate::Nftables,
        Candidate::Nginx,
        Candidate::Pias,
        Candidate::PlainTwo,
        Candidate::PiasTunnel,
    ];

    /// What PIAS is compared to, on as many hosts.
    pub(super) const BASELINES: [Candidate; 3] =
        [Candidate::Plain, Candidate::Nftables, Candidate::Nginx];

    /// Its name in tables and rows.
    pub(super) fn title(self) -> &'static str {
        match self {
            Candidate::Plain => "plain forwarding",
            Candidate::Nftables => "nftables DNAT",
            Candidate::Nginx => "nginx stream",
            Candidate::Pias => "PIAS",
            Candidate::PlainTwo => "plain, two hosts",
            Candidate::PiasTunnel => "PIAS, tunnel",
        }
    }

    /// Where clients find the service in its turn.
    pub(super) fn address(self) -> Ipv4Addr {
        match self {
            Candidate::Plain => TARGET_ADDRESS,
            Candidate::Nftables | Candidate::Nginx => NEAR_ADDRESS,
            Candidate::Pias => ANYCAST,
            Candidate::PlainTwo => TARGET_FAR_ADDRESS,
            Candidate::PiasTunnel => ANYCAST_FAR,
        }
    }

    /// Whether PIAS's programs must be there.
    pub(super) fn needs_pias(self) -> bool {
        matches!(self, Candidate::Pias | Candidate::PiasTunnel)
    }

    /// Starts what it needs, and returns when clients are served.
    pub(super) fn start(self, lab: &Lab) -> Result<(), BenchError> {
        match self {
            Candidate::Plain | Candidate::PlainTwo => {}
            Candidate::Nftables => baseline::start_nftables(lab, &baseline::services())?,
            Candidate::Nginx => baseline::start_nginx(lab)?,
            Candidate::Pias => pias::start(lab, &[NEAR], TARGET, ANYCAST)?,
            Candidate::PiasTunnel => pias::start(lab, &[FAR, NEAR], TARGET_FAR, ANYCAST_FAR)?,
        }
        measure::wait_served(lab, self)
    }

    /// Ends what it started.
    pub(super) fn stop(self, lab: &Lab) -> Result<(), BenchError> {
        match self {
            Candidate::Plain | Candidate::PlainTwo => Ok(()),
            Candidate::Nftables => baseline::stop_nftables(lab),
            Candidate::Nginx => baseline::stop_process(lab, NEAR, "nginx"),
            Candidate::Pias => pias::stop(lab, &[NEAR], TARGET),
            Candidate::PiasTunnel => pias::stop(lab, &[FAR, NEAR], TARGET_FAR),
        }
    }
}
