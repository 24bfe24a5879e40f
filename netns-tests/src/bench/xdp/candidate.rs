//! What is compared.

use clap::ValueEnum;
use pias_datapath::bench::traffic::{Attached, Counted, Kind, Program};

use super::rig::{Rig, Side, Stream};
use super::{GROUPS, PORT, TESTED_INTERFACES};
use crate::bench::pias::{self, Start};
use crate::bench::places::{
    ANYCAST, ANYCAST_FAR, CLIENT, FAR, NEAR, NEAR_ADDRESS, TARGET, TARGET_ADDRESS, TARGET_FAR,
};
use crate::bench::{BenchError, baseline};
use crate::lab::Lab;

/// So many that none comes again while it is measured.
pub(super) const EVER_NEW: u32 = 1 << 28;

/// The proxies; the first is there when the second is started for the first time.
const PROXIES: [&str; 2] = [FAR, NEAR];

/// Seconds that connection tracking remembers a UDP flow: it is not what is measured.
const REMEMBER: &str = "600";

/// What handles packets on the host under test, in its turn alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Candidate {
    /// `XDP_DROP`.
    Drop,
    /// `XDP_TX` with the addresses of the frame exchanged.
    Transmit,
    /// The kernel routes.
    Forwarding,
    /// nftables rewrites destination and source.
    Nftables,
    /// `piasd`.
    Pias,
    /// What is lost while `piasd` is replaced, and XDP with it.
    Upgrade,
    /// What a packet costs at the ingress, without a network.
    Cost,
    /// What tables take.
    Memory,
}

/// A way of packets through a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    Drop,
    Transmit,
    Forwarding,
    NftablesForward,
    NftablesReturn,
    Ingress,
    NewDatagrams,
    NewSyns,
    JoinForward,
    JoinReturn,
}

impl Way {
    /// Its name in tables and rows.
    pub(super) fn title(self) -> &'static str {
        match self {
            Way::Drop => "XDP_DROP",
            Way::Transmit => "XDP_TX with MAC swap",
            Way::Forwarding => "kernel forwarding",
            Way::NftablesForward => "nftables DNAT, forward",
            Way::NftablesReturn => "nftables DNAT, return",
            Way::Ingress => "PIAS ingress",
            Way::NewDatagrams => "PIAS ingress, new UDP flows",
            Way::NewSyns => "PIAS ingress, SYNs of new flows",
            Way::JoinForward => "PIAS JAP, forward",
            Way::JoinReturn => "PIAS JAP, return",
        }
    }

    /// With how many flows it is measured.
    pub(super) fn flows(self) -> &'static [u32] {
        match self {
            Way::NewDatagrams | Way::NewSyns => &[EVER_NEW],
            _ => &[1, 1 << 16, 1 << 20],
        }
    }

    /// What is sent, and where it comes out.
    pub(super) fn stream(self, flows: u32) -> Stream {
        let (from, kind, groups) = (Side::Client, Kind::ToGroup, GROUPS);
        let client = |to, out| Stream { from, kind, to, flows, groups, out };
        match self {
            Way::Drop => client(ANYCAST_FAR, Counted::Discarded),
            Way::Transmit => client(ANYCAST_FAR, Counted::AtClient),
            Way::Forwarding => client(TARGET_ADDRESS, Counted::AtTarget),
            Way::NftablesForward => client(NEAR_ADDRESS, Counted::AtTarget),
            Way::Ingress | Way::NewDatagrams => client(ANYCAST_FAR, Counted::AtFar),
            Way::NewSyns => {
                Stream { kind: Kind::SynToGroup, groups: 1, ..client(ANYCAST_FAR, Counted::AtFar) }
            }
            Way::JoinForward => Stream {
                from: Side::Far,
                kind: Kind::InTunnel,
                ..client(ANYCAST, Counted::AtTarget)
            },
            Way::NftablesReturn | Way::JoinReturn => Stream {
                from: Side::Target,
                kind: Kind::Answers,
                ..client(TARGET_ADDRESS, Counted::AtClient)
            },
        }
    }

    /// What makes flows known before they are measured, where that takes more than the measurement itself;
    /// the target answers it.
    pub(super) fn acquaintance(self, flows: u32) -> Option<Stream> {
        let forth = |way: Way| Stream { out: Counted::AtClient, ..way.stream(flows) };
        match self {
            Way::NftablesForward | Way::JoinForward => Some(forth(self)),
            Way::Ingress => Some(self.stream(flows)),
            _ => None,
        }
    }
}

impl Candidate {
    /// All, in the order of their turns.
    pub(super) const ALL: [Candidate; 8] = [
        Candidate::Drop,
        Candidate::Transmit,
        Candidate::Forwarding,
        Candidate::Nftables,
        Candidate::Pias,
        Candidate::Upgrade,
        Candidate::Cost,
        Candidate::Memory,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Candidate::Drop => Way::Drop.title(),
            Candidate::Transmit => Way::Transmit.title(),
            Candidate::Forwarding => Way::Forwarding.title(),
            Candidate::Nftables => "nftables DNAT",
            Candidate::Pias => "PIAS",
            Candidate::Upgrade => "upgrades under load",
            Candidate::Cost => "cost of a packet",
            Candidate::Memory => "memory",
        }
    }

    /// Whether it needs no lab.
    pub(super) fn is_alone(self) -> bool {
        matches!(self, Candidate::Cost | Candidate::Memory)
    }

    /// The ways that are measured, in this order: those back need those forth.
    pub(super) fn ways(self) -> &'static [Way] {
        match self {
            Candidate::Drop => &[Way::Drop],
            Candidate::Transmit => &[Way::Transmit],
            Candidate::Forwarding => &[Way::Forwarding],
            Candidate::Nftables => &[Way::NftablesForward, Way::NftablesReturn],
            Candidate::Pias => {
                &[Way::JoinForward, Way::JoinReturn, Way::Ingress, Way::NewDatagrams, Way::NewSyns]
            }
            Candidate::Upgrade | Candidate::Cost | Candidate::Memory => &[],
        }
    }

    /// Starts what it needs. What is attached goes with what is returned.
    pub(super) fn start(self, rig: &mut Rig<'_>) -> Result<Vec<Attached>, BenchError> {
        let attached = match self {
            Candidate::Drop => rig.attach(Program::Discard, &[CLIENT])?,
            Candidate::Transmit => rig.attach(Program::Bounce, &[CLIENT])?,
            Candidate::Forwarding | Candidate::Nftables => {
                rig.attach(Program::Pass, &TESTED_INTERFACES)?
            }
            _ => Vec::new(),
        };
        match self {
            Candidate::Nftables => start_nftables(rig)?,
            Candidate::Pias => start_pias(rig)?,
            _ => {}
        }
        rig.settle()?;
        Ok(attached)
    }

    /// Ends what it started.
    pub(super) fn stop(self, rig: &Rig<'_>) -> Result<(), BenchError> {
        match self {
            Candidate::Nftables => baseline::stop_nftables(rig.lab)?,
            Candidate::Pias => stop_pias(rig, "piasd")?,
            _ => {}
        }
        Ok(())
    }
}

fn start_nftables(rig: &Rig<'_>) -> Result<(), BenchError> {
    for name in ["udp_timeout", "udp_timeout_stream"] {
        let setting = format!("net.netfilter.nf_conntrack_{name}={REMEMBER}");
        rig.lab.host(NEAR).ok(&["sysctl", "-q", "-w", &setting])?;
    }
    let ports = format!("{PORT}-{}", u32::from(PORT) + GROUPS - 1);
    baseline::start_nftables(rig.lab, &ports)
}

/// Starts piasd on the host under test, on its core alone.
pub(super) fn start_near(
    rig: &Rig<'_>,
    name: &str,
    engine: &str,
    take_over: bool,
) -> Result<(), BenchError> {
    let interfaces = TESTED_INTERFACES.map(|name| format!("\"{name}\"")).join(", ");
    let more = format!("\n[datapath]\nengine = \"{engine}\"\ninterfaces = [{interfaces}]\n");
    let core = rig.cores.tested.to_string();
    let wrapper = ["taskset", "--cpu-list", &core];
    pias::start_proxy(
        rig.lab,
        NEAR,
        &PROXIES,
        Start { name, wrapper: &wrapper, more: &more, take_over },
    )
}

/// Ends the agents, and the proxies, that of the host under test by the name that it has by now.
pub(super) fn stop_pias(rig: &Rig<'_>, near: &str) -> Result<(), BenchError> {
    for target in [TARGET, TARGET_FAR] {
        baseline::stop_process(rig.lab, target, pias::AGENT)?;
    }
    baseline::stop_process(rig.lab, NEAR, near)?;
    baseline::stop_process(rig.lab, FAR, "piasd")
}

/// The ports of the groups.
fn ports() -> impl Iterator<Item = u16> {
    (0..GROUPS as u16).map(|number| PORT + number)
}

/// Puts something behind the targets' ports. Most of what is sent there is counted and not answered, and whoever
/// refuses a probe then is taken out.
pub(super) fn serve(lab: &Lab) -> Result<(), BenchError> {
    for target in [TARGET, TARGET_FAR] {
        for port in ports() {
            let (name, listen) = (format!("echo-{port}"), format!("UDP4-RECVFROM:{port},fork"));
            lab.host(target).spawn(&name, &["socat", &listen, "PIPE"])?;
        }
    }
    Ok(())
}

/// `near` is the ingress for the groups of `target-far`, whose join proxy is `far`, and the join proxy for
/// those of `target`.
pub(super) fn start_pias(rig: &Rig<'_>) -> Result<(), BenchError> {
    let lab = rig.lab;
    start_near(rig, "piasd", "xdp", false)?;
    pias::start_proxy(lab, FAR, &PROXIES, Start::PLAIN)?;
    for proxy in [NEAR, FAR] {
        pias::wait_ready(lab, proxy)?;
    }
    for (target, proxy, anycast) in [(TARGET, NEAR, ANYCAST), (TARGET_FAR, FAR, ANYCAST_FAR)] {
        let mut groups: Vec<_> = ports().map(|port| pias::group(anycast, port, "udp")).collect();
        groups.push(pias::group(anycast, PORT, "tcp"));
        pias::join(lab, target, proxy, &groups)?;
    }
    let know = || -> Result<bool, BenchError> {
        let proxies = lab.host(NEAR).piasctl(&["proxies"])?;
        let rows = proxies["proxies"].as_array().cloned().unwrap_or_default();
        Ok(!rows.is_empty() && rows.iter().all(|row| row["state"] == "up"))
    };
    pias::wait(lab, "near to know far".to_owned(), || know().unwrap_or(false))?;
    Ok(())
}
