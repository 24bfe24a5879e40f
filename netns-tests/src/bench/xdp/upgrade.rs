//! What is lost of flows that are known while `piasd` on the host under test is replaced, and XDP is handed
//! over, taken off or attached with it.
//!
//! Here packets are handled in interrupts, as they are on hosts that nobody has changed, and not in threads on
//! the core of `piasd`: a thread waits for up to 20 ms while the next process has its tables made and its
//! program verified, for longer than the ring in front of it bears.

use std::thread;

use super::candidate::{Way, start_near, start_pias, stop_pias};
use super::limits::{SETTLED, STEADY_FLOWS, STEADY_GAP};
use super::report::{Figures, Lost};
use super::rig::{Rig, Stream};
use crate::bench::BenchError;
use crate::bench::limits::CHANGE_LIMIT;
use crate::bench::pias;
use crate::bench::places::NEAR;
use crate::wait::wait_until;

/// The engine of the next process, and what that means for XDP: the first one has it.
const CHANGES: [(&str, &str); 3] =
    [("xdp", "handed over"), ("tun", "taken off"), ("xdp", "attached")];

/// Replaces `piasd` under each kind of load, well below what it can take.
pub(super) fn measure(rig: &mut Rig<'_>, figures: &mut Figures) -> Result<(), BenchError> {
    start_pias(rig)?;
    let mut running = "piasd".to_owned();
    for way in [Way::Ingress, Way::JoinForward, Way::JoinReturn] {
        for (number, (engine, xdp)) in CHANGES.into_iter().enumerate() {
            if let Some(first) = way.acquaintance(STEADY_FLOWS) {
                rig.acquaint(&first)?;
            }
            let next = format!("piasd-{}-{number}", way as usize);
            let stream = way.stream(STEADY_FLOWS);
            let before = Waited::look(rig, &stream)?;
            let ((), passed) = rig.under(&stream, STEADY_GAP, |rig| {
                thread::sleep(SETTLED);
                replace(rig, &running, &next, engine)?;
                thread::sleep(SETTLED);
                Ok(())
            })?;
            running = next;
            let Waited { in_front, at_device } = Waited::look(rig, &stream)?;
            figures.lost(
                way,
                xdp,
                Lost {
                    packets: passed.sent.saturating_sub(passed.frames),
                    in_front: in_front.saturating_sub(before.in_front),
                    at_device: at_device.saturating_sub(before.at_device),
                },
            );
        }
    }
    stop_pias(rig, &running)
}

/// Packets for which there was no room where they wait.
struct Waited {
    /// The ring in front of the host under test, as in front of a network card.
    in_front: u64,
    /// The queue of `piasd`'s TUN device.
    at_device: u64,
}

impl Waited {
    fn look(rig: &Rig<'_>, stream: &Stream) -> Result<Self, BenchError> {
        let (sender, near) = (rig.lab.host(stream.from.host()), rig.lab.host(NEAR));
        let rings = sender.ok(&["ethtool", "-S", stream.from.interface()])?;
        let queue = near.ok(&["cat", "/sys/class/net/pias0/statistics/tx_dropped"])?;
        let of = |line: &str| line.split_once("_xdp_xmit_errors: ")?.1.trim().parse::<u64>().ok();
        Ok(Self {
            in_front: rings.lines().filter_map(of).sum(),
            at_device: queue.trim().parse().unwrap_or_default(),
        })
    }
}

fn replace(rig: &Rig<'_>, running: &str, next: &str, engine: &str) -> Result<(), BenchError> {
    start_near(rig, next, engine, true)?;
    let ended = || !rig.lab.host(NEAR).runs(running);
    wait_until(CHANGE_LIMIT, format!("{running} on {NEAR} to end"), ended)
        .map_err(|source| BenchError::TimedOut { source, logs: rig.lab.logs() })?;
    pias::wait_ready(rig.lab, NEAR)
}
