//! The machine that the lab runs on. A virtual one does not run while its host gives the time to others, and
//! what a scenario sees then (routing that flaps, answers that are late) says nothing of PIAS.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, available_parallelism, scope, sleep, spawn};
use std::time::{Duration, Instant};

/// Share of its time that a machine may lose and still be steady: links are watched by BFD, which bears
/// 150 ms of silence.
const STEADY: f64 = 0.05;

/// How long it is looked at.
const LOOK: Duration = Duration::from_millis(400);

/// Looks overlap, so that what the host takes at a time falls into one of them whole.
const LOOKS: u32 = 4;

/// How long a scenario waits for a steady machine at most; then it begins all the same.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a scenario says that failed while its machine lost such a share of the time of one look, or more,
/// is nothing: links flapped, and proxies took each other for dead.
const DISTURBED: f64 = 0.2;

/// So much of one look is lost where whoever looks gets up too late, whatever the system says of its host: a
/// thread that slept comes before those that work.
fn share_of_late(late: Duration) -> f64 {
    late.as_secs_f64() / LOOK.as_secs_f64()
}

/// How often a scenario is played at least, as long as it fails and the machine was disturbed; more often
/// while there is time for that.
const PLAYS: u32 = 3;

/// What all scenarios of one run together may spend on being played again, and on waiting for a machine
/// that runs before that: `make test` has two runs, and shall end in an hour and a half.
const TIME_FOR_MORE: Duration = Duration::from_secs(12 * 60);

/// How long one play waits for a machine that runs, of that time.
const PATIENCE_FOR_MORE: Duration = Duration::from_secs(150);

/// A machine runs if it did in so many looks.
const STRETCH: usize = 5;

/// Between two looks at a machine that did not run. Some hosts give time back to those who rest.
const REST: Duration = Duration::from_secs(2);

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
            let (mut worst, mut before) = (0.0_f64, VecDeque::new());
            let mut up = Instant::now();
            while !over.load(Ordering::Relaxed) {
                let late = up.elapsed().saturating_sub(LOOK / LOOKS);
                worst = worst.max(share_of_late(late));
                up = Instant::now();
                let now = Ticks::now();
                if before.len() == LOOKS as usize {
                    worst =
                        before.pop_front().map_or(worst, |then| worst.max(now.stolen_since(then)));
                }
                before.push_back(now);
                sleep(LOOK / LOOKS);
            }
            worst
        });
        Self { ends, looks }
    }

    /// The largest share of the time of one look in which the machine did not run.
    fn end(self) -> f64 {
        self.ends.store(true, Ordering::Relaxed);
        self.looks.join().unwrap_or(0.0)
    }
}

/// Waits, for `limit` at most, until the machine runs when all of it is used: from one that rests its host
/// takes nothing. How long that took. To be called while no lab is up.
fn wait_until_it_runs(limit: Duration) -> Duration {
    let (start, mut good) = (Instant::now(), 0);
    while good < STRETCH && start.elapsed() < limit {
        let stolen = stolen_while_busy();
        if stolen <= STEADY {
            good += 1;
        } else {
            good = 0;
            // Not a wait for something: see above.
            sleep(REST.min(limit.saturating_sub(start.elapsed())));
        }
    }
    start.elapsed()
}

/// The share of the time of one look that the host takes from a machine that could use all of it.
fn stolen_while_busy() -> f64 {
    let (before, end) = (Ticks::now(), Instant::now() + LOOK);
    scope(|scope| {
        for _ in 0..available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while Instant::now() < end {
                    spin_loop();
                }
            });
        }
    });
    Ticks::now().stolen_since(before)
}

/// Plays a scenario, one at a time. One that fails while the machine did not run is played again, in a new
/// lab: that says nothing of PIAS. One that fails on a machine that runs has failed, and so has one that
/// never met such a machine.
pub(crate) fn scenario(play: impl Fn()) {
    static TURN: Mutex<Duration> = Mutex::new(TIME_FOR_MORE);
    let mut left = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let look = || {
        let watch = Watch::start();
        || watch.end()
    };
    let wait = |left: Duration| wait_until_it_runs(left.min(PATIENCE_FOR_MORE));
    play_until_judged(play, look, wait, &mut left);
}

/// `look` begins to look at the machine, and what it returns tells the worst that was seen. `wait` waits for
/// a better one, and tells how long; `left` is the time for that and for plays beyond the first.
fn play_until_judged<W: FnOnce() -> f64>(
    play: impl Fn(),
    look: impl Fn() -> W,
    wait: impl Fn(Duration) -> Duration,
    left: &mut Duration,
) {
    for number in 1.. {
        let (looked, began) = (look(), Instant::now());
        let played = catch_unwind(AssertUnwindSafe(&play));
        let worst = looked();
        if number > 1 {
            *left = left.saturating_sub(began.elapsed());
        }
        let Err(failure) = played else { return };
        if worst < DISTURBED {
            resume_unwind(failure);
        }
        let took = format!("the machine did not run for {:.0} % of a moment", worst * 100.0);
        if number >= PLAYS && left.is_zero() {
            println!("{took}, in all of {number} plays: it is not shown that the scenario holds");
            resume_unwind(failure);
        }
        let waited = wait(*left);
        *left = left.saturating_sub(waited);
        println!("{took}: played again after {waited:.1?}, {left:.0?} left for more");
    }
}

#[test]
fn a_scenario_that_fails_is_played_again_where_the_machine_did_not_run() {
    const MINUTE: Duration = Duration::from_secs(60);
    let plays = |stolen: f64, holds_at: u32, left: Duration| {
        let played = Cell::new(0);
        let play = || {
            played.set(played.get() + 1);
            assert!(played.get() >= holds_at, "it fails");
        };
        let judged = catch_unwind(AssertUnwindSafe(|| {
            play_until_judged(play, || || stolen, |left| left.min(MINUTE), &mut { left });
        }));
        (played.get(), judged.is_ok())
    };
    // On a machine that runs, the first play is the verdict.
    assert_eq!(plays(0.02, 1, MINUTE), (1, true));
    assert_eq!(plays(0.02, 2, MINUTE), (1, false));
    // On one that does not, a play that holds is.
    assert_eq!(plays(0.3, 2, MINUTE), (2, true));
    assert_eq!(plays(0.3, 5, 4 * MINUTE), (5, true));
    // One that never holds fails, when there is no time for more.
    assert_eq!(plays(0.3, 9, Duration::ZERO), (3, false));
    assert_eq!(plays(0.3, 9, 4 * MINUTE), (5, false));
}

#[test]
fn a_machine_is_waited_for_no_longer_than_asked() {
    let limit = Duration::from_millis(10);
    // One look is longer than that, and no second is begun.
    assert!(wait_until_it_runs(limit) < limit + REST);
    assert_eq!(wait_until_it_runs(Duration::ZERO).as_millis(), 0);
}

#[test]
fn who_gets_up_late_has_lost_that_time() {
    assert!(share_of_late(LOOK / 4) > DISTURBED);
    assert!(share_of_late(LOOK / 10) < DISTURBED);
}

#[test]
fn the_share_of_stolen_time_is_that_between_two_looks() {
    let look =
        |idle, stolen| Ticks::read(&format!("cpu  10 0 10 {idle} 0 0 0 {stolen} 0 0\ncpu0 1"));
    assert!((look(150, 50).stolen_since(look(0, 0)) - 0.25).abs() < 1e-9);
    assert!((look(200, 50).stolen_since(look(100, 50))).abs() < 1e-9);
    assert!((Ticks::read("").stolen_since(Ticks::read(""))).abs() < 1e-9);
}
