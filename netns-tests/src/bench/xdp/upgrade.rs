//! What is lost of flows that are known while `piasd` on the host under test is replaced, and XDP is handed
//! over, taken off or attached with it.

use std::thread;

use super::candidate::{Way, start_near, start_pias, stop_pias};
use super::limits::{SETTLED, STEADY_FLOWS, STEADY_GAP};
use super::report::Figures;
use super::rig::Rig;
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
    rig.settle()?;
    let mut running = "piasd".to_owned();
    for way in [Way::Ingress, Way::JoinForward, Way::JoinReturn] {
        for (number, (engine, xdp)) in CHANGES.into_iter().enumerate() {
            if let Some(first) = way.acquaintance(STEADY_FLOWS) {
                rig.acquaint(&first)?;
            }
            let next = format!("piasd-{}-{number}", way as usize);
            let ((), passed) = rig.under(&way.stream(STEADY_FLOWS), STEADY_GAP, |rig| {
                thread::sleep(SETTLED);
                replace(rig, &running, &next, engine)?;
                thread::sleep(SETTLED);
                Ok(())
            })?;
            running = next;
            figures.lost(way, xdp, passed.sent, passed.frames);
            rig.settle()?;
        }
    }
    stop_pias(rig, &running)
}

fn replace(rig: &Rig<'_>, running: &str, next: &str, engine: &str) -> Result<(), BenchError> {
    start_near(rig, next, engine, true)?;
    let ended = || !rig.lab.host(NEAR).runs(running);
    wait_until(CHANGE_LIMIT, format!("{running} on {NEAR} to end"), ended)
        .map_err(|source| BenchError::TimedOut { source, logs: rig.lab.logs() })?;
    pias::wait_ready(rig.lab, NEAR)
}
