//! The lab of this suite: what its links need for XDP, what makes traffic and what counts it.
//!
//! ```text
//!                core of all others        │  core of the host under test  │
//!   generate ──► client (or far, target) ══╪══► near ══════════════════════╪══► far (or client, target): count_…
//! ```
//! Each end of a link has two queues. Frames of XDP use that of their core; the hosts' own packets have the
//! other one, where that is not the core under test: a flood does not keep proxies and agents from hearing
//! of each other.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use pias_datapath::bench::traffic::{Attached, Counted, Kind, Order, Program, Traffic};

use super::inside::{Cores, inside, system};
use super::limits::{ACQUAINTED, GAPS, LAST, TIMES};
use super::threads::{self, Used};
use super::{PORT, TESTED_INTERFACES};
use crate::bench::BenchError;
use crate::bench::places::{
    CLIENT, CLIENT_ADDRESS, FAR, FAR_UNICAST, NEAR, NEAR_UNICAST, TARGET, TARGET_ADDRESS,
};
use crate::lab::Lab;
use crate::plan::ONLY_INTERFACE;

/// Where the flows' clients are: `bpf/traffic.bpf.c`.
const CLIENTS: &str = "10.64.0.0/10";

/// Queues of each interface; a core's is that of its number's remainder.
pub(super) const QUEUES: usize = 2;

/// Where packets that come to the host under test are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Napi {
    /// By threads on the core under test, whose time can be told.
    Threads,
    /// In interrupts of whoever sends, as is usual.
    Interrupts,
}

/// A host beside the one under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Far,
    Target,
}

impl Side {
    pub(super) const ALL: [Side; 3] = [Side::Client, Side::Far, Side::Target];

    pub(super) fn host(self) -> &'static str {
        match self {
            Side::Client => CLIENT,
            Side::Far => FAR,
            Side::Target => TARGET,
        }
    }

    /// Its interface towards the host under test.
    pub(super) fn interface(self) -> &'static str {
        match self {
            Side::Client | Side::Target => ONLY_INTERFACE,
            Side::Far => NEAR,
        }
    }

    /// What counts there.
    fn program(self) -> Program {
        match self {
            Side::Client => Program::CountClient,
            Side::Far => Program::CountFar,
            Side::Target => Program::CountTarget,
        }
    }
}

/// Frames that are wanted: from whom, of what kind, to which address, and where they come out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    pub from: Side,
    pub kind: Kind,
    pub to: Ipv4Addr,
    pub flows: u32,
    /// How many groups, a power of two up to 32.
    pub groups: u32,
    pub out: Counted,
}

/// What came out of the host under test, and the time that it used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passed {
    pub frames: u64,
    pub used: Used,
}

/// What became of frames.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    pub sent: u64,
    /// That came out.
    pub frames: u64,
}

impl Passed {
    /// Frames per second of the tested host's core.
    pub(super) fn rate(&self) -> f64 {
        let used = self.used.kernel + self.used.processes;
        self.frames as f64 / used.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The share of that core's time that processes used, and not the kernel.
    pub(super) fn share_of_processes(&self) -> f64 {
        let used = self.used.kernel + self.used.processes;
        self.used.processes.as_secs_f64() / used.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// The lab, made ready.
pub(super) struct Rig<'lab> {
    pub lab: &'lab Lab,
    pub cores: Cores,
    traffic: Traffic,
    /// What counts; it goes with the rig.
    _counting: Vec<Attached>,
}

impl<'lab> Rig<'lab> {
    /// Changes the lab's links, and attaches what counts.
    pub(super) fn new(lab: &'lab Lab, cores: Cores, napi: Napi) -> Result<Self, BenchError> {
        for side in Side::ALL {
            tune(lab, side.host(), side.interface(), cores, Napi::Interrupts)?;
        }
        for interface in TESTED_INTERFACES {
            tune(lab, NEAR, interface, cores, napi)?;
        }
        let gateway = CLIENT_ADDRESS.to_string();
        lab.host(NEAR).ok(&["ip", "route", "add", CLIENTS, "via", &gateway])?;
        let mut traffic = Traffic::load()?;
        let mut counting = Vec::new();
        for side in Side::ALL {
            let index = number(lab, side.host(), side.interface(), "ifindex")?;
            counting.push(inside(lab, side.host(), || Ok(traffic.attach(side.program(), index)?))?);
        }
        Ok(Self { lab, cores, traffic, _counting: counting })
    }

    /// Attaches a program to interfaces of the host under test.
    pub(super) fn attach(
        &mut self,
        program: Program,
        interfaces: &[&str],
    ) -> Result<Vec<Attached>, BenchError> {
        let (lab, traffic) = (self.lab, &mut self.traffic);
        let attach = |interface: &&str| {
            let index = number(lab, NEAR, interface, "ifindex")?;
            inside(lab, NEAR, || Ok(traffic.attach(program, index)?))
        };
        interfaces.iter().map(attach).collect()
    }

    /// Puts the kernel's threads where they belong; whoever attaches something makes new ones.
    pub(super) fn settle(&self) -> Result<(), BenchError> {
        threads::place(self.cores)
    }

    fn order(&mut self, stream: &Stream, frames: u32, gap: u32) -> Result<(), BenchError> {
        let (host, interface) = (stream.from.host(), stream.from.interface());
        let order = Order {
            kind: stream.kind,
            interface: number(self.lab, host, interface, "ifindex")?,
            macs: [mac(self.lab, NEAR, host)?, mac(self.lab, host, interface)?],
            flows: stream.flows,
            group: stream.to,
            port: PORT,
            groups: stream.groups,
            from: if stream.kind == Kind::Answers { TARGET_ADDRESS } else { FAR_UNICAST },
            to: NEAR_UNICAST,
            frames,
            gap,
        };
        Ok(self.traffic.order(&order)?)
    }

    /// Sends each flow's first packet, slowly, to a target that answers; returns how many came out in the
    /// last pass.
    pub(super) fn acquaint(&mut self, stream: &Stream) -> Result<u64, BenchError> {
        self.traffic.forget();
        self.traffic.answer(true)?;
        let enough = u64::from(stream.flows - stream.flows / ACQUAINTED);
        let mut known = 0;
        for gap in GAPS {
            self.order(stream, stream.flows, gap)?;
            let before = self.traffic.counted(stream.out)?;
            let traffic = &self.traffic;
            inside(self.lab, stream.from.host(), || {
                while traffic.made()? < stream.flows {
                    traffic.send(stream.kind, TIMES)?;
                }
                Ok(())
            })?;
            thread::sleep(LAST);
            known = self.traffic.counted(stream.out)? - before;
            if known >= enough {
                break;
            }
        }
        self.traffic.answer(false)?;
        Ok(known)
    }

    /// Sends as much as one core can, and counts what comes out after `warm_up` for as long as `span`.
    pub(super) fn flood(
        &mut self,
        stream: &Stream,
        warm_up: Duration,
        span: Duration,
    ) -> Result<Passed, BenchError> {
        let watch = |rig: &Self| {
            thread::sleep(warm_up);
            let before = threads::used(rig.lab, rig.cores)?;
            let frames_before = rig.traffic.counted(stream.out)?;
            thread::sleep(span);
            let frames = rig.traffic.counted(stream.out)? - frames_before;
            Ok(Passed { frames, used: threads::used(rig.lab, rig.cores)?.since(before) })
        };
        Ok(self.under(stream, 0, watch)?.0)
    }

    /// Sends with `gap` nanoseconds between packets for as long as `work` takes. How many were sent, and
    /// how many of them came out, is returned with what the work gave.
    pub(super) fn under<T>(
        &mut self,
        stream: &Stream,
        gap: u32,
        work: impl FnOnce(&Self) -> Result<T, BenchError>,
    ) -> Result<(T, Outcome), BenchError> {
        self.order(stream, 0, gap)?;
        let counted = || -> Result<_, BenchError> {
            Ok((self.traffic.counted(Counted::Sent)?, self.traffic.counted(stream.out)?))
        };
        let (sent, out) = counted()?;
        let over = AtomicBool::new(false);
        let worked = thread::scope(|scope| {
            let generator = scope.spawn(|| {
                inside(self.lab, stream.from.host(), || {
                    while !over.load(Ordering::Relaxed) {
                        self.traffic.send(stream.kind, TIMES)?;
                    }
                    Ok(())
                })
            });
            let worked = work(self);
            over.store(true, Ordering::Relaxed);
            let broken = |_| Err(system("make traffic", io::Error::other("it panicked")));
            generator.join().unwrap_or_else(broken)?;
            worked
        })?;
        thread::sleep(LAST);
        let (sent_after, out_after) = counted()?;
        Ok((worked, Outcome { sent: sent_after - sent, frames: out_after - out }))
    }
}

/// Two queues, and checksums that are computed.
///
/// A host beside sends by the second queue what it sends itself. The host under test has a queue for each
/// core: what arrives at the other end is received on the core that sent it, unless another one has begun
/// to receive from the same queue.
fn tune(
    lab: &Lab,
    host: &str,
    interface: &str,
    cores: Cores,
    napi: Napi,
) -> Result<(), BenchError> {
    let (tested, others) = (1_u64 << cores.tested, 1_u64 << cores.others);
    let queue = |core: usize| core % QUEUES;
    let queues = if host == NEAR {
        [(queue(cores.tested), tested), (queue(cores.others), others)]
    } else {
        [(0, 0), (1, tested | others)]
    };
    let threaded = u8::from(napi == Napi::Threads);
    let mut commands = format!(
        "ethtool -L {interface} rx {QUEUES} tx {QUEUES} && ethtool -K {interface} tx off gro on && \
         echo {threaded} > /sys/class/net/{interface}/threaded"
    );
    for (queue, cores) in queues {
        commands +=
            &format!(" && echo {cores:x} > /sys/class/net/{interface}/queues/tx-{queue}/xps_cpus");
    }
    lab.host(host).ok(&["sh", "-c", &commands])?;
    Ok(())
}

fn attribute(lab: &Lab, host: &str, interface: &str, what: &str) -> Result<String, BenchError> {
    let path = format!("/sys/class/net/{interface}/{what}");
    Ok(lab.host(host).ok(&["cat", &path])?.trim().to_owned())
}

fn number(lab: &Lab, host: &str, interface: &str, what: &'static str) -> Result<u32, BenchError> {
    let text = attribute(lab, host, interface, what)?;
    text.parse().map_err(|_| unexpected(interface, what, &text))
}

fn mac(lab: &Lab, host: &str, interface: &str) -> Result<[u8; 6], BenchError> {
    let text = attribute(lab, host, interface, "address")?;
    let octets: Vec<_> =
        text.split(':').filter_map(|word| u8::from_str_radix(word, 16).ok()).collect();
    octets.try_into().map_err(|_| unexpected(interface, "address", &text))
}

fn unexpected(interface: &str, what: &str, text: &str) -> BenchError {
    system(&format!("read the {what} of {interface}"), io::Error::other(text.to_owned()))
}
