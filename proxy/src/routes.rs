//! Kernel routes into the TUN device: what a routing daemon exports while the proxy is ready.
//!
//! ```text
//!  203.0.113.0/24 dev pias0 proto static     anycast prefixes: while ready
//!  192.0.2.11     dev pias0 proto static     NAT addresses: until the end, so that flows drain
//!  192.0.2.12     dev pias0 proto static metric 20000     a mate's, to be announced at a high price
//! ```
//! The device vanishes with the process, and the routes with the device.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use pias_overlay::StandbyAddress;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::route::{RouteMessage, RouteProtocol, RouteScope},
};

/// The kernel's metric of the routes of NAT addresses whose proxy is gone: this one goes on with its
/// flows.
pub const INHERITED_METRIC: u32 = 10_000;

/// The kernel's metric of the routes of NAT addresses that another proxy answers to while it lives.
pub const STANDBY_METRIC: u32 = 20_000;

/// Why a route was not changed.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Netlink cannot be used at all.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[from] std::io::Error),
    /// The kernel refused a change.
    #[error(
        "cannot {what} the route {prefix} over the TUN device: {source} (it needs CAP_NET_ADMIN)"
    )]
    Change {
        /// `install` or `remove`.
        what: &'static str,
        /// Which.
        prefix: IpNet,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// The length of a prefix is impossible; [`IpNet`] rules that out.
    #[error("{0} is no destination")]
    Destination(IpNet),
}

/// The routes of one TUN device.
pub struct Routes {
    netlink: Handle,
    device: u32,
    anycast: Vec<IpNet>,
    nat: Vec<IpNet>,
    /// Mates' NAT addresses that are routed here, and at which metric.
    standby: BTreeSet<(IpNet, u32)>,
    /// Those that the process before may have routed here.
    assumed: BTreeSet<(IpNet, u32)>,
}

impl Routes {
    /// The routes of this device (by its index), none of them installed yet.
    ///
    /// # Errors
    /// [`RouteError::Open`].
    pub fn new(device: u32, anycast: Vec<IpNet>, nat: &[IpAddr]) -> Result<Self, RouteError> {
        let (connection, netlink, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let nat = nat.iter().copied().map(IpNet::from).collect();
        let (standby, assumed) = (BTreeSet::new(), BTreeSet::new());
        Ok(Self { netlink, device, anycast, nat, standby, assumed })
    }

    /// Routes of mates' NAT addresses that the process before was to make. Those that are wanted still
    /// are made again, in case that it did not come to it.
    pub fn assume(&mut self, standing: &[StandbyAddress]) {
        self.assumed = standby_routes(standing);
    }

    /// Installs all routes. Those that are, stay.
    ///
    /// # Errors
    /// [`RouteError::Change`]; the routes before it are installed.
    pub async fn install(&self) -> Result<(), RouteError> {
        // NAT first: whoever is announced can serve.
        for &prefix in self.nat.iter().chain(&self.anycast) {
            self.add(prefix, None).await?;
        }
        Ok(())
    }

    /// Removes the routes of the anycast prefixes. Those that are gone already are no error.
    ///
    /// # Errors
    /// [`RouteError::Change`], after all others were tried.
    pub async fn withdraw(&self) -> Result<(), RouteError> {
        let mut outcome = Ok(());
        for &prefix in &self.anycast {
            outcome = outcome.and(self.remove(prefix, None).await);
        }
        outcome
    }

    /// Routes exactly these NAT addresses of mates here.
    ///
    /// # Errors
    /// [`RouteError::Change`], after all others were tried.
    pub async fn stand_by(&mut self, wanted: &[StandbyAddress]) -> Result<(), RouteError> {
        let wanted = standby_routes(wanted);
        let mut outcome = Ok(());
        // New ones first: an address whose metric changes is routed all the time.
        let new: Vec<_> = wanted.difference(&self.standby).copied().collect();
        for (prefix, metric) in new {
            match self.add(prefix, Some(metric)).await {
                Ok(()) => _ = self.standby.insert((prefix, metric)),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        let made = self.standby.union(&self.assumed).copied();
        let old: Vec<_> = made.filter(|route| !wanted.contains(route)).collect();
        for (prefix, metric) in old {
            match self.remove(prefix, Some(metric)).await {
                Ok(()) => {
                    self.standby.remove(&(prefix, metric));
                    self.assumed.remove(&(prefix, metric));
                }
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    /// Removes the routes of NAT addresses, the own ones and those of mates.
    ///
    /// # Errors
    /// [`RouteError::Change`], after all others were tried.
    pub async fn withdraw_nat(&mut self) -> Result<(), RouteError> {
        let mut outcome = self.stand_by(&[]).await;
        for &prefix in &self.nat {
            outcome = outcome.and(self.remove(prefix, None).await);
        }
        outcome
    }

    async fn add(&self, prefix: IpNet, metric: Option<u32>) -> Result<(), RouteError> {
        let request = self.netlink.route().add(self.route(prefix, metric)?).replace();
        let change = |source| RouteError::Change { what: "install", prefix, source };
        request.execute().await.map_err(change)
    }

    /// One that is gone already is no error.
    async fn remove(&self, prefix: IpNet, metric: Option<u32>) -> Result<(), RouteError> {
        match self.netlink.route().del(self.route(prefix, metric)?).execute().await {
            Ok(()) => Ok(()),
            Err(rtnetlink::Error::NetlinkError(error))
                if error.to_io().raw_os_error() == Some(nix::libc::ESRCH) =>
            {
                Ok(())
            }
            Err(source) => Err(RouteError::Change { what: "remove", prefix, source }),
        }
    }

    fn route(&self, prefix: IpNet, metric: Option<u32>) -> Result<RouteMessage, RouteError> {
        // As `ip route add PREFIX dev DEVICE proto static` does it: IPv4 knows on-link routes by
        // their scope, IPv6 has no scopes.
        let scope = if prefix.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(prefix.addr(), prefix.prefix_len())
            .map_err(|_| RouteError::Destination(prefix))?
            .output_interface(self.device)
            .protocol(RouteProtocol::Static)
            .scope(scope);
        Ok(match metric {
            Some(metric) => route.priority(metric).build(),
            None => route.build(),
        })
    }
}

/// The routes of mates' NAT addresses, and their metrics.
fn standby_routes(standing: &[StandbyAddress]) -> BTreeSet<(IpNet, u32)> {
    let metric = |live| if live { STANDBY_METRIC } else { INHERITED_METRIC };
    standing.iter().map(|held| (IpNet::from(held.address), metric(held.live))).collect()
}

#[cfg(test)]
mod tests {
    use pias_protocol::ids::ProxyId;

    use super::*;

    #[tokio::test]
    async fn a_route_that_the_kernel_refused_is_asked_for_again() {
        // No interface has this index.
        let mut routes = Routes::new(i32::MAX as u32, Vec::new(), &[]).unwrap();
        let address = "192.0.2.12".parse().unwrap();
        let wanted = [StandbyAddress { address, of: ProxyId(2), live: true }];
        for _ in 0..2 {
            let refused = routes.stand_by(&wanted).await;
            assert!(matches!(refused, Err(RouteError::Change { what: "install", .. })));
        }
        assert!(routes.stand_by(&[]).await.is_ok(), "nothing was installed");
    }

    #[tokio::test]
    async fn a_route_that_the_process_before_may_not_have_made_is_asked_for() {
        let mut routes = Routes::new(i32::MAX as u32, Vec::new(), &[]).unwrap();
        let address = "192.0.2.12".parse().unwrap();
        let wanted = [StandbyAddress { address, of: ProxyId(2), live: true }];
        routes.assume(&wanted);
        assert!(routes.stand_by(&wanted).await.is_err(), "no interface has this index");
    }
}
