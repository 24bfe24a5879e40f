//! The machine that the lab runs on. A virtual one does not run while its host gives the time to others, and
//! what a scenario sees then (routing that flaps, answers that are late) says nothing of PIAS.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Share of its time that a machine may lose and still be steady: links are watched by BFD, which bears
/// 150 ms of silence.
const STEADY: f64 = 0.05;

/// How long it is looked at.
const LOOK: Duration = Duration::from_millis(400);

/// How long a scenario waits for a steady machine at most; then it begins all the same.
const PATIENCE: Duration = Duration::from_secs(15);

/// The time of all processors since the boot, in ticks (proc_stat(5)).
#[derive(Clone, Copy)]
pub(crate) struct Ticks {
    stolen: u64,
    all: u64,
}

impl Ticks {
    /// Zero where the system does not tell.
    pub(crate) fn now() -> Self {
        Self::read(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    fn read(stat: &str) -> Self {
        let words = stat.lines().next().unwrap_or_default().split_whitespace();
        // After the word "cpu": user, nice, system, idle, iowait, irq, softirq, steal.
        let ticks: Vec<u64> = words.skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
        Self { stolen: ticks.get(7).copied().unwrap_or(0), all: ticks.iter().sum() }
    }

    /// The share of the time since `before` in which the host let others run: 0 to 1.
    pub(crate) fn stolen_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        self.stolen.saturating_sub(before.stolen) as f64 / all as f64
    }
}

/// Waits until the machine runs without interruptions, and says so if that took long.
pub(crate) fn wait_until_steady() {
    let start = Instant::now();
    loop {
        let before = Ticks::now();
        // Not a wait for something: a share of time is measured over time.
        sleep(LOOK);
        let stolen = Ticks::now().stolen_since(before);
        if stolen <= STEADY && start.elapsed() < 2 * LOOK {
            return;
        }
        if stolen <= STEADY || start.elapsed() >= PATIENCE {
            println!(
                "the host had taken the machine's time: waited {:.1?}, now {:.0} %",
                start.elapsed(),
                stolen * 100.0
            );
            return;
        }
    }
}

#[test]
fn the_share_of_stolen_time_is_that_between_two_looks() {
    let look =
        |idle, stolen| Ticks::read(&format!("cpu  10 0 10 {idle} 0 0 0 {stolen} 0 0\ncpu0 1"));
    assert!((look(150, 50).stolen_since(look(0, 0)) - 0.25).abs() < 1e-9);
    assert!((look(200, 50).stolen_since(look(100, 50))).abs() < 1e-9);
    assert!((Ticks::read("").stolen_since(Ticks::read(""))).abs() < 1e-9);
}
