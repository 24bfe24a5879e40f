//! What one packet costs in XDP, without a network card: `BPF_PROG_TEST_RUN`, each packet made anew
//! before it is handled, and what making it costs subtracted.

use std::net::Ipv4Addr;

use aya::{
    TestRunOptions,
    maps::{Array, MapData},
    programs::TestRun,
};
use pias_protocol::forwarding::{ForwardingUpdate, IngressEntry};

use super::bed::{Bed, BedError, NOW, group, on_its_own};
use crate::{limits::Limits, pipeline::Side, xdp::LoadError};

/// Packets of a known flow, of which the cost is the mean.
const PACKETS: u32 = 4 << 20;

/// A tick is 50 ms: 650,000 new flows a second.
const NEW_PER_TICK: u32 = 1 << 15;

/// Ticks until the table of flows has grown as far as it will.
const GROWN: usize = 100;

const TRANSMIT: u32 = 3;
const REDIRECT: u32 = 4;

const GROUP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const PORT: u16 = 53;

/// What a packet costs at the ingress, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Of a flow that is known.
    pub known: f64,
    /// The first of its flow.
    pub new: f64,
}

/// Measures with so many flows, a power of two, in turn. Needs root.
///
/// # Errors
/// As [`BedError`] tells.
pub fn measure(flows: u32) -> Result<Cost, BedError> {
    on_its_own(|| {
        let mut runs = Runs::new()?;
        let made = runs.packets(flows, false, PACKETS)?;
        let new = runs.begin(flows)? - made;
        Ok(Cost { known: runs.packets(flows, true, PACKETS)? - made, new })
    })
}

struct Runs {
    bed: Bed,
    orders: Array<MapData, [u8; 20]>,
}

impl Runs {
    fn new() -> Result<Self, BedError> {
        let mut bed = Bed::new(Limits { ingress_flows: 1 << 22, ..Limits::default() })?;
        let entry = IngressEntry::Candidates(Bed::candidates());
        bed.tell(ForwardingUpdate::Ingress { group: group(GROUP, PORT), entry })?;
        let orders = bed.program.take_map("BENCH").ok_or(LoadError::Table("of orders"))?;
        Ok(Self { bed, orders: Array::try_from(orders)? })
    }

    /// Nanoseconds per packet, each of a flow of its own that is not known; the table grows meanwhile, as
    /// the pipeline's ticks make it.
    fn begin(&mut self, flows: u32) -> Result<f64, BedError> {
        let batch = flows.min(NEW_PER_TICK);
        let mut spent = 0.0;
        self.order(flows, true)?;
        for _ in 0..flows / batch {
            spent += self.run(batch)?;
            self.bed.pipeline.tick(NOW, &mut Side::default());
        }
        for _ in 0..GROWN {
            self.bed.pipeline.tick(NOW, &mut Side::default());
        }
        Ok(spent * f64::from(batch) / f64::from(flows))
    }

    /// Nanoseconds per packet, handled or only made.
    fn packets(&mut self, flows: u32, handled: bool, packets: u32) -> Result<f64, BedError> {
        self.order(flows, handled)?;
        self.run(packets)
    }

    /// `struct bench` of `bpf/bench.bpf.c`.
    fn order(&mut self, flows: u32, handled: bool) -> Result<(), BedError> {
        let mut order = [0; 20];
        order[..4].copy_from_slice(&flows.to_ne_bytes());
        order[8..12].copy_from_slice(&u32::from(handled).to_ne_bytes());
        order[12..16].copy_from_slice(&GROUP.octets());
        order[16..18].copy_from_slice(&PORT.to_be_bytes());
        Ok(self.orders.set(0, order, 0)?)
    }

    fn run(&mut self, packets: u32) -> Result<f64, BedError> {
        let frame = [0; 60];
        let options =
            TestRunOptions { data_in: Some(&frame), repeat: packets, ..TestRunOptions::new() };
        let result = self.bed.program.get("bench")?.test_run(options)?;
        if ![TRANSMIT, REDIRECT].contains(&result.return_value) {
            return Err(BedError::Verdict(result.return_value));
        }
        // The kernel gives the mean of one run, in whole nanoseconds.
        Ok(result.duration.as_nanos() as f64)
    }
}
