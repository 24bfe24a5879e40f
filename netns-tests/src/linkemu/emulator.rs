//! The scheduling core of an emulated link: which frame leaves when.
//!
//! Sans-IO: time comes in as an argument, randomness from a seed, so the same
//! frames at the same times leave at the same times on every run.
//!
//! ```text
//! push(now) ─► loss? ─► room in the queue? ─► serialised at `rate` ─► + delay ± jitter ─► poll(now)
//!                                                                    └─ reorder? at once
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::random::Random;
use crate::limits::DEFAULT_LINK_QUEUE;

/// How a link treats the frames that cross it, the same in both directions.
///
/// A frame is what the sending kernel hands to its interface; a TCP
/// super-packet (TSO) counts as one frame, and is lost as one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Shape {
    /// One-way delay, added to every frame.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
    /// Each frame's delay is drawn from `delay ± jitter`; frames do not
    /// overtake each other by jitter.
    #[serde(with = "humantime_serde")]
    pub jitter: Duration,
    /// Percentage of frames lost, 0 to 100; 100 is a cut link.
    pub loss: f64,
    /// Percentage of frames that skip the delay, and so overtake others, 0 to
    /// 100.
    pub reorder: f64,
    /// Megabits per second; none is unlimited.
    pub rate_mbit: Option<f64>,
    /// Frames that one direction holds; the next one is dropped.
    pub queue: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            rate_mbit: None,
            queue: DEFAULT_LINK_QUEUE,
        }
    }
}

/// Why a [`Shape`] makes no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ShapeError {
    /// A percentage outside 0 to 100.
    #[error("{what} = {value} is no percentage: give a number from 0 to 100")]
    Percentage {
        /// The field.
        what: &'static str,
        /// What it was set to.
        value: f64,
    },
    /// A rate that passes nothing.
    #[error("rate-mbit = {0} passes no frame: give a positive number, or use loss = 100")]
    Rate(f64),
    /// A setting that is not `KEY=VALUE` with a known key and a readable value.
    #[error(
        "cannot read the link setting {0:?}: use delay=20ms, jitter=1ms, loss=30, reorder=1, \
         rate-mbit=100 (or rate-mbit=none) or queue=1000"
    )]
    Setting(String),
}

impl Shape {
    /// Checks every field's range.
    pub fn validate(&self) -> Result<(), ShapeError> {
        for (what, value) in [("loss", self.loss), ("reorder", self.reorder)] {
            if !(0.0..=100.0).contains(&value) {
                return Err(ShapeError::Percentage { what, value });
            }
        }
        match self.rate_mbit {
            Some(rate) if !(rate > 0.0 && rate.is_finite()) => Err(ShapeError::Rate(rate)),
            _ => Ok(()),
        }
    }

    /// This shape with settings of the form `delay=20ms` or `loss=30` applied.
    pub fn with_settings<S: AsRef<str>>(&self, settings: &[S]) -> Result<Self, ShapeError> {
        let mut shape = self.clone();
        for setting in settings {
            let setting = setting.as_ref();
            let unreadable = || ShapeError::Setting(setting.to_owned());
            let (key, value) = setting.split_once('=').ok_or_else(unreadable)?;
            let duration = || humantime::parse_duration(value).map_err(|_| unreadable());
            let number = || value.parse::<f64>().map_err(|_| unreadable());
            match key {
                "delay" => shape.delay = duration()?,
                "jitter" => shape.jitter = duration()?,
                "loss" => shape.loss = number()?,
                "reorder" => shape.reorder = number()?,
                "rate-mbit" if value == "none" => shape.rate_mbit = None,
                "rate-mbit" => shape.rate_mbit = Some(number()?),
                "queue" => shape.queue = value.parse().map_err(|_| unreadable())?,
                _ => return Err(unreadable()),
            }
        }
        shape.validate()?;
        Ok(shape)
    }
}

/// What became of the frames of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCounters {
    /// Frames handed over at the far end.
    pub delivered: u64,
    /// Frames lost by chance, or because the link is cut.
    pub lost: u64,
    /// Frames dropped because the queue was full.
    pub overflowed: u64,
    /// Frames that skipped the delay.
    pub reordered: u64,
}

/// One direction of an emulated link.
#[derive(Debug)]
pub struct Direction {
    shape: Shape,
    random: Random,
    waiting: BinaryHeap<Reverse<Waiting>>,
    /// When the last frame has left the sender's side at the link's rate.
    idle_from: Duration,
    /// Latest delivery time given out; frames that keep their order leave no
    /// earlier.
    last_due: Duration,
    sequence: u64,
    counters: LinkCounters,
}

/// A frame on its way, ordered by due time, then by arrival.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    due: Duration,
    sequence: u64,
    frame: Vec<u8>,
}

impl Direction {
    /// An empty direction with its own stream of random numbers.
    pub fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            random: Random::new(seed),
            waiting: BinaryHeap::new(),
            idle_from: Duration::ZERO,
            last_due: Duration::ZERO,
            sequence: 0,
            counters: LinkCounters::default(),
        }
    }

    /// Takes a frame from the sender at time `now`.
    pub fn push(&mut self, now: Duration, frame: Vec<u8>) {
        if self.random.percent(self.shape.loss) {
            self.counters.lost += 1;
            return;
        }
        if self.waiting.len() >= self.shape.queue {
            self.counters.overflowed += 1;
            return;
        }
        let sent = self.serialise(now, frame.len());
        let due = if self.random.percent(self.shape.reorder) {
            self.counters.reordered += 1;
            sent
        } else {
            let due = (sent + self.delay()).max(self.last_due);
            self.last_due = due;
            due
        };
        self.sequence += 1;
        self.waiting.push(Reverse(Waiting { due, sequence: self.sequence, frame }));
    }

    /// The next frame that is due at `now`, if any.
    pub fn poll(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.next_due()? > now {
            return None;
        }
        self.counters.delivered += 1;
        self.waiting.pop().map(|Reverse(waiting)| waiting.frame)
    }

    /// When [`Direction::poll`] has something to give, if anything waits.
    pub fn next_due(&self) -> Option<Duration> {
        self.waiting.peek().map(|Reverse(waiting)| waiting.due)
    }

    /// Changes the shape for frames to come; a cut (loss of 100 %) loses the
    /// frames that are on their way as well.
    pub fn set_shape(&mut self, shape: Shape) {
        if shape.loss >= 100.0 {
            self.counters.lost += self.waiting.len() as u64;
            self.waiting.clear();
        }
        self.last_due = Duration::ZERO;
        self.shape = shape;
    }

    /// The shape in force.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// What became of the frames so far.
    pub fn counters(&self) -> LinkCounters {
        self.counters
    }

    /// When a frame of `bytes` that arrives at `now` has left at the link's rate.
    fn serialise(&mut self, now: Duration, bytes: usize) -> Duration {
        let Some(rate) = self.shape.rate_mbit else { return now };
        let took = Duration::from_secs_f64(bytes as f64 * 8.0 / (rate * 1e6));
        self.idle_from = self.idle_from.max(now) + took;
        self.idle_from
    }

    /// The delay of the next frame: `delay ± jitter`, never negative.
    fn delay(&mut self) -> Duration {
        if self.shape.jitter.is_zero() {
            return self.shape.delay;
        }
        let swing = self.shape.jitter.mul_f64(2.0 * self.random.unit());
        (self.shape.delay + swing).saturating_sub(self.shape.jitter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Everything that leaves by `until`, with its due time.
    fn drain(direction: &mut Direction, until: Duration) -> Vec<(Duration, Vec<u8>)> {
        let mut out = Vec::new();
        while let Some(due) = direction.next_due().filter(|due| *due <= until) {
            out.extend(direction.poll(due).map(|frame| (due, frame)));
        }
        out
    }

    #[test]
    fn a_frame_leaves_after_the_delay_and_not_before() {
        let mut link = Direction::new(Shape { delay: ms(20), ..Shape::default() }, 1);
        link.push(ms(5), vec![1]);
        assert_eq!(link.poll(ms(24)), None);
        assert_eq!(link.poll(ms(25)), Some(vec![1]));
    }

    #[test]
    fn a_rate_spaces_frames_by_their_length() {
        let mut link = Direction::new(Shape { rate_mbit: Some(8.0), ..Shape::default() }, 1);
        link.push(ms(0), vec![0; 1000]);
        link.push(ms(0), vec![0; 2000]);
        let due: Vec<_> = drain(&mut link, ms(100)).into_iter().map(|(due, _)| due).collect();
        assert_eq!(due, [ms(1), ms(3)]);
    }

    #[test]
    fn a_full_queue_drops_the_next_frame_and_counts_it() {
        let mut link = Direction::new(Shape { queue: 2, delay: ms(1), ..Shape::default() }, 1);
        for n in 0..3 {
            link.push(ms(0), vec![n]);
        }
        assert_eq!(link.counters().overflowed, 1);
        assert_eq!(drain(&mut link, ms(10)).len(), 2);
    }

    #[test]
    fn cutting_a_link_loses_what_is_on_its_way() {
        let mut link = Direction::new(Shape { delay: ms(50), ..Shape::default() }, 1);
        link.push(ms(0), vec![1]);
        link.set_shape(Shape { loss: 100.0, ..Shape::default() });
        link.push(ms(1), vec![2]);
        assert_eq!(link.next_due(), None);
        assert_eq!(link.counters().lost, 2);
    }

    #[test]
    fn thirty_percent_loss_loses_about_thirty_percent() {
        let mut link = Direction::new(Shape { loss: 30.0, ..Shape::default() }, 7);
        for _ in 0..10_000 {
            link.push(ms(0), vec![0]);
            link.poll(ms(0));
        }
        assert!((2_800..3_200).contains(&link.counters().lost), "{:?}", link.counters());
    }

    #[test]
    fn settings_read_as_a_user_types_them() {
        let shape = Shape::default().with_settings(&["delay=20ms", "loss=30", "rate-mbit=10"]);
        let expected =
            Shape { delay: ms(20), loss: 30.0, rate_mbit: Some(10.0), ..Shape::default() };
        assert_eq!(shape, Ok(expected));
        assert!(Shape::default().with_settings(&["loss=130"]).is_err());
        assert!(Shape::default().with_settings(&["speed=9"]).is_err());
    }

    fn shapes() -> impl Strategy<Value = Shape> {
        (0..200u64, 0..50u64, 0.0..100.0f64, 0.0..100.0f64, proptest::option::of(0.1..1e4f64))
            .prop_map(|(delay, jitter, loss, reorder, rate_mbit)| Shape {
                delay: ms(delay),
                jitter: ms(jitter),
                loss,
                reorder,
                rate_mbit,
                queue: 50,
            })
    }

    proptest! {
        #[test]
        fn every_frame_is_delivered_once_or_counted(
            shape in shapes(), gaps in proptest::collection::vec(0..20u64, 1..200), seed: u64,
        ) {
            let mut link = Direction::new(shape, seed);
            let mut now = Duration::ZERO;
            let mut out = Vec::new();
            for (n, gap) in gaps.iter().enumerate() {
                now += ms(*gap);
                out.extend(drain(&mut link, now));
                link.push(now, vec![n as u8]);
            }
            out.extend(drain(&mut link, Duration::MAX));
            let counters = link.counters();
            prop_assert_eq!(out.len() as u64, counters.delivered);
            prop_assert_eq!(
                gaps.len() as u64,
                counters.delivered + counters.lost + counters.overflowed
            );
        }

        #[test]
        fn without_reordering_frames_keep_their_order_and_their_delay(
            shape in shapes(), gaps in proptest::collection::vec(0..20u64, 1..200), seed: u64,
        ) {
            let shape = Shape { reorder: 0.0, ..shape };
            let earliest = shape.delay.saturating_sub(shape.jitter);
            let mut link = Direction::new(shape, seed);
            let mut sent = Vec::new();
            let mut now = Duration::ZERO;
            for (n, gap) in gaps.iter().enumerate() {
                now += ms(*gap);
                sent.push(now);
                link.push(now, vec![n as u8]);
            }
            let out = drain(&mut link, Duration::MAX);
            prop_assert!(out.is_sorted_by_key(|(_, frame)| frame[0]));
            for (due, frame) in out {
                prop_assert!(due >= sent[usize::from(frame[0])] + earliest);
            }
        }

        #[test]
        fn the_same_seed_gives_the_same_run(
            shape in shapes(), gaps in proptest::collection::vec(0..20u64, 1..100), seed: u64,
        ) {
            let run = || {
                let mut link = Direction::new(shape.clone(), seed);
                let mut now = Duration::ZERO;
                for (n, gap) in gaps.iter().enumerate() {
                    now += ms(*gap);
                    link.push(now, vec![n as u8]);
                }
                drain(&mut link, Duration::MAX)
            };
            prop_assert_eq!(run(), run());
        }
    }
}
