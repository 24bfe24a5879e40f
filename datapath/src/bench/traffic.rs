//! Frames from nothing, and where they end: `bpf/traffic.bpf.c`.
//!
//! The kernel runs the generator as if frames had come in, and sends what it redirects
//! (`BPF_PROG_TEST_RUN` with live frames). Namespaces are those of the calling thread.

use std::net::Ipv4Addr;

use aya::{
    Ebpf, EbpfError, TestRunOptions,
    maps::{Array, MapData, MapError, PerCpuArray},
    programs::{
        ProgramError, TestRun, TestRunAttrs, Xdp, XdpMode,
        links::{FdLink, LinkError},
    },
};
use zerocopy::{Immutable, IntoBytes};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/traffic.bpf.o"));

/// Octets of a frame without its check sequence: of the 64 that an Ethernet frame has at least.
const FRAME: usize = 60;

/// Octets of the tunnel's headers.
const OUTER: usize = 36;

/// Frames that the kernel makes before it hands them on; it keeps as many for the next ones. The most that it takes.
const BATCH: u32 = 256;

/// Flows whose arrival the target can note; no more can be answered.
pub const MAX_FLOWS: u32 = 1 << 20;

/// What frames are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Datagrams of clients to groups.
    ToGroup = 0,
    /// SYNs of clients to groups.
    SynToGroup = 1,
    /// Datagrams of clients to groups in Geneve, as another proxy sends them.
    InTunnel = 2,
    /// Answers to the datagrams that came to the target while it answered.
    Answers = 3,
}

/// Frames to be made, of many flows in turn.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// What they are.
    pub kind: Kind,
    /// The interface that they leave by.
    pub interface: u32,
    /// Their destination, and their source.
    pub macs: [[u8; 6]; 2],
    /// How many flows, a power of two. Of [`Kind::Answers`] at most [`MAX_FLOWS`].
    pub flows: u32,
    /// The groups' address.
    pub group: Ipv4Addr,
    /// The first of the groups' ports, which follow each other.
    pub port: u16,
    /// How many groups, a power of two up to 32.
    pub groups: u32,
    /// Where answers come from, or the tunnel.
    pub from: Ipv4Addr,
    /// Where the tunnel goes.
    pub to: Ipv4Addr,
    /// How many frames there are to be; 0: without end.
    pub frames: u32,
    /// Nanoseconds from one to the next; 0: as fast as can be.
    pub gap: u32,
}

/// `struct order` of `bpf/traffic.bpf.c`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Written {
    kind: u32,
    interface: u32,
    flows: u32,
    groups: u32,
    port: u32,
    group: [u8; 4],
    from: [u8; 4],
    to: [u8; 4],
    macs: [[u8; 6]; 2],
    epoch: u32,
    frames: u32,
    gap: u32,
}

const WRITTEN: usize = size_of::<Written>();

/// A program is attached for as long as this lives.
pub type Attached = FdLink;

/// A program that can be attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Counts marked frames at the client, and ends them.
    CountClient,
    /// The same at the far proxy.
    CountFar,
    /// The same at the target, which sends them back while it answers.
    CountTarget,
    /// Counts all frames, and ends them.
    Discard,
    /// Sends all frames back.
    Bounce,
    /// Hands all frames to the kernel's networking.
    Pass,
}

impl Program {
    const ALL: [Self; 6] = [
        Self::CountClient,
        Self::CountFar,
        Self::CountTarget,
        Self::Discard,
        Self::Bounce,
        Self::Pass,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::CountClient => "count_client",
            Self::CountFar => "count_far",
            Self::CountTarget => "count_target",
            Self::Discard => "discard",
            Self::Bounce => "bounce",
            Self::Pass => "pass",
        }
    }
}

/// Frames that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// That were made.
    Sent = 0,
    /// That came to the client.
    AtClient = 1,
    /// That came to the far proxy.
    AtFar = 2,
    /// That came to the target.
    AtTarget = 3,
    /// That [`Program::Discard`] ended.
    Discarded = 4,
}

/// Why there is no traffic.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// The programs are not loaded.
    #[error("the kernel does not take the traffic's programs: {0}")]
    Load(#[from] EbpfError),
    /// A program is not attached, or does not run.
    #[error("the kernel does not run the traffic's programs: {0} (it needs root and Linux 5.18)")]
    Program(#[from] ProgramError),
    /// A program is attached only for good.
    #[error("the kernel attaches the traffic's programs only for good; it needs Linux 5.9: {0}")]
    Link(#[from] LinkError),
    /// A table cannot be read or written.
    #[error("a table of the traffic's programs: {0}")]
    Table(#[from] MapError),
    /// The object is not that of this version.
    #[error("the traffic's object has no {0}")]
    Missing(&'static str),
}

/// The loaded programs.
pub struct Traffic {
    ebpf: Ebpf,
    order: Array<MapData, [u8; WRITTEN]>,
    turn: Array<MapData, [u32; 4]>,
    answering: Array<MapData, u32>,
    counts: PerCpuArray<MapData, u64>,
    epoch: u32,
}

impl Traffic {
    /// Loads them.
    ///
    /// # Errors
    /// As [`TrafficError`] tells.
    pub fn load() -> Result<Self, TrafficError> {
        let mut ebpf = Ebpf::load(OBJECT)?;
        for name in Program::ALL.map(Program::name).into_iter().chain(["generate"]) {
            program(&mut ebpf, name)?.load()?;
        }
        let order = Array::try_from(map(&mut ebpf, "ORDER")?)?;
        let turn = Array::try_from(map(&mut ebpf, "TURN")?)?;
        let answering = Array::try_from(map(&mut ebpf, "ANSWERING")?)?;
        let counts = PerCpuArray::try_from(map(&mut ebpf, "COUNTS")?)?;
        Ok(Self { ebpf, order, turn, answering, counts, epoch: 1 })
    }

    /// Attaches a program to an interface of this thread's network namespace, until what is returned is
    /// dropped.
    ///
    /// # Errors
    /// As [`TrafficError`] tells.
    pub fn attach(&mut self, which: Program, interface: u32) -> Result<Attached, TrafficError> {
        let program = program(&mut self.ebpf, which.name())?;
        let id = program.attach_to_if_index(interface, XdpMode::Driver)?;
        Ok(program.take_link(id)?.try_into()?)
    }

    /// What [`Traffic::send`] makes from now on, from the first flow.
    ///
    /// # Errors
    /// [`TrafficError::Table`].
    pub fn order(&mut self, order: &Order) -> Result<(), TrafficError> {
        let written = Written {
            kind: order.kind as u32,
            interface: order.interface,
            flows: order.flows,
            groups: order.groups,
            port: order.port.into(),
            group: order.group.octets(),
            from: order.from.octets(),
            to: order.to.octets(),
            macs: order.macs,
            epoch: self.epoch,
            frames: order.frames,
            gap: order.gap,
        };
        let octets: [u8; WRITTEN] = zerocopy::transmute!(written);
        self.turn.set(0, [0; 4], 0)?;
        Ok(self.order.set(0, octets, 0)?)
    }

    /// Forgets which flows came to the target; after that an order is needed.
    pub const fn forget(&mut self) {
        self.epoch += 1;
    }

    /// Whether the target answers from now on.
    ///
    /// # Errors
    /// [`TrafficError::Table`].
    pub fn answer(&mut self, answers: bool) -> Result<(), TrafficError> {
        Ok(self.answering.set(0, u32::from(answers), 0)?)
    }

    /// Runs the generator so many times, each of which makes a frame if one is due, and returns when they
    /// have left, by an interface of this thread's network namespace. To begin and to end takes the kernel
    /// some milliseconds.
    ///
    /// # Errors
    /// [`TrafficError::Program`].
    pub fn send(&self, kind: Kind, times: u32) -> Result<(), TrafficError> {
        let room = [0; FRAME + OUTER];
        let frame = if kind == Kind::InTunnel { &room[..] } else { &room[..FRAME] };
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat: times,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        let program = self.ebpf.program("generate").ok_or(TrafficError::Missing("generator"))?;
        <&Xdp>::try_from(program)?.test_run(options)?;
        Ok(())
    }

    /// How many frames of the order were made.
    ///
    /// # Errors
    /// [`TrafficError::Table`].
    pub fn made(&self) -> Result<u32, TrafficError> {
        let [_, _, made, _] = self.turn.get(&0, 0)?;
        Ok(made)
    }

    /// How many frames were counted so far, on all processors.
    ///
    /// # Errors
    /// [`TrafficError::Table`].
    pub fn counted(&self, what: Counted) -> Result<u64, TrafficError> {
        Ok(self.counts.get(&(what as u32), 0)?.iter().sum())
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, TrafficError> {
    let program = ebpf.program_mut(name).ok_or(TrafficError::Missing(name))?;
    Ok(program.try_into()?)
}

fn map(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, TrafficError> {
    ebpf.take_map(name).ok_or(TrafficError::Missing(name))
}
