//! The programs in the kernel.

use std::{os::fd::AsFd, path::Path};

use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    maps::{Map, MapData, PerCpuArray},
    pin::PinError,
    programs::{ProgramError, Xdp},
};
use pias_protocol::hash::mapped;
use zerocopy::IntoBytes;

use super::{
    attach::{AttachError, Attached, Interface},
    devices::Devices,
    endpoints::Endpoints,
    kept::{self, Kept},
    layout::{self, Config},
    stood_for::StoodFor,
    tables::Tables,
    targets::Targets,
};
use crate::{
    flow::{
        elsewhere::Elsewhere,
        ingress::IngressTable,
        nat::{BESIDE_WORDS, CELLS, ENTRY_WORDS, NatMemory, Sizes},
    },
    mapped::Words,
    pipeline::{PipelineConfig, Shared},
};

/// The compiled programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pias.bpf.o"));

/// What the programs are told once.
pub struct Setup<'a> {
    /// The pipeline's part.
    pub pipeline: &'a PipelineConfig,
    /// The ports that the tunnel's sockets send from over IPv4 and IPv6, so that what the network
    /// says of a packet reaches them; 0 where a family has no socket.
    pub source_ports: [[u16; layout::SOURCE_PORTS]; 2],
}

/// Why no program could be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel refused a table or a program.
    #[error(
        "the kernel does not take the XDP program: {0} (it needs CAP_BPF, CAP_NET_ADMIN and Linux 5.18)"
    )]
    Kernel(#[from] EbpfError),
    /// The verifier refused a program.
    #[error("the kernel does not take the XDP program: {0}")]
    Verifier(#[from] ProgramError),
    /// A table could not be mapped into this process.
    #[error("cannot map the XDP program's table {name}: {source}")]
    Mapping {
        /// Which.
        name: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A table of the object has another type than expected: it is not that of this version.
    #[error("the XDP program's table {0} is missing, or of another kind")]
    Table(&'static str),
    /// More anycast prefixes than the programs compare with.
    #[error("{0} anycast prefixes are more than the XDP program takes (16)")]
    Prefixes(usize),
}

/// How large a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Octets of its instructions after the verifier's changes.
    pub translated: u32,
    /// Octets of machine code.
    pub machine: u32,
    /// Instructions that the verifier looked at; it gives up after a million.
    pub verified: u32,
}

/// The loaded programs. Dropping it detaches them.
pub struct Program {
    ebpf: Ebpf,
    /// What it knows of interfaces.
    pub devices: Devices,
    /// Tables that can outlive this process, in the order of [`kept::TABLES`].
    kept: Vec<(&'static str, MapData)>,
}

impl Program {
    /// Loads the programs and their tables.
    ///
    /// # Errors
    /// As [`LoadError`] tells.
    pub fn load(setup: &Setup<'_>) -> Result<(Self, Tables), LoadError> {
        Self::load_with(OBJECT, setup, None)
    }

    /// The same with tables of a process that is gone.
    ///
    /// # Errors
    /// As [`LoadError`] tells.
    pub fn load_kept(setup: &Setup<'_>, kept: &Kept) -> Result<(Self, Tables), LoadError> {
        Self::load_with(OBJECT, setup, Some(kept))
    }

    /// The same of another object, that has the program and the tables of this one.
    ///
    /// # Errors
    /// As [`LoadError`] tells.
    pub fn load_object(object: &[u8], setup: &Setup<'_>) -> Result<(Self, Tables), LoadError> {
        Self::load_with(object, setup, None)
    }

    fn load_with(
        object: &[u8],
        setup: &Setup<'_>,
        kept: Option<&Kept>,
    ) -> Result<(Self, Tables), LoadError> {
        let seed = kept.map_or(setup.pipeline.seed, |kept| kept.seed);
        let config = config(setup, seed)?;
        let limits = &setup.pipeline.limits;
        let nat = Sizes::of(limits);
        let mut loader = EbpfLoader::new();
        for (kept, table) in kept.iter().flat_map(|kept| kept::TABLES.map(|table| (kept, table))) {
            loader.map_pin_path(table, kept.path(table));
        }
        let mut ebpf = loader
            .verifier_log_level(VerifierLogLevel::STATS)
            .override_global("CONFIG", config.as_bytes(), true)
            .map_max_entries("PINS", (pin_words(setup) / layout::BUCKET_WORDS) as u32)
            .map_max_entries("PEERS", limits.members as u32)
            .map_max_entries("TUNNELS", limits.members as u32)
            .map_max_entries("GROUPS", limits.groups as u32)
            .map_max_entries("TARGETS", limits.members as u32)
            .map_max_entries("JOINED", limits.members as u32)
            .map_max_entries("NAT_FLOWS", nat.slots as u32)
            .map_max_entries("NAT_FORWARD", nat.buckets as u32)
            .map_max_entries("NAT_REVERSE", nat.buckets as u32)
            .map_max_entries("NAT_FREE", nat.free as u32)
            .load(object)?;
        // While programs are loaded their tables must be open.
        for name in names(&ebpf) {
            program(&mut ebpf, &name)?.load()?;
        }
        let own = kept::TABLES.map(|table| Ok((table, open(&mut ebpf, table)?)));
        let own: Vec<_> = own.into_iter().collect::<Result<_, LoadError>>()?;
        let tables = tables(&mut ebpf, &own, setup, seed, kept)?;
        let devices = devices(&mut ebpf)?;
        Ok((Self { ebpf, devices, kept: own }, tables))
    }

    /// Leaves the tables to files in `directory`, which is in a BPF file system, in place of those there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn keep(&self, directory: &Path) -> Result<(), PinError> {
        kept::keep(&self.kept, directory)
    }

    /// The program of this name, for `BPF_PROG_TEST_RUN` or an interface.
    ///
    /// # Errors
    /// [`LoadError::Table`] if there is none.
    pub fn get(&mut self, name: &str) -> Result<&mut Xdp, LoadError> {
        program(&mut self.ebpf, name)
    }

    /// Attaches the program to an interface, as [`Attached::new`] does.
    ///
    /// # Errors
    /// As [`AttachError`] tells.
    pub fn attach(
        &mut self,
        interface: &Interface,
        directory: &Path,
    ) -> Result<Attached, AttachError> {
        Attached::new(program(&mut self.ebpf, "pias")?, interface, directory)
    }

    /// Takes a table that only this object has.
    pub fn take_map(&mut self, name: &str) -> Option<Map> {
        self.ebpf.take_map(name)
    }

    /// How large the program of this name is.
    ///
    /// # Errors
    /// As [`LoadError`] tells.
    pub fn size(&mut self, name: &str) -> Result<Size, LoadError> {
        let info = program(&mut self.ebpf, name)?.info()?;
        Ok(Size {
            translated: info.size_translated().unwrap_or_default(),
            machine: info.size_jitted(),
            verified: info.verified_instruction_count().unwrap_or_default(),
        })
    }
}

fn pin_words(setup: &Setup<'_>) -> usize {
    IngressTable::words(setup.pipeline.limits.ingress_flows)
}

fn names(ebpf: &Ebpf) -> Vec<String> {
    ebpf.programs().map(|(name, _)| name.to_owned()).collect()
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Table("of programs"))?;
    Ok(program.try_into()?)
}

fn config(setup: &Setup<'_>, seed: u64) -> Result<Config, LoadError> {
    let PipelineConfig { anycast, nat, unicast, limits, underlay_mtu, .. } = setup.pipeline;
    if anycast.len() > layout::MAX_PREFIXES {
        return Err(LoadError::Prefixes(anycast.len()));
    }
    let sizes = Sizes::of(limits);
    let own = |v6| unicast.iter().find(|own| own.is_ipv6() == v6).copied();
    let own_inner_mtu = unicast
        .first()
        .map_or(usize::from(u16::MAX), |&own| PipelineConfig::room_in_tunnel(own, *underlay_mtu));
    let mut config = Config {
        seed: seed | 1,
        prefixes: anycast.len() as u32,
        jiffy: kept::jiffy(),
        network: [[0; 16]; layout::MAX_PREFIXES],
        mask: [[0; 16]; layout::MAX_PREFIXES],
        nat: [[0; 16]; 2],
        source_port: setup.source_ports.map(|ports| ports.map(u16::to_be_bytes)),
        unicast: [own(false), own(true)].map(|own| own.map_or([0; 16], mapped)),
        nat_flows: sizes.slots as u32,
        nat_embryonic: limits.nat_embryonic as u32,
        nat_buckets_mask: sizes.buckets as u32 - 1,
        nat_free_mask: sizes.free as u32 - 1,
        own_inner_mtu: own_inner_mtu as u32,
        zero_too: 0,
    };
    for (at, net) in anycast.iter().enumerate() {
        (config.network[at], config.mask[at]) = layout::prefix(net);
    }
    for (slot, address) in config.nat.iter_mut().zip(nat) {
        *slot = mapped(*address);
    }
    Ok(config)
}

fn take<T>(
    ebpf: &mut Ebpf,
    name: &'static str,
    as_kind: impl FnOnce(Map) -> Option<T>,
) -> Result<T, LoadError> {
    ebpf.take_map(name).and_then(as_kind).ok_or(LoadError::Table(name))
}

fn open(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, LoadError> {
    take(ebpf, name, |map| match map {
        Map::Array(data) => Some(data),
        _ => None,
    })
}

/// An array as memory of this process.
fn map(array: &MapData, name: &'static str, words: usize) -> Result<Words, LoadError> {
    Words::shared(array.fd().as_fd(), words).map_err(|source| LoadError::Mapping { name, source })
}

fn devices(ebpf: &mut Ebpf) -> Result<Devices, LoadError> {
    let words = map(&open(ebpf, "DEVICE")?, "DEVICE", layout::DEVICES)?;
    let vlans = take(ebpf, "VLANS", |map| aya::maps::HashMap::try_from(map).ok())?;
    Ok(Devices::new(words, vlans))
}

fn tables(
    ebpf: &mut Ebpf,
    own: &[(&'static str, MapData)],
    setup: &Setup<'_>,
    seed: u64,
    kept: Option<&Kept>,
) -> Result<Tables, LoadError> {
    let members = setup.pipeline.limits.members;
    let words = |name: &'static str, words| {
        let table = own.iter().find(|(table, _)| *table == name);
        let (_, table) = table.ok_or(LoadError::Table(name))?;
        map(table, name, words)
    };
    let sizes = Sizes::of(&setup.pipeline.limits);
    let nat = NatMemory {
        flows: words("NAT_FLOWS", sizes.slots * ENTRY_WORDS)?,
        forward: words("NAT_FORWARD", sizes.buckets * CELLS)?,
        reverse: words("NAT_REVERSE", sizes.buckets * CELLS)?,
        free: words("NAT_FREE", sizes.free)?,
        beside: words("NAT_STATE", BESIDE_WORDS)?,
    };
    let mut alone = |name, words| map(&open(ebpf, name)?, name, words);
    let elsewhere = Elsewhere::on(alone("ELSEWHERE", Elsewhere::WORDS)?);
    let shared = Shared {
        pins: words("PINS", pin_words(setup))?,
        beside: words("STATE", layout::state::WORDS)?,
        nat,
        elsewhere,
        seed,
        is_kept: kept.is_some(),
    };
    let tunnels = take(ebpf, "TUNNELS", |map| aya::maps::HashMap::try_from(map).ok())?;
    let stood_for = take(ebpf, "STOOD_FOR", |map| aya::maps::HashMap::try_from(map).ok())?;
    let joined = take(ebpf, "JOINED", |map| aya::maps::HashMap::try_from(map).ok())?;
    let tables = Tables {
        state: words("STATE", layout::state::WORDS)?,
        counts: take(ebpf, "COUNTS", |map| PerCpuArray::try_from(map).ok())?,
        peers: words("PEERS", members * layout::peer::WORDS)?,
        endpoints: Endpoints::new(tunnels),
        stood_for: StoodFor::new(stood_for),
        groups: take(ebpf, "GROUPS", |map| aya::maps::HashMap::try_from(map).ok())?,
        used: take(ebpf, "USED", |map| aya::maps::RingBuf::try_from(map).ok())?,
        targets: Targets::new(words("TARGETS", members * layout::target::WORDS)?, joined),
        flows: take(ebpf, "FLOWS", |map| aya::maps::RingBuf::try_from(map).ok())?,
        unicast: setup.pipeline.unicast.clone(),
        shared: Some(shared),
    };
    tables.begin(seed, kept::fingerprint(setup.pipeline), kept.is_none());
    Ok(tables)
}
