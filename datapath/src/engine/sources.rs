//! Where packets come from and go to: made here, or handed over by another process.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

use pias_protocol::GENEVE_PORT;
use tracing::{info, warn};

use super::{
    EngineConfig, StartError,
    device::Device,
    fast::{Fast, FastError},
    hand_over::TunDevice,
    outbox::Outbox,
    tunnel::Receiver,
};
use crate::pipeline::Pipeline;

/// What takes long to make, so that nobody should have to wait for it: the sockets that send to other
/// proxies, the tables, and XDP, which is loaded and not attached. An engine that takes over is given it.
pub struct Prepared {
    pub(super) outbox: Outbox,
    pub(super) pipeline: Pipeline,
    pub(super) fast: Option<Fast>,
}

impl Prepared {
    /// All of that for an engine of this configuration.
    ///
    /// # Errors
    /// [`StartError::Tunnel`], and [`StartError::Fast`] where XDP is required.
    pub fn new(config: &EngineConfig) -> Result<Self, StartError> {
        let tunnel = |(address, source)| StartError::Tunnel { address, source };
        let outbox = Outbox::bind(&config.pipeline.unicast).map_err(tunnel)?;
        let (pipeline, fast) = with_fast(config, &outbox)?;
        Ok(Self { outbox, pipeline, fast })
    }
}

/// The pipeline, and XDP in front of it where that can be had.
fn with_fast(
    EngineConfig { pipeline, pins, fast, .. }: &EngineConfig,
    outbox: &Outbox,
) -> Result<(Pipeline, Option<Fast>), StartError> {
    let alone = || Ok((Pipeline::new(pipeline.clone()), None));
    let Some(config) = fast else { return alone() };
    let loaded = Fast::load(config, pins.clone(), pipeline, outbox);
    let shared = loaded
        .and_then(|(fast, shared)| Ok((Pipeline::sharing(pipeline.clone(), shared)?, Some(fast))));
    match shared {
        Err(error) if config.required => Err(StartError::Fast(error)),
        Err(error) => {
            let alone_because = format!("the TUN engine forwards alone: {error}");
            match error {
                FastError::NoInterface => info!("{alone_because}"),
                _ => warn!("{alone_because}"),
            }
            alone()
        }
        done => done.map_err(StartError::Fast),
    }
}

/// Where packets come from and go to.
pub(super) struct Sources {
    pub(super) device: Device,
    pub(super) receivers: Vec<Receiver>,
    pub(super) prepared: Prepared,
}

impl Sources {
    /// Makes the device, and binds the sockets.
    pub(super) fn open(config: &EngineConfig) -> Result<Self, StartError> {
        let device = Device::create(&config.device)
            .map_err(|source| StartError::Device { name: config.device.clone(), source })?;
        let receivers = receivers(config, Receiver::bind)?;
        Ok(Self { device, receivers, prepared: Prepared::new(config)? })
    }

    /// Those of another process, and what was prepared.
    pub(super) fn adopt(
        config: &EngineConfig,
        prepared: Prepared,
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
        Ok(Self { device, receivers, prepared })
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
