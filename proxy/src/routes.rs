//! Kernel routes into the TUN device: what a routing daemon exports while the proxy is ready.
//!
//! ```text
//!  203.0.113.0/24 dev pias0 proto static     anycast prefixes: while ready
//!  192.0.2.11     dev pias0 proto static     NAT addresses: until the end, so that flows drain
//! ```
//! The device vanishes with the process, and the routes with the device.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::route::{RouteMessage, RouteProtocol, RouteScope},
};

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
}

impl Routes {
    /// The routes of this device (by its index), none of them installed yet.
    ///
    /// # Errors
    /// [`RouteError::Open`].
    pub fn new(device: u32, anycast: Vec<IpNet>, nat: &[IpAddr]) -> Result<Self, RouteError> {
        let (connection, netlink, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { netlink, device, anycast, nat: nat.iter().copied().map(IpNet::from).collect() })
    }

    /// Installs all routes. Those that are, stay.
    ///
    /// # Errors
    /// [`RouteError::Change`]; the routes before it are installed.
    pub async fn install(&self) -> Result<(), RouteError> {
        // NAT first: whoever is announced can serve.
        for &prefix in self.nat.iter().chain(&self.anycast) {
            let request = self.netlink.route().add(self.route(prefix)?).replace();
            let change = |source| RouteError::Change { what: "install", prefix, source };
            request.execute().await.map_err(change)?;
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
            match self.netlink.route().del(self.route(prefix)?).execute().await {
                Ok(()) => {}
                Err(rtnetlink::Error::NetlinkError(error))
                    if error.to_io().raw_os_error() == Some(nix::libc::ESRCH) => {}
                Err(source) => {
                    outcome = Err(RouteError::Change { what: "remove", prefix, source });
                }
            }
        }
        outcome
    }

    fn route(&self, prefix: IpNet) -> Result<RouteMessage, RouteError> {
        // As `ip route add PREFIX dev DEVICE proto static` does it: IPv4 knows on-link routes by
        // their scope, IPv6 has no scopes.
        let scope = if prefix.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
        Ok(RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(prefix.addr(), prefix.prefix_len())
            .map_err(|_| RouteError::Destination(prefix))?
            .output_interface(self.device)
            .protocol(RouteProtocol::Static)
            .scope(scope)
            .build())
    }
}
