//! A socket that can be made to keep quiet: during a hand-over what arrives shall wait in the kernel
//! for the next process, and nothing shall leave from this one.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

/// Whether sockets keep quiet. Shared by those of one proxy.
#[derive(Debug, Default)]
pub(super) struct Gate {
    shut: AtomicBool,
    /// Those who wish to receive while it is shut: one per socket.
    waiting: Mutex<Vec<Waker>>,
}

impl Gate {
    /// A gate that is shut.
    pub(super) fn new_shut() -> Self {
        Self { shut: AtomicBool::new(true), waiting: Mutex::default() }
    }

    pub(super) fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
    }

    pub(super) fn open(&self) {
        self.shut.store(false, Ordering::SeqCst);
        for waker in self.waiting.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            waker.wake();
        }
    }

    fn is_shut(&self) -> bool {
        self.shut.load(Ordering::SeqCst)
    }

    /// Whether the caller has to wait; it is woken when the gate opens.
    fn holds(&self, cx: &Context<'_>) -> bool {
        if !self.is_shut() {
            return false;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        // It may have opened before the waker was there.
        self.is_shut()
    }
}

/// A socket behind a gate.
#[derive(Debug)]
pub(super) struct GatedSocket {
    pub(super) socket: Arc<dyn AsyncUdpSocket>,
    pub(super) gate: Arc<Gate>,
}

impl AsyncUdpSocket for GatedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    /// What is sent while the gate is shut is lost, as a network loses it.
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.gate.is_shut() { Ok(()) } else { self.socket.try_send(transmit) }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if self.gate.holds(cx) { Poll::Pending } else { self.socket.poll_recv(cx, bufs, meta) }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
