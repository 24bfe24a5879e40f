//! XDP and the pipeline behind it, without an engine around them: a proxy that knows others.

use std::{io, net::Ipv4Addr, process::Command, thread};

use aya::{maps::MapError, programs::ProgramError};
use nix::sched::{CloneFlags, unshare};
use pias_protocol::{
    forwarding::ForwardingUpdate, group::GroupKey, ids::ProxyId, placement::Candidate, time::Time,
};

use crate::{
    flow::buckets::Misshapen,
    limits::Limits,
    pipeline::{Pipeline, PipelineConfig, Side},
    xdp::{
        LoadError, Program, Setup, Tables, Touched, WriteError,
        layout::{Device, Mode},
    },
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench.bpf.o"));

pub(super) const NOW: Time = Time::from_micros(1_000_000);

/// Other proxies, to any of which a flow may go.
const CANDIDATES: u64 = 4;

/// The octets of the underlay's largest packet.
const UNDERLAY_MTU: u16 = 1500;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BedError {
    /// XDP is not loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The program does not run.
    #[error("the kernel does not run the XDP program: {0}")]
    Run(#[from] ProgramError),
    /// It did something else than to send the packet.
    #[error("the XDP program does not send the packet: its verdict is {0}")]
    Verdict(u32),
    /// A table.
    #[error("a table of the XDP program: {0}")]
    Table(#[from] MapError),
    /// A table does not take what it is to hold.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The flows' memory.
    #[error(transparent)]
    Memory(#[from] Misshapen),
    /// No network of its own could be made.
    #[error("cannot {what} for the measurement: {source}")]
    Network {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// The proxy.
pub(super) struct Bed {
    pub(super) program: Program,
    pub(super) pipeline: Pipeline,
    pub(super) tables: Tables,
}

impl Bed {
    /// Loads XDP. The network is that of [`on_its_own`].
    pub(super) fn new(limits: Limits) -> Result<Self, BedError> {
        let config = PipelineConfig {
            self_id: ProxyId(1),
            anycast: vec![(Ipv4Addr::new(203, 0, 0, 0).into(), 16)]
                .into_iter()
                .filter_map(|(network, length)| ipnet::IpNet::new(network, length).ok())
                .collect(),
            nat: vec![Ipv4Addr::new(192, 0, 2, 200).into()],
            unicast: vec![Ipv4Addr::new(198, 51, 100, 1).into()],
            underlay_mtu: UNDERLAY_MTU,
            limits,
            seed: 0x5EED_5EED_5EED_5EED,
        };
        let setup = Setup { pipeline: &config, source_ports: [[50_000; 64]; 2] };
        let (program, mut tables) = Program::load_object(OBJECT, &setup)?;
        tables.set_now(NOW.into());
        let mac = [2, 0, 0, 0, 0, 1];
        let device = Device { mac, mode: Mode::Native, bounces: true, takes: true };
        for name in ["lo", "near"] {
            let index = nix::net::if_::if_nametoindex(name);
            let index = index.map_err(|error| refused("find an interface", error))?;
            program.devices.set(index, Some(device));
        }
        let shared = tables.take_shared().ok_or(LoadError::Table("of shared memory"))?;
        let pipeline = Pipeline::sharing(config, shared)?;
        let mut bed = Self { program, pipeline, tables };
        for id in 2..2 + CANDIDATES {
            let tunnel = Ipv4Addr::new(198, 51, 100, id as u8).into();
            bed.tell(ForwardingUpdate::Peer { id: ProxyId(id), tunnel })?;
        }
        Ok(bed)
    }

    /// A group whose flows go to the other proxies.
    pub(super) fn candidates() -> Vec<Candidate> {
        let candidate = |id| Candidate { proxy: ProxyId(id), tier: 0, weight: 1 };
        (2..2 + CANDIDATES).map(candidate).collect()
    }

    /// What the overlay would tell both.
    pub(super) fn tell(&mut self, update: ForwardingUpdate) -> Result<(), BedError> {
        let touched = Touched::by(&update);
        self.pipeline.apply(update, NOW, &mut Side::default());
        Ok(self.tables.follow(touched, &self.pipeline)?)
    }
}

/// A group by its address and port, over UDP.
pub(super) fn group(address: Ipv4Addr, port: u16) -> GroupKey {
    GroupKey { address: address.into(), port, protocol: pias_protocol::group::Protocol::Udp }
}

/// Works in a network of its own, where the next hops of all other proxies are known.
pub(super) fn on_its_own<T: Send>(
    work: impl FnOnce() -> Result<T, BedError> + Send,
) -> Result<T, BedError> {
    let alone = || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| refused("make a network", error))?;
        for arguments in [
            "link set lo up",
            "link add near type veth peer name far",
            "link set near up",
            "link set far up",
            "address add 198.51.100.1/24 dev near",
        ] {
            ip(arguments)?;
        }
        for id in 2..2 + CANDIDATES {
            ip(&format!("neigh add 198.51.100.{id} lladdr 02:00:00:00:00:09 dev near"))?;
        }
        std::fs::write("/proc/sys/net/ipv4/conf/all/forwarding", "1")
            .map_err(|source| refused("forward", source))?;
        work()
    };
    thread::scope(|scope| scope.spawn(alone).join())
        .unwrap_or_else(|_| Err(refused("work", io::Error::other("the thread panicked"))))
}

fn ip(arguments: &str) -> Result<(), BedError> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output();
    let output = output.map_err(|source| refused("run ip(8)", source))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(refused(&format!("`ip {arguments}`"), io::Error::other(message)))
}

fn refused(what: &str, source: impl Into<io::Error>) -> BedError {
    BedError::Network { what: what.to_owned(), source: source.into() }
}
