//! What one packet costs in XDP, without a network card: `BPF_PROG_TEST_RUN`, each packet made anew
//! before it is handled, and what making it costs subtracted. Needs root.
//!
//! ```sh
//! cargo bench -p pias-datapath --bench xdp
//! ```

#[path = "../tests/support/hosts.rs"]
#[allow(dead_code, reason = "links are the engine tests'")]
mod hosts;

use aya::{
    TestRunOptions,
    maps::{Array, MapData},
    programs::TestRun,
};
use hosts::Host;
use pias_datapath::{
    limits::Limits,
    pipeline::{Pipeline, PipelineConfig, Side},
    xdp::{
        Program, Setup, Tables, Touched,
        layout::{Device, Mode},
    },
};
use pias_protocol::{
    forwarding::{ForwardingUpdate, IngressEntry},
    ids::ProxyId,
    placement::Candidate,
    time::Time,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench.bpf.o"));

const NOW: Time = Time::from_micros(1_000_000);
const ROUNDS: usize = 5;
const PACKETS: u32 = 4 << 20;
const FLOWS: [u32; 4] = [1, 1 << 12, 1 << 16, 1 << 20];
const CANDIDATES: u64 = 4;
/// A tick is 50 ms: 650,000 new flows a second.
const NEW_PER_TICK: u32 = 1 << 15;
const TRANSMIT: u32 = 3;
const REDIRECT: u32 = 4;

/// `struct bench` of `bpf/bench.bpf.c`.
fn order(flows: u32, handled: bool) -> [u8; 20] {
    let mut order = [0; 20];
    order[..4].copy_from_slice(&flows.to_ne_bytes());
    order[8..12].copy_from_slice(&u32::from(handled).to_ne_bytes());
    order[12..16].copy_from_slice(&[203, 0, 113, 10]);
    order[16..18].copy_from_slice(&53_u16.to_be_bytes());
    order
}

struct Bed {
    program: Program,
    pipeline: Pipeline,
    /// The maps go with them.
    _tables: Tables,
    orders: Array<MapData, [u8; 20]>,
}

impl Bed {
    /// A proxy that knows four others, to any of which a flow may go, and no flow yet.
    fn new() -> Self {
        let config = PipelineConfig {
            self_id: ProxyId(1),
            anycast: vec!["203.0.113.0/24".parse().unwrap()],
            nat: vec!["192.0.2.200".parse().unwrap()],
            unicast: vec!["198.51.100.1".parse().unwrap()],
            underlay_mtu: 1500,
            limits: Limits { ingress_flows: 1 << 22, ..Limits::default() },
            seed: 0x5EED_5EED_5EED_5EED,
        };
        let setup = Setup { pipeline: &config, source_ports: [[50_000; 64]; 2] };
        let (mut program, mut tables) = Program::load_object(OBJECT, &setup).unwrap();
        tables.set_now(NOW.into());
        let mac = [2, 0, 0, 0, 0, 1];
        let device = Device { mac, mode: Mode::Native, bounces: true, takes: true };
        for name in ["lo", "near"] {
            program.devices.set(nix::net::if_::if_nametoindex(name).unwrap(), Some(device));
        }
        let shared = tables.take_shared().unwrap();
        let mut pipeline = Pipeline::sharing(config, shared).unwrap();
        let candidate = |id| Candidate { proxy: ProxyId(id), tier: 0, weight: 1 };
        let peer = |id| ForwardingUpdate::Peer {
            id: ProxyId(id),
            tunnel: format!("198.51.100.{id}").parse().unwrap(),
        };
        let ids = 2..2 + CANDIDATES;
        let group = "203.0.113.10:53/udp".parse().unwrap();
        let entry = IngressEntry::Candidates(ids.clone().map(candidate).collect());
        let updates = ids.map(peer).chain([ForwardingUpdate::Ingress { group, entry }]);
        for update in updates {
            let touched = Touched::by(&update);
            pipeline.apply(update, NOW, &mut Side::default());
            tables.follow(touched, pipeline.table(), 1500).unwrap();
        }
        let orders = Array::try_from(program.take_map("BENCH").unwrap()).unwrap();
        Self { program, pipeline, _tables: tables, orders }
    }

    /// Nanoseconds per packet, each of a flow of its own that is not known; the table grows meanwhile, as
    /// the pipeline's ticks make it.
    fn begin(&mut self, flows: u32) -> f64 {
        let batch = flows.min(NEW_PER_TICK);
        let mut spent = 0.0;
        self.order(flows, true);
        for _ in 0..flows / batch {
            spent += self.packets(batch);
            self.pipeline.tick(NOW, &mut Side::default());
        }
        for _ in 0..100 {
            self.pipeline.tick(NOW, &mut Side::default());
        }
        spent * f64::from(batch) / f64::from(flows)
    }

    /// Nanoseconds per packet.
    fn run(&mut self, flows: u32, handled: bool) -> f64 {
        self.order(flows, handled);
        self.packets(PACKETS)
    }

    fn order(&mut self, flows: u32, handled: bool) {
        self.orders.set(0, order(flows, handled), 0).unwrap();
    }

    fn packets(&mut self, packets: u32) -> f64 {
        let frame = [0; 60];
        let options =
            TestRunOptions { data_in: Some(&frame), repeat: packets, ..TestRunOptions::new() };
        let result = self.program.get("bench").unwrap().test_run(options).unwrap();
        assert!([TRANSMIT, REDIRECT].contains(&result.return_value), "{result:?}");
        // The kernel gives the mean of one run, in whole nanoseconds.
        result.duration.as_nanos() as f64
    }
}

fn median(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let (least, most) = (values[0], values[values.len() - 1]);
    format!("{:.0} ({least:.0} to {most:.0})", values[values.len() / 2])
}

fn main() {
    // `cargo test --benches` only asks whether it starts.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let host = Host::new("xdp");
    host.ip("link add near type veth peer name far");
    host.ip("link set near up");
    host.ip("link set far up");
    host.ip("address add 198.51.100.1/24 dev near");
    for id in 2..2 + CANDIDATES {
        host.ip(&format!("neigh add 198.51.100.{id} lladdr 02:00:00:00:00:09 dev near"));
    }
    println!("| flows | a known flow, ns | a new flow, ns | making the packet, ns |");
    println!("| --- | --- | --- | --- |");
    for flows in FLOWS {
        let mut columns = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            let round = host.run(move || {
                let mut bed = Bed::new();
                let made = bed.run(flows, false);
                let new = bed.begin(flows) - made;
                [bed.run(flows, true) - made, new, made]
            });
            for (column, value) in columns.iter_mut().zip(round) {
                column.push(value);
            }
        }
        let [known, new, made] = columns.map(median);
        let new = if flows == 1 { String::new() } else { new };
        println!("| {flows} | {known} | {new} | {made} |");
    }
}
