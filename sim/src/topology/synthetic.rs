//! A topology out of a seed: POPs on a sphere, in regions, with short and long links.
//!
//! Only additions, multiplications and square roots are used, which IEEE 754 defines to the bit:
//! a seed gives the same topology on every machine.

use std::time::Duration;

use super::{Link, Pop, Topology};
use crate::random::Draws;

/// Regions with POPs close to each other.
const REGIONS: usize = 7;
/// How far POPs lie from their region's middle, in radii of the Earth.
const SPREAD: f64 = 0.25;
/// Kilometres.
const EARTH_RADIUS: f64 = 6_371.0;
/// Light in glass, in kilometres per millisecond.
const FIBRE: f64 = 200.0;
/// Cables are longer than the straight way through the Earth.
const DETOUR: f64 = 1.5;
/// Links of a POP to its nearest neighbours.
const NEAR_LINKS: usize = 2;
/// One POP of so many has a link to anywhere.
const LONG_LINKS: usize = 8;

type Point = [f64; 3];

/// `count` POPs, each linked to the nearest one of those before it (so that all are connected), to
/// its nearest neighbours, and some to anywhere.
pub(super) fn sphere(count: usize, seed: u64) -> Topology {
    let mut draws = Draws::new(seed, 0x746F_706F);
    let middles: Vec<Point> = (0..REGIONS).map(|_| on_sphere([0.0; 3], 1.0, &mut draws)).collect();
    let points: Vec<Point> = (0..count)
        .map(|n| match middles.get(n % (REGIONS + 1)) {
            Some(&middle) => on_sphere(middle, SPREAD, &mut draws),
            None => on_sphere([0.0; 3], 1.0, &mut draws),
        })
        .collect();
    let mut pairs = std::collections::BTreeSet::new();
    for n in 1..count {
        let mut nearest: Vec<usize> = (0..count).filter(|&m| m != n).collect();
        nearest.sort_by(|&a, &b| {
            let (a, b) = (distance(points[n], points[a]), distance(points[n], points[b]));
            a.total_cmp(&b)
        });
        let before = nearest.iter().copied().find(|&m| m < n);
        let mut others: Vec<usize> = nearest.into_iter().take(NEAR_LINKS).chain(before).collect();
        if draws.below(LONG_LINKS) == 0 {
            others.push(draws.below(n));
        }
        pairs.extend(others.into_iter().map(|m| (m.min(n), m.max(n))));
    }
    let link = |(a, b)| {
        let milliseconds = distance(points[a], points[b]) * EARTH_RADIUS * DETOUR / FIBRE;
        Link { a, b, delay: Duration::from_micros((milliseconds * 1_000.0) as u64 + 50) }
    };
    Topology {
        pops: (0..count).map(|n| Pop { name: format!("p{n}x") }).collect(),
        links: pairs.into_iter().map(link).collect(),
        clusters: Vec::new(),
    }
}

/// A point of the unit sphere, in the direction of a point of the cube around `middle`.
fn on_sphere(middle: Point, spread: f64, draws: &mut Draws) -> Point {
    loop {
        let point = middle.map(|x| x + (draws.unit() * 2.0 - 1.0) * spread);
        let length = distance(point, [0.0; 3]);
        if length > 0.1 {
            return point.map(|x| x / length);
        }
    }
}

fn distance(a: Point, b: Point) -> f64 {
    let square = |n: usize| (a[n] - b[n]) * (a[n] - b[n]);
    (square(0) + square(1) + square(2)).sqrt()
}
