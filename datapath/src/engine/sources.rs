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
    hand_over::{TablesId, TunDevice},
    outbox::Outbox,
    tunnel::Receiver,
};
use crate::{pipeline::Pipeline, xdp::kept::Kept};

/// What takes long to make, so that nobody should have to wait for it: the sockets that send to other
/// proxies, the tables, and XDP, which is loaded and not attached. An engine that takes over is given it.
pub struct Prepared {
    pub(super) outbox: Outbox,
    pub(super) pipeline: Pipeline,
    pub(super) fast: Option<Fast>,
}

impl Prepared {
    /// All of that for an engine of this configuration, that takes over from the one that runs: where both
    /// have XDP, and the same tables, by what that has in them.
    ///
    /// # Errors
    /// [`StartError::Tunnel`], and [`StartError::Fast`] where XDP is required.
    pub fn new(config: &EngineConfig) -> Result<Self, StartError> {
        Self::with(config, kept(config).as_ref())
    }

    /// The tables of the running process, where this one goes on with them.
    #[must_use]
    pub fn tables(&self) -> Option<TablesId> {
        self.fast.as_ref().filter(|fast| fast.is_kept()).map(Fast::tables_id)
    }

    /// Flows of another process in the tables are named as it named them.
    fn recall(&mut self) {
        if let Some(fast) = &mut self.fast {
            fast.recall(&mut self.pipeline);
        }
    }

    /// The same with the tables of another process.
    fn with(config: &EngineConfig, kept: Option<&Kept>) -> Result<Self, StartError> {
        let tunnel = |(address, source)| StartError::Tunnel { address, source };
        let outbox = Outbox::bind(&config.pipeline.unicast).map_err(tunnel)?;
        let (pipeline, fast) = with_fast(config, kept, &outbox)?;
        Ok(Self { outbox, pipeline, fast })
    }
}

/// The tables of another process, that runs, or was killed a moment ago.
fn kept(config: &EngineConfig) -> Option<Kept> {
    config.fast.as_ref().and_then(|_| Kept::find(&config.pins, &config.pipeline))
}

/// The pipeline, and XDP in front of it where that can be had.
fn with_fast(
    EngineConfig { pipeline, pins, fast, .. }: &EngineConfig,
    kept: Option<&Kept>,
    outbox: &Outbox,
) -> Result<(Pipeline, Option<Fast>), StartError> {
    let alone = || Ok((Pipeline::new(pipeline.clone()), None));
    let Some(config) = fast else { return alone() };
    let load = |kept: Option<&Kept>| Fast::load(config, pins.clone(), kept, pipeline, outbox);
    let loaded = match kept.map(|kept| load(Some(kept))) {
        Some(Err(error)) => {
            warn!("flows of the process before are forgotten: {error}");
            load(None)
        }
        Some(loaded) => loaded,
        None => load(None),
    };
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
        // Who had the device before is gone, or it would be there yet.
        let kept = kept(config);
        if kept.is_some() {
            info!("a process of this proxy was killed a moment ago: its flows stay where they are");
        }
        let mut prepared = Prepared::with(config, kept.as_ref())?;
        prepared.recall();
        Ok(Self { device, receivers, prepared })
    }

    /// Those of another process, and what was prepared.
    pub(super) fn adopt(
        config: &EngineConfig,
        mut prepared: Prepared,
        device: TunDevice,
        tunnels: Vec<UdpSocket>,
    ) -> Result<Self, StartError> {
        prepared.recall();
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
