//! Stopping the parts of the running process, so that what they know stands still.
//!
//! ```text
//!   engine: reads no packets ─► parked packets leave ─► overlay's sockets: silent
//!     ─► brain: stands still, its state ─► engine: its state, the descriptors
//! ```
//! Dropping [`Frozen`] lets all go on.

use std::{io, net::TcpListener, sync::Arc, time::Instant};

use pias_datapath::engine::{EngineGone, EngineHandle, TablesId};
use tokio::task::spawn_blocking;

use super::Legacy;
use crate::{
    brain::{BrainGone, BrainHandle, Thaw},
    limits::{HEARD_TIME, SETTLE_TIME},
    overlay_net::OverlayNet,
};

/// The parts that are stopped.
#[derive(Clone)]
pub struct Parts {
    /// The overlay.
    pub brain: BrainHandle,
    /// The datapath.
    pub engine: EngineHandle,
    /// The overlay's sockets.
    pub overlay: OverlayNet,
    /// Where metrics are served. It is handed over, and never stops.
    pub metrics: Arc<TcpListener>,
}

/// Why the running process cannot hand over. All goes on then.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// The datapath does not answer.
    #[error(transparent)]
    Engine(#[from] EngineGone),
    /// The overlay does not answer.
    #[error(transparent)]
    Brain(#[from] BrainGone),
    /// The proxy starts, or is about to stop.
    #[error("the running piasd is not in service: it starts, or drains. Try again, or let it stop")]
    NotInService,
    /// Descriptors cannot be duplicated.
    #[error("cannot duplicate a descriptor: {0}")]
    Descriptors(#[from] io::Error),
}

/// Parts that stand still until this is dropped.
pub struct Frozen {
    parts: Option<Parts>,
    brain: Option<Thaw>,
}

impl Frozen {
    /// They never go on: another process does.
    pub fn forever(mut self) {
        self.parts = None;
        // The brain waits for a word that does not come, and ends with the process.
        std::mem::forget(self.brain.take());
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let Some(parts) = self.parts.take() else { return };
        drop(self.brain.take());
        parts.overlay.open();
        if parts.engine.resume().is_err() {
            tracing::error!("the datapath has ended during a hand-over");
        }
    }
}

/// Waits, for [`HEARD_TIME`] at most, until others have heard what was said last, maybe by a process
/// that has just taken over: with the connections it would be lost, and repeated late.
pub async fn be_heard(brain: &BrainHandle) {
    let began = Instant::now();
    while began.elapsed() < HEARD_TIME && brain.ask(|node, _| node.is_heard()).await == Ok(false) {
        tokio::time::sleep(HEARD_TIME / 100).await;
    }
}

/// Stops all parts. What they know, but for flows in tables that the other process `has`, and what lets them
/// go on.
///
/// # Errors
/// As [`FreezeError`] tells; then all go on.
pub async fn freeze(parts: &Parts, has: Option<TablesId>) -> Result<(Legacy, Frozen), FreezeError> {
    // From here on dropping it makes all go on.
    let mut frozen = Frozen { parts: Some(parts.clone()), brain: None };
    let engine = parts.engine.clone();
    blocking(move || settle(&engine)).await??;
    parts.overlay.shut();
    let (node, thaw) = parts.brain.freeze().await?;
    frozen.brain = Some(thaw);
    let node = node.ok_or(FreezeError::NotInService)?;
    let (overlay, metrics) = (parts.overlay.sockets()?, parts.metrics.try_clone()?);
    let engine = parts.engine.clone();
    let engine = blocking(move || engine.hand_over(has)).await???;
    Ok((Legacy { engine, node, overlay, metrics }, frozen))
}

/// Packets that wait for the overlay get its word first, but for those that it knows no word for.
fn settle(engine: &EngineHandle) -> Result<(), EngineGone> {
    engine.pause()?;
    let began = Instant::now();
    while engine.occupancy()?.parked > 0 && began.elapsed() < SETTLE_TIME {
        std::thread::yield_now();
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, EngineGone> {
    spawn_blocking(work).await.map_err(|_| EngineGone)
}
