//! What other threads ask of the engine: bounded queues, and an eventfd that wakes it.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::sys::eventfd::{EfdFlags, EventFd};
use pias_protocol::{forwarding::ForwardingUpdate, group::GroupKey};

use super::{
    Datagram, EngineGone, FastView,
    hand_over::{HandOver, TablesId},
};
use crate::{
    counters::Counters,
    explain::Explanation,
    limits::engine::{ANSWER_WITHIN, COMMANDS, REGISTRATIONS},
    pipeline::{FlowView, Occupancy, Tables},
};

/// What is asked. Updates and queries share one queue, so that a query sees what was updated before.
pub(super) enum Command {
    Update(ForwardingUpdate),
    Counters(Sender<Counters>),
    Fast(Sender<FastView>),
    Occupancy(Sender<Occupancy>),
    Flows(Vec<GroupKey>, usize, Sender<Vec<FlowView>>),
    Explain(SocketAddr, GroupKey, Sender<Explanation>),
    Pause(Sender<()>),
    Adopt(Box<Tables>),
    Resume,
    HandOver(Option<TablesId>, Sender<io::Result<HandOver>>),
}

/// The side of the other threads.
#[derive(Clone)]
pub(super) struct Mailbox {
    commands: Sender<Command>,
    registrations: Sender<Datagram>,
    bell: Arc<Bell>,
}

/// The engine's side.
pub(super) struct Inbox {
    pub(super) commands: Receiver<Command>,
    pub(super) registrations: Receiver<Datagram>,
    bell: Arc<Bell>,
}

/// Wakes the engine. `rung` saves the system call while the engine has yet to answer the last ring.
struct Bell {
    eventfd: EventFd,
    rung: AtomicBool,
    stop: AtomicBool,
}

/// Both sides.
pub(super) fn create() -> io::Result<(Mailbox, Inbox)> {
    let eventfd = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    let bell =
        Arc::new(Bell { eventfd, rung: AtomicBool::new(false), stop: AtomicBool::new(false) });
    let (commands, command_queue) = bounded(COMMANDS);
    let (registrations, registration_queue) = bounded(REGISTRATIONS);
    Ok((
        Mailbox { commands, registrations, bell: Arc::clone(&bell) },
        Inbox { commands: command_queue, registrations: registration_queue, bell },
    ))
}

impl Mailbox {
    pub(super) fn send(&self, command: Command) -> Result<(), EngineGone> {
        // The bell is rung after the command is in the queue; while the queue is full it has been
        // rung for the commands before.
        self.commands.send_timeout(command, ANSWER_WITHIN).map_err(|_| EngineGone)?;
        self.bell.ring();
        Ok(())
    }

    pub(super) fn send_registration(&self, datagram: Datagram) -> bool {
        let sent = self.registrations.try_send(datagram).is_ok();
        self.bell.ring();
        sent
    }

    pub(super) fn ask<T>(
        &self,
        question: impl FnOnce(Sender<T>) -> Command,
    ) -> Result<T, EngineGone> {
        self.ask_within(ANSWER_WITHIN, question)
    }

    pub(super) fn ask_within<T>(
        &self,
        time: Duration,
        question: impl FnOnce(Sender<T>) -> Command,
    ) -> Result<T, EngineGone> {
        let (answer, answered) = bounded(1);
        self.send(question(answer))?;
        answered.recv_timeout(time).map_err(|_| EngineGone)
    }

    pub(super) fn stop(&self) {
        self.bell.stop.store(true, Ordering::Release);
        self.bell.ring();
    }
}

impl Inbox {
    /// Becomes readable when there is something to take.
    pub(super) fn wake(&self) -> BorrowedFd<'_> {
        self.bell.eventfd.as_fd()
    }

    /// To be called before the queues are looked at: what is put into them later rings again.
    pub(super) fn quiet(&self) {
        // Nothing to read means that nobody rang since.
        let _ = self.bell.eventfd.read();
        self.bell.rung.store(false, Ordering::SeqCst);
    }

    pub(super) fn stopped(&self) -> bool {
        self.bell.stop.load(Ordering::Acquire)
    }
}

impl Bell {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            // The counter cannot overflow: it is rung once per `quiet`.
            let _ = self.eventfd.write(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bell_rings_once_until_it_is_answered() {
        let (mailbox, inbox) = create().unwrap();
        for _ in 0..3 {
            mailbox.send(Command::Counters(bounded(1).0)).unwrap();
        }
        assert_eq!(inbox.bell.eventfd.read(), Ok(1));
        inbox.quiet();
        assert_eq!(inbox.commands.try_iter().count(), 3);
        mailbox.stop();
        assert!(inbox.stopped());
        assert_eq!(inbox.bell.eventfd.read(), Ok(1));
    }

    #[test]
    fn a_full_queue_of_datagrams_says_so() {
        let (mailbox, inbox) = create().unwrap();
        let datagram = || Datagram {
            local: "203.0.113.1:7427".parse().unwrap(),
            remote: "192.0.2.1:40000".parse().unwrap(),
            ecn: 0,
            segment_size: None,
            payload: vec![0],
        };
        for _ in 0..REGISTRATIONS {
            assert!(mailbox.send_registration(datagram()));
        }
        assert!(!mailbox.send_registration(datagram()));
        inbox.registrations.recv().unwrap();
        assert!(mailbox.send_registration(datagram()));
    }

    #[test]
    fn an_engine_that_is_gone_does_not_answer() {
        let (mailbox, inbox) = create().unwrap();
        drop(inbox);
        assert!(mailbox.ask(Command::Counters).is_err());
    }

    #[test]
    fn who_asks_an_engine_that_hangs_does_not_wait_for_ever() {
        let (mailbox, inbox) = create().unwrap();
        assert_eq!(mailbox.ask(Command::Occupancy).err(), Some(EngineGone));
        assert_eq!(inbox.commands.len(), 1, "it is asked, and answers nothing");
    }
}
