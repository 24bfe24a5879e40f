//! What a proxy keeps about another one.

use std::{net::IpAddr, time::Duration};

use pias_protocol::{ids::ClusterId, overlay::MemberRecord, time::Time};

use crate::timing::{FIRST_CONTACT, MAX_PATIENCE, MISSED_HEARTBEATS};

/// Another proxy.
#[derive(Debug)]
pub(crate) struct Peer {
    /// What is believed of it.
    pub(crate) record: MemberRecord,
    /// Its cluster's id.
    pub(crate) cluster: ClusterId,
    /// Where it is reached.
    pub(crate) address: IpAddr,
    /// When it was heard last.
    pub(crate) heard: Option<Time>,
    /// When it is taken for dead unless it is heard.
    pub(crate) silent_at: Time,
    /// Whether it was heard since it came up, and so was told all records.
    pub(crate) met: bool,
    /// When it was last told all records.
    pub(crate) told: Option<Time>,
    /// When its state changed.
    pub(crate) since: Time,
    /// Round-trip time: follows a shorter one at once, a longer one slowly, as queues come and go
    /// but the way stays.
    pub(crate) rtt: Option<Duration>,
    /// How long its first sign of life may take; doubles each time it denies its death.
    pub(crate) patience: Duration,
}

impl Peer {
    pub(crate) fn new(record: MemberRecord, address: IpAddr, now: Time) -> Self {
        Self {
            cluster: ClusterId::of(&record.cluster),
            record,
            address,
            heard: None,
            silent_at: now + FIRST_CONTACT,
            met: false,
            told: None,
            since: now,
            rtt: None,
            patience: FIRST_CONTACT,
        }
    }

    /// It was heard.
    pub(crate) fn hear(&mut self, heartbeat: Duration, now: Time) {
        self.heard = Some(now);
        self.silent_at = now + heartbeat * MISSED_HEARTBEATS + self.rtt.unwrap_or_default();
    }

    /// Whether it was heard within the last `time`.
    pub(crate) fn heard_within(&self, time: Duration, now: Time) -> bool {
        self.heard.is_some_and(|heard| now - heard < time)
    }

    /// It came up, or is said to live: it has some time to be heard.
    pub(crate) fn expect(&mut self, now: Time) {
        self.met = false;
        self.silent_at = now + self.patience;
    }

    /// It was taken for dead here: if that proves wrong, more patience is due.
    pub(crate) fn misjudge(&mut self) {
        self.patience = (self.patience * 2).min(MAX_PATIENCE);
    }

    /// A measurement of the round-trip time.
    pub(crate) fn measure(&mut self, sample: Duration) {
        self.rtt = Some(match self.rtt {
            Some(rtt) if sample > rtt => rtt + (sample - rtt) / 16,
            _ => sample,
        });
    }
}

#[cfg(test)]
mod tests {
    use pias_protocol::overlay::MemberState;

    use super::*;

    #[test]
    fn a_queue_does_not_make_a_proxy_look_far() {
        let record = MemberRecord {
            name: "fra1".into(),
            cluster: "fra".into(),
            unicast: vec!["192.0.2.1".parse().unwrap()],
            nat: vec![],
            incarnation: 1,
            state: MemberState::Up,
        };
        let mut peer = Peer::new(record, "192.0.2.1".parse().unwrap(), Time::ZERO);
        peer.measure(Duration::from_millis(10));
        peer.measure(Duration::from_millis(100));
        assert!(peer.rtt.unwrap() < Duration::from_millis(16));
        peer.measure(Duration::from_millis(8));
        assert_eq!(peer.rtt, Some(Duration::from_millis(8)));
    }
}
