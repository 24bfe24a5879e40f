//! What an application asks for: a group, the target in it, and how the target is checked.

use std::{convert::Infallible, net::SocketAddr, str::FromStr};

use pias_protocol::{
    group::{GroupKey, ParseGroupError, Protocol, parse_group},
    limits::MAX_WEIGHT,
};

use crate::{
    check::{Check, CheckTiming},
    limits::{CHECK_TIME_MAX, CHECK_TIME_MIN},
    target::Target,
};

/// A group to join: `AA:port/tcp`, `AA:port/udp`, or `AA:port` for both.
///
/// ```
/// use pias_agent::{Check, Group, Target};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let group: Group = "203.0.113.10:53/udp".parse()?;
/// let group = group.to(":5353".parse::<Target>()?).weight(10).check(Check::Tcp);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub(crate) socket: SocketAddr,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) target: Target,
    pub(crate) weight: u32,
    pub(crate) check: Option<Check>,
    pub(crate) timing: CheckTiming,
}

/// Why a group cannot be joined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The text is no group.
    #[error(transparent)]
    Parse(#[from] ParseGroupError),
    /// The packets of one family cannot be delivered to a target of the other.
    #[error("{group} and its target {target} are of different address families")]
    Family {
        /// The group.
        group: SocketAddr,
        /// The target's address.
        target: std::net::IpAddr,
    },
    /// Not from 1 to the greatest weight.
    #[error("weight {0} of {1}: give 1 to {MAX_WEIGHT}")]
    Weight(u32, SocketAddr),
    /// The timing of the check is out of bounds.
    #[error("check of {0}: interval and timeout may be 10 ms to 1 h, rise and fall 1 or more")]
    Timing(SocketAddr),
}

impl From<Infallible> for GroupError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl Group {
    /// Where the target is; by default the group's port on the address that the route to the group
    /// uses.
    #[must_use]
    pub fn to(mut self, target: impl Into<Target>) -> Self {
        self.target = target.into();
        self
    }

    /// The share of flows relative to other targets, 1 (the default) to
    /// [`MAX_WEIGHT`].
    #[must_use]
    pub const fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Checks the service, and takes the target out of the group while it does not work.
    #[must_use]
    pub fn check(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }

    /// How often, and how many results count.
    #[must_use]
    pub const fn timing(mut self, timing: CheckTiming) -> Self {
        self.timing = timing;
        self
    }

    /// One key for each protocol.
    pub(crate) fn keys(&self) -> impl Iterator<Item = GroupKey> {
        let (address, port) = (self.socket.ip(), self.socket.port());
        [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .filter(|protocol| self.protocol.is_none_or(|wanted| wanted == *protocol))
            .map(move |protocol| GroupKey { address, port, protocol })
    }

    /// What can be told to be wrong without asking a proxy.
    pub(crate) fn validate(&self) -> Result<(), GroupError> {
        if let Some(target) = self.target.address()
            && target.is_ipv4() != self.socket.is_ipv4()
        {
            return Err(GroupError::Family { group: self.socket, target });
        }
        if !(1..=MAX_WEIGHT).contains(&self.weight) {
            return Err(GroupError::Weight(self.weight, self.socket));
        }
        let CheckTiming { interval, timeout, rise, fall } = self.timing;
        let times = CHECK_TIME_MIN..=CHECK_TIME_MAX;
        if rise == 0 || fall == 0 || !times.contains(&interval) || !times.contains(&timeout) {
            return Err(GroupError::Timing(self.socket));
        }
        Ok(())
    }
}

impl FromStr for Group {
    type Err = GroupError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (socket, protocol) = parse_group(text)?;
        let (target, timing) = (Target::default(), CheckTiming::default());
        Ok(Self { socket, protocol, target, weight: 1, check: None, timing })
    }
}

impl TryFrom<&str> for Group {
    type Error = GroupError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<GroupKey> for Group {
    fn from(key: GroupKey) -> Self {
        let (target, timing) = (Target::default(), CheckTiming::default());
        let (socket, protocol) = (key.socket(), Some(key.protocol));
        Self { socket, protocol, target, weight: 1, check: None, timing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(text: &str) -> Group {
        text.parse().unwrap()
    }

    #[test]
    fn a_group_without_a_protocol_is_two_memberships() {
        let keys: Vec<_> = group("203.0.113.10:53").keys().map(|key| key.to_string()).collect();
        assert_eq!(keys, ["203.0.113.10:53/tcp", "203.0.113.10:53/udp"]);
        assert_eq!(group("203.0.113.10:53/udp").keys().count(), 1);
    }

    #[test]
    fn what_no_proxy_would_grant_is_refused_here() {
        let to_v6 = group("203.0.113.10:53").to("2001:db8::1".parse::<Target>().unwrap());
        assert!(matches!(to_v6.validate(), Err(GroupError::Family { .. })));
        let none = group("203.0.113.10:53").weight(0);
        assert!(matches!(none.validate(), Err(GroupError::Weight(0, _))));
        let timing = CheckTiming { rise: 0, ..CheckTiming::default() };
        let never = group("203.0.113.10:53").timing(timing);
        assert!(matches!(never.validate(), Err(GroupError::Timing(_))));
        assert_eq!(group("203.0.113.10:53").validate(), Ok(()));
    }
}
