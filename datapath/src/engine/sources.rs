//! Where packets come from and go to: made here, or handed over by another process.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use pias_protocol::GENEVE_PORT;

use super::{
    EngineConfig, StartError, device::Device, hand_over::TunDevice, outbox::Outbox,
    tunnel::Receiver,
};

/// The sockets that send to other proxies: so many that nobody should have to wait while they are
/// bound. An engine that takes over is given them.
pub struct Senders(Outbox);

impl Senders {
    /// Sockets for each of these local addresses.
    ///
    /// # Errors
    /// [`StartError::Tunnel`].
    pub fn bind(unicast: &[IpAddr]) -> Result<Self, StartError> {
        let tunnel = |(address, source)| StartError::Tunnel { address, source };
        Outbox::bind(unicast).map(Self).map_err(tunnel)
    }
}

/// Where packets come from and go to.
pub(super) struct Sources {
    pub(super) device: Device,
    pub(super) receivers: Vec<Receiver>,
    pub(super) outbox: Outbox,
}

impl Sources {
    /// Makes the device, and binds the sockets.
    pub(super) fn open(config: &EngineConfig) -> Result<Self, StartError> {
        let device = Device::create(&config.device)
            .map_err(|source| StartError::Device { name: config.device.clone(), source })?;
        let receivers = receivers(config, Receiver::bind)?;
        let Senders(outbox) = Senders::bind(&config.pipeline.unicast)?;
        Ok(Self { device, receivers, outbox })
    }

    /// Those of another process, but for the senders.
    pub(super) fn adopt(
        config: &EngineConfig,
        Senders(outbox): Senders,
        device: TunDevice,
        tunnels: Vec<UdpSocket>,
    ) -> Result<Self, StartError> {
        let device = Device::adopt(device, &config.device)
            .map_err(|source| StartError::Adopt { name: config.device.clone(), source })?;
        let mut tunnels = tunnels.into_iter();
        let receivers = receivers(config, |endpoint| match tunnels.next() {
            Some(socket) => Receiver::adopt(socket, endpoint),
            None => Err(io::Error::new(io::ErrorKind::InvalidInput, "no socket was handed over")),
        })?;
        Ok(Self { device, receivers, outbox })
    }
}

/// A receiver per tunnel endpoint, in the order of the configuration.
fn receivers(
    config: &EngineConfig,
    mut make: impl FnMut(SocketAddr) -> io::Result<Receiver>,
) -> Result<Vec<Receiver>, StartError> {
    let unicast = config.pipeline.unicast.iter();
    let endpoints = unicast.map(|&address| SocketAddr::new(address, GENEVE_PORT));
    endpoints
        .map(|address| make(address).map_err(|source| StartError::Tunnel { address, source }))
        .collect()
}
