//! What an agent tells its application.

use std::{net::SocketAddr, time::Duration};

use pias_protocol::{agent::RefusalCode, group::GroupKey};
use tokio::sync::broadcast;

/// Something changed for one membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The group.
    pub group: GroupKey,
    /// The target in it; unknown as long as there was no route to the group.
    pub target: Option<SocketAddr>,
    /// What changed.
    pub kind: EventKind,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// The target is a member.
    Joined {
        /// The name of the proxy that it joined through, its JAP.
        proxy: String,
        /// The name of that proxy's cluster.
        cluster: String,
        /// The round trip to that proxy.
        rtt: Duration,
        /// How long the membership outlives the last keep-alive.
        lease: Duration,
    },
    /// The proxy does not grant the membership.
    Refused {
        /// Why, for a program.
        code: RefusalCode,
        /// Why, for a person.
        reason: String,
        /// When the agent asks again; `None`: never.
        retry_in: Option<Duration>,
    },
    /// The proxy is gone, and the membership with it.
    Lost {
        /// What was seen.
        reason: String,
    },
    /// The agent tries to join (again).
    Rejoining {
        /// After this wait.
        after: Duration,
        /// Why it is not joined.
        reason: String,
    },
    /// The target gets no new flows.
    TargetDown {
        /// Who found out.
        by: Observer,
        /// What was seen.
        reason: String,
    },
    /// The target gets new flows again.
    TargetUp {
        /// Who found out.
        by: Observer,
    },
    /// The proxy stops soon; the agent joins through another before it does.
    Draining {
        /// When the proxy closes.
        closes_in: Duration,
    },
    /// The agent ended the membership.
    Left,
}

impl EventKind {
    /// A target came `up`, or went down because of `reason`.
    pub(crate) fn target(up: bool, by: Observer, reason: String) -> Self {
        if up { Self::TargetUp { by } } else { Self::TargetDown { by, reason } }
    }
}

/// Who saw that a target went down or came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observer {
    /// The application or the check, on this host.
    Agent,
    /// The proxy, from traffic or its probes.
    Proxy,
}

/// The events of an agent, in order.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<Event>,
    missed: u64,
}

impl Events {
    pub(crate) const fn new(receiver: broadcast::Receiver<Event>) -> Self {
        Self { receiver, missed: 0 }
    }

    /// The next event; `None` when the agent has ended. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.receiver.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(count)) => self.missed += count,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// How many events were forgotten because nobody read them
    /// (see [`EVENT_QUEUE`](crate::limits::EVENT_QUEUE)).
    #[must_use]
    pub const fn missed(&self) -> u64 {
        self.missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_that_nobody_reads_are_counted_and_the_newest_stay() {
        let (sender, receiver) = broadcast::channel(2);
        let mut events = Events::new(receiver);
        let group = "203.0.113.10:53/udp".parse().unwrap();
        for port in 1..=5 {
            let target = Some(SocketAddr::from(([10, 0, 0, 1], port)));
            sender.send(Event { group, target, kind: EventKind::Left }).unwrap();
        }
        drop(sender);
        assert_eq!(events.next().await.unwrap().target.unwrap().port(), 4);
        assert_eq!(events.missed(), 3);
        assert_eq!(events.next().await.unwrap().target.unwrap().port(), 5);
        assert_eq!(events.next().await, None);
    }
}
