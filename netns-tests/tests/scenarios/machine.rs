//! The machine that the lab runs on. A virtual one does not run while its host gives the time to others, and
//! what a scenario sees then (routing that flaps, answers that are late) says nothing of PIAS.

use std::cell::Cell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

/// Share of its time that a machine may lose and still be steady: links are watched by BFD, which bears
/// 150 ms of silence.
const STEADY: f64 = 0.05;

/// How long it is looked at.
const LOOK: Duration = Duration::from_millis(400);

/// How long a scenario waits for a steady machine at most; then it begins all the same.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a scenario says that failed while its machine lost such a share of the time of one look, or more,
/// is nothing: links flapped, and proxies took each other for dead.
const DISTURBED: f64 = 0.2;

/// How often a scenario is played, as long as it fails and the machine was disturbed.
const PLAYS: u32 = 3;

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

/// Waits until the machine runs without interruptions, and says so if that took long. Whether it did not
/// have to.
pub(crate) fn wait_until_steady() -> bool {
    let start = Instant::now();
    loop {
        let before = Ticks::now();
        // Not a wait for something: a share of time is measured over time.
        sleep(LOOK);
        let stolen = Ticks::now().stolen_since(before);
        if stolen <= STEADY && start.elapsed() < 2 * LOOK {
            return true;
        }
        if stolen <= STEADY || start.elapsed() >= PATIENCE {
            println!(
                "the host had taken the machine's time: waited {:.1?}, now {:.0} %",
                start.elapsed(),
                stolen * 100.0
            );
            return false;
        }
    }
}

/// Looks at the machine until it is dropped.
struct Watch {
    ends: Arc<AtomicBool>,
    looks: JoinHandle<f64>,
}

impl Watch {
    fn start() -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&ends);
        let looks = spawn(move || {
            let mut worst = 0.0_f64;
            while !over.load(Ordering::Relaxed) {
                let before = Ticks::now();
                sleep(LOOK);
                worst = worst.max(Ticks::now().stolen_since(before));
            }
            worst
        });
        Self { ends, looks }
    }

    /// The largest share of the time of one look that the host took.
    fn end(self) -> f64 {
        self.ends.store(true, Ordering::Relaxed);
        self.looks.join().unwrap_or(0.0)
    }
}

/// Plays a scenario. One that fails while the machine did not run is played again, in a new lab: that
/// says nothing of PIAS. One that fails on a machine that runs has failed.
pub(crate) fn scenario(play: impl Fn()) {
    play_until_judged(play, || {
        let watch = Watch::start();
        || watch.end()
    });
}

/// `look` begins to look at the machine, and what it returns tells the worst that was seen.
fn play_until_judged<W: FnOnce() -> f64>(play: impl Fn(), look: impl Fn() -> W) {
    for left in (0..PLAYS).rev() {
        let looked = look();
        let played = catch_unwind(AssertUnwindSafe(&play));
        let worst = looked();
        let Err(failure) = played else { return };
        if left == 0 || worst < DISTURBED {
            resume_unwind(failure);
        }
        println!("the host had taken {:.0} % of the machine's time: played again", worst * 100.0);
    }
}

#[test]
fn a_scenario_that_fails_is_played_again_where_the_machine_did_not_run() {
    let plays = |stolen: f64, holds_at: u32| {
        let played = Cell::new(0);
        let play = || {
            played.set(played.get() + 1);
            assert!(played.get() >= holds_at, "it fails");
        };
        let judged = catch_unwind(AssertUnwindSafe(|| play_until_judged(play, || || stolen)));
        (played.get(), judged.is_ok())
    };
    assert_eq!(plays(0.02, 1), (1, true));
    assert_eq!(plays(0.02, 2), (1, false));
    assert_eq!(plays(0.3, 2), (2, true));
    assert_eq!(plays(0.3, 9), (3, false));
}

#[test]
fn the_share_of_stolen_time_is_that_between_two_looks() {
    let look =
        |idle, stolen| Ticks::read(&format!("cpu  10 0 10 {idle} 0 0 0 {stolen} 0 0\ncpu0 1"));
    assert!((look(150, 50).stolen_since(look(0, 0)) - 0.25).abs() < 1e-9);
    assert!((look(200, 50).stolen_since(look(100, 50))).abs() < 1e-9);
    assert!((Ticks::read("").stolen_since(Ticks::read(""))).abs() < 1e-9);
}
