//! What is measured of every candidate.

/// A figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Metric {
    /// Median round trip of a 64-byte request, one outstanding.
    RoundTripMedian,
    /// 99th percentile of the same.
    RoundTripTail,
    /// Replies to 64-byte requests at saturation.
    Replies,
    /// One TCP stream from the client to the server.
    BulkToTarget,
    /// One TCP stream from the server to the client.
    BulkToClient,
    /// TCP connections that carry a byte there and back.
    Connections,
}

impl Metric {
    /// All, in the order of the table.
    pub(super) const ALL: [Metric; 6] = [
        Metric::RoundTripMedian,
        Metric::RoundTripTail,
        Metric::Replies,
        Metric::BulkToTarget,
        Metric::BulkToClient,
        Metric::Connections,
    ];

    /// Its name in tables and rows.
    pub(super) fn title(self) -> &'static str {
        match self {
            Metric::RoundTripMedian => "UDP 64 B round trip p50",
            Metric::RoundTripTail => "UDP 64 B round trip p99",
            Metric::Replies => "UDP 64 B replies",
            Metric::BulkToTarget => "TCP bulk, client to target",
            Metric::BulkToClient => "TCP bulk, target to client",
            Metric::Connections => "TCP connections",
        }
    }

    /// The unit of its values.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Metric::RoundTripMedian | Metric::RoundTripTail => "µs",
            Metric::Replies | Metric::Connections => "1/s",
            Metric::BulkToTarget | Metric::BulkToClient => "Gb/s",
        }
    }

    /// Digits after the point in the table.
    pub(super) fn decimals(self) -> usize {
        match self {
            Metric::RoundTripMedian | Metric::RoundTripTail => 1,
            Metric::Replies | Metric::Connections => 0,
            Metric::BulkToTarget | Metric::BulkToClient => 2,
        }
    }

    /// How many times as good `value` is as `other`: more than 1 is ahead,
    /// whether the metric is a time or a rate.
    pub(super) fn times_as_good(self, value: f64, other: f64) -> f64 {
        match self {
            Metric::RoundTripMedian | Metric::RoundTripTail => other / value,
            _ => value / other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_time_and_twice_the_rate_are_both_twice_as_good() {
        assert_eq!(Metric::RoundTripTail.times_as_good(10.0, 20.0), 2.0);
        assert_eq!(Metric::Replies.times_as_good(20.0, 10.0), 2.0);
    }
}
