//! Network coordinates: where to stand so that distances foretell round-trip times.
//!
//! Vivaldi (Dabek, Cox, Kaashoek and Morris, SIGCOMM 2004) with four dimensions and a height. A
//! proxy is drawn towards, or pushed away from, each of those that it measures, as by a spring whose
//! length is the round-trip time. Each keeps its last word, so that one look settles several steps.
//!
//! ```text
//!   a ●───── 40 ms measured ─────● b        distance = |a − b| + height of a + height of b
//!       └─ 30 ms by coordinates ─┘   ⇒  a moves away from b, a part of the 10 ms
//! ```
//! Only +, −, ×, ÷ and square roots are used, which IEEE 754 defines to the bit: all machines
//! compute the same distance.

use std::time::Duration;

use pias_protocol::overlay::Coordinate;

/// Units of a coordinate in a millisecond.
const UNITS: f64 = 10.0;

/// The least height in units: no way to a proxy is free.
const LEAST_HEIGHT: f64 = 1.0;

/// Rounds over all measurements in one look.
const ROUNDS: usize = 12;

/// How much of an error one step takes back, at first; later steps are finer.
const STEP: f64 = 0.5;

type Vector = [f64; 4];

/// A coordinate that is still moving, in units of 0.1 ms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Position {
    at: Vector,
    height: f64,
}

impl Position {
    /// A place to start from: near the origin, each proxy at another one, as two at the same place
    /// would not know which way to part.
    pub(crate) fn scattered(mut draw: impl FnMut() -> u64) -> Self {
        let at = std::array::from_fn(|_| (draw() % 2_001) as f64 / 1_000.0 - 1.0);
        Self { at, height: LEAST_HEIGHT }
    }

    /// Where the cluster stands already.
    pub(crate) fn at(coordinate: Coordinate) -> Self {
        let height = f64::from(coordinate.height).max(LEAST_HEIGHT);
        Self { at: coordinate.position.map(f64::from), height }
    }

    /// Moves to where the measured round-trip times to others fit best.
    pub(crate) fn settle(&mut self, measured: &[(Duration, Coordinate)]) {
        for round in 0..ROUNDS {
            let step = STEP / (1.0 + round as f64 / 4.0);
            for &(rtt, other) in measured {
                self.pull(rtt.as_secs_f64() * 1_000.0 * UNITS, other, step);
            }
        }
    }

    /// One step of one spring.
    fn pull(&mut self, rtt: f64, other: Coordinate, step: f64) {
        let there = other.position.map(f64::from);
        let heights = self.height + f64::from(other.height);
        let away: Vector = std::array::from_fn(|n| self.at[n] - there[n]);
        let between = norm(&away);
        let error = rtt - (between + heights);
        let force = step * error;
        if between > 0.0 {
            for (at, away) in self.at.iter_mut().zip(away) {
                *at += force * away / between;
            }
        }
        // The height takes its share of the error.
        let share = if between + heights > 0.0 { heights / (between + heights) } else { 0.0 };
        self.height = (self.height + force * share).clamp(LEAST_HEIGHT, rtt.max(LEAST_HEIGHT));
    }

    /// As others are told it.
    pub(crate) fn coordinate(&self) -> Coordinate {
        let round = |value: f64| value.clamp(f64::from(i16::MIN), f64::from(i16::MAX)) as i16;
        Coordinate { position: self.at.map(round), height: self.height.min(65_535.0) as u16 }
    }
}

fn norm(vector: &Vector) -> f64 {
    vector.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The round-trip time between two places in units of 0.1 ms, as it is foretold.
pub(crate) fn distance(a: Coordinate, b: Coordinate) -> u16 {
    let away = std::array::from_fn(|n| f64::from(a.position[n]) - f64::from(b.position[n]));
    let rtt = norm(&away) + f64::from(a.height) + f64::from(b.height);
    // A cast from a float saturates.
    rtt as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;

    /// Proxies that measure some others each second.
    fn embed(
        rtt: &[Vec<f64>],
        partners: impl Fn(usize) -> Vec<usize>,
        looks: usize,
    ) -> Vec<Position> {
        let mut random = Random::new(7);
        let mut all: Vec<_> =
            (0..rtt.len()).map(|_| Position::scattered(|| random.next())).collect();
        for _ in 0..looks {
            for one in 0..all.len() {
                let measured: Vec<_> = partners(one)
                    .into_iter()
                    .filter(|&other| other != one)
                    .map(|other| {
                        let rtt = Duration::from_secs_f64(rtt[one][other] / 1_000.0);
                        (rtt, all[other].coordinate())
                    })
                    .collect();
                all[one].settle(&measured);
            }
        }
        all
    }

    fn error(all: &[Position], rtt: &[Vec<f64>], a: usize, b: usize) -> f64 {
        let foretold = f64::from(distance(all[a].coordinate(), all[b].coordinate())) / UNITS;
        (foretold - rtt[a][b]).abs() / rtt[a][b]
    }

    #[test]
    fn proxies_of_one_pop_stay_together() {
        let rtt: Vec<Vec<f64>> = vec![vec![0.5; 6]; 6];
        let all = embed(&rtt, |_| (0..6).collect(), 20);
        for other in 1..6 {
            assert!(distance(all[0].coordinate(), all[other].coordinate()) < 15, "{all:?}");
        }
    }

    #[test]
    fn a_newcomer_that_measured_one_way_alone_stays_where_its_cluster_is() {
        let rtt = [[0.5, 80.0, 160.0], [80.0, 0.5, 220.0], [160.0, 220.0, 0.5]].map(Vec::from);
        let all = embed(&rtt, |_| (0..3).collect(), 30);
        let mut newcomer = Position::at(all[0].coordinate());
        newcomer.settle(&[(Duration::from_millis(80), all[1].coordinate())]);
        let far = distance(newcomer.coordinate(), all[2].coordinate());
        assert!(far.abs_diff(1_600) < 100, "{far}");
    }

    #[test]
    fn the_distance_is_the_same_either_way_and_never_overflows() {
        let far = Coordinate { position: [i16::MAX; 4], height: u16::MAX };
        let near = Coordinate { position: [i16::MIN; 4], height: 1 };
        assert_eq!(distance(far, near), u16::MAX);
        assert_eq!(distance(near, far), u16::MAX);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn three_pops_embed_within_a_tenth(a in 2.0_f64..150.0, b in 2.0_f64..150.0, lean in 0.05_f64..0.95) {
            // The third side is one that a triangle can have.
            let c = (a - b).abs() + lean * (a + b - (a - b).abs());
            prop_assume!(c > 1.0);
            let side = [[0.5, a, c], [a, 0.5, b], [c, b, 0.5]];
            let rtt: Vec<Vec<f64>> =
                (0..6).map(|p| (0..6).map(|q| side[p / 2][q / 2]).collect()).collect();
            let all = embed(&rtt, |_| (0..6).collect(), 30);
            for (p, q) in [(0, 2), (0, 4), (2, 4), (1, 3), (1, 5), (3, 5)] {
                let error = error(&all, &rtt, p, q);
                prop_assert!(error < 0.1 || error * rtt[p][q] < 0.6, "{error} of {}", rtt[p][q]);
            }
        }

        #[test]
        fn pops_on_a_plane_that_measure_a_few_others_find_their_distances(seed in any::<u64>()) {
            let mut random = Random::new(seed);
            let mut draw = || random.below(1_000) as f64 / 10.0;
            let at: Vec<(f64, f64)> = (0..40).map(|_| (draw(), draw())).collect();
            let rtt: Vec<Vec<f64>> = at
                .iter()
                .map(|p| at.iter().map(|q| (p.0 - q.0).hypot(p.1 - q.1) + 1.0).collect())
                .collect();
            let all = embed(&rtt, |one| (1..=8).map(|n| (one + n * n) % 40).collect(), 60);
            let mut errors: Vec<_> =
                (0..40).flat_map(|p| (0..p).map(move |q| (p, q))).map(|(p, q)| error(&all, &rtt, p, q)).collect();
            errors.sort_by(f64::total_cmp);
            prop_assert!(errors[errors.len() / 2] < 0.15, "median error {}", errors[errors.len() / 2]);
        }
    }
}
