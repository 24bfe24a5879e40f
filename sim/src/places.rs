//! Network coordinates of all clusters, as they are in a service that has been running for long.
//!
//! Proxies find their coordinates themselves, from the round-trip times that they measure
//! (`overlay/src/proximity/`). For a service that starts known, the same springs are relaxed here
//! first: else the first minute of a simulation would be nothing but clusters that look for their
//! places all at once, which no running service does.

use pias_protocol::{ids::ClusterId, overlay::Coordinate};

use crate::{network::Network, random::Draws, topology::Topology};

/// Units of a coordinate in a millisecond.
const UNITS: f64 = 10.0;
/// Others that each cluster measures.
const PARTNERS: usize = 24;
const ROUNDS: usize = 120;

#[derive(Clone, Copy, Debug)]
struct Place {
    at: [f64; 4],
    height: f64,
}

/// The coordinate of each cluster.
pub(crate) fn of_clusters(topology: &Topology, network: &Network) -> Vec<(ClusterId, Coordinate)> {
    let count = topology.clusters.len();
    let mut draws = Draws::new(count as u64, 0x706C_6163);
    let mut scattered = || draws.unit() * 2.0 - 1.0;
    let mut places: Vec<Place> = (0..count)
        .map(|_| Place { at: std::array::from_fn(|_| scattered()), height: 1.0 })
        .collect();
    let others = PARTNERS.min(count.saturating_sub(1));
    let springs: Vec<(usize, usize, f64)> = (0..count)
        .flat_map(|one| (0..others).map(move |n| (one, n)))
        .filter_map(|(one, _)| {
            let other = draws.below(count);
            let way = network.distance(one, other).filter(|_| one != other)?;
            Some((one, other, way.as_secs_f64() * 2_000.0 * UNITS))
        })
        .collect();
    for round in 0..ROUNDS {
        let step = 0.25 / (1.0 + round as f64 / 16.0);
        for &(one, other, length) in &springs {
            places[one] = pulled(places[one], places[other], length, step);
        }
    }
    let coordinate = |place: &Place| Coordinate {
        position: place.at.map(|x| x.clamp(-32_768.0, 32_767.0) as i16),
        height: place.height.min(65_535.0) as u16,
    };
    let ids = topology.clusters.iter().map(|cluster| ClusterId::of(&cluster.name));
    ids.zip(places.iter().map(coordinate)).collect()
}

/// One step of one spring: as in Vivaldi, the height takes its share.
fn pulled(mut place: Place, other: Place, length: f64, step: f64) -> Place {
    let away: [f64; 4] = std::array::from_fn(|n| place.at[n] - other.at[n]);
    let between = away.iter().map(|x| x * x).sum::<f64>().sqrt();
    let heights = place.height + other.height;
    let force = step * (length - between - heights);
    if between > 0.0 {
        for (at, away) in place.at.iter_mut().zip(away) {
            *at += force * away / between;
        }
    }
    let share = heights / (between + heights);
    place.height = (place.height + force * share).clamp(1.0, length.max(1.0));
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_foretell_most_ways_well() {
        let topology = Topology::synthetic(60, 3).populated(120, 2, 3);
        let network = Network::new(&topology, 1);
        let places = of_clusters(&topology, &network);
        let mut errors: Vec<f64> = Vec::new();
        for one in 0..60 {
            for other in 0..one {
                let rtt = network.distance(one, other).unwrap().as_secs_f64() * 2_000.0 * UNITS;
                let (a, b) = (places[one].1, places[other].1);
                let square =
                    |n: usize| (f64::from(a.position[n]) - f64::from(b.position[n])).powi(2);
                let flat = (0..4).map(square).sum::<f64>().sqrt();
                let foretold = flat + f64::from(a.height) + f64::from(b.height);
                errors.push((foretold - rtt).abs() / rtt);
            }
        }
        errors.sort_by(f64::total_cmp);
        assert!(errors[errors.len() / 2] < 0.25, "median error {}", errors[errors.len() / 2]);
    }
}
