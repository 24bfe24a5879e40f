//! The shell around the emulator: two TAP devices, one in each end's
//! namespace, and a thread that moves frames between them.
//!
//! The TAPs carry a virtio header before each frame (`IFF_VNET_HDR`), so that
//! TCP and UDP super-packets and unfinished checksums cross the link as the
//! kernel made them, without being cut up and put together again.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::emulator::{Direction, LinkCounters, Shape};
use super::random::seed_for;
use crate::limits::{FRAMES_PER_TURN, MAX_FRAME};

/// Makes one end of an emulated link: a TAP device of this name in the
/// network namespace of the calling thread. It lives as long as the value.
pub fn open_end(interface: &str) -> io::Result<SyncDevice> {
    let device = DeviceBuilder::new()
        .name(interface)
        .layer(Layer::L2)
        .offload(true)
        .inherit_enable_state()
        .build_sync()?;
    device.set_nonblocking(true)?;
    Ok(device)
}

/// A running emulated link; its thread ends with the process.
#[derive(Debug, Clone)]
pub struct EmulatedLink {
    directions: Arc<Mutex<[Direction; 2]>>,
}

impl EmulatedLink {
    /// Starts to carry frames between the two ends.
    pub fn start(
        name: &str,
        seed: u64,
        shape: &Shape,
        ends: [SyncDevice; 2],
    ) -> io::Result<EmulatedLink> {
        let direction = |n| Direction::new(shape.clone(), seed_for(seed, name, n));
        let link = EmulatedLink { directions: Arc::new(Mutex::new([direction(0), direction(1)])) };
        let carrier = link.clone();
        thread::Builder::new()
            .name(format!("link-{name}"))
            .spawn(move || carrier.carry(&ends))
            .map(|_| link)
    }

    /// Changes the shape of both directions for frames to come.
    pub fn set_shape(&self, shape: &Shape) {
        for direction in self.lock().iter_mut() {
            direction.set_shape(shape.clone());
        }
    }

    /// The shape in force.
    pub fn shape(&self) -> Shape {
        self.lock()[0].shape().clone()
    }

    /// Counters of the direction from the first end to the second, and back.
    pub fn counters(&self) -> [LinkCounters; 2] {
        let directions = self.lock();
        [directions[0].counters(), directions[1].counters()]
    }

    /// A direction is consistent between any two statements, so a poisoned
    /// lock is usable.
    fn lock(&self) -> MutexGuard<'_, [Direction; 2]> {
        self.directions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves frames until an end fails, which happens when the lab ends.
    fn carry(&self, ends: &[SyncDevice; 2]) {
        let start = Instant::now();
        let mut buffer = vec![0; MAX_FRAME];
        loop {
            let next = {
                let mut directions = self.lock();
                for (n, direction) in directions.iter_mut().enumerate() {
                    if take_in(&ends[n], direction, start, &mut buffer).is_err() {
                        return;
                    }
                    hand_over(&ends[1 - n], direction, start.elapsed());
                }
                directions.iter().filter_map(Direction::next_due).min()
            };
            let wait = next.map(|due| due.saturating_sub(start.elapsed()));
            if wait_for_frames(ends, wait).is_err() {
                return;
            }
        }
    }
}

/// Reads what waits at an end, up to a turn's worth.
fn take_in(
    end: &SyncDevice,
    direction: &mut Direction,
    start: Instant,
    buffer: &mut [u8],
) -> io::Result<()> {
    for _ in 0..FRAMES_PER_TURN {
        match end.recv(buffer) {
            Ok(length) => direction.push(start.elapsed(), buffer[..length].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if is_down(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes every frame that is due to the far end. An end whose interface is
/// down takes nothing, as a wire without a peer.
fn hand_over(end: &SyncDevice, direction: &mut Direction, now: Duration) {
    while let Some(frame) = direction.poll(now) {
        let _written_or_interface_down = end.send(&frame);
    }
}

/// Sleeps until an end has a frame or `wait` is over.
fn wait_for_frames(ends: &[SyncDevice; 2], wait: Option<Duration>) -> nix::Result<()> {
    let mut fds = [0, 1].map(|n: usize| PollFd::new(ends[n].as_fd(), PollFlags::POLLIN));
    match ppoll(&mut fds, wait.map(TimeSpec::from_duration), None) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error),
    }
}

/// `EIO` or `EBADFD`: the interface is not up (yet, or any more).
fn is_down(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::EIO | nix::libc::EBADFD))
}
