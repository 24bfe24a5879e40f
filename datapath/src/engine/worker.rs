//! The engine's thread: the loop.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::Sender;
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};
use pias_protocol::{
    geneve::{Header, HeaderError},
    time::Time,
};
use tracing::info;

use super::{
    EngineConfig, EngineFailure, FastView, Hooks, StartError,
    coalesce::Train,
    device::{Device, Read},
    fast::Fast,
    forward::Forward,
    hand_over::{HandOver, TablesId},
    linger::Linger,
    mailbox::{Command, Inbox},
    sources::{Prepared, Sources},
    tunnel::Receiver,
};
use crate::{
    drop_reason::DropReason,
    limits::engine::{BATCH, RECEIVES, TICK},
    packet::Packet,
    pipeline::{Adopted, Has, Side},
    xdp::{AttachError, kept},
};

/// What `epoll` calls the device, the inbox and the watch over routes; receivers are called by their index.
const DEVICE: u64 = u64::MAX;
const INBOX: u64 = u64::MAX - 1;
const ROUTES: u64 = u64::MAX - 2;

/// More than there are sources: the device, the inbox, the watch, and a receiver per address family.
const EVENTS: usize = 8;

/// All that the engine's thread owns.
pub(super) struct Worker {
    epoll: Epoll,
    receivers: Vec<Receiver>,
    inbox: Inbox,
    /// Whether the inbox had more than one turn's share.
    backlog: bool,
    /// Whether only the inbox is read.
    paused: bool,
    /// Who waits for that.
    pausing: Option<Sender<()>>,
    linger: Linger,
    /// Packets are read into it, one at a time.
    packet: Packet,
    /// Whether the device had more than one packet the last time.
    bursts: bool,
    /// What is joined of the device's, and of a receiver's.
    from_device: Train,
    train: Train,
    forward: Forward,
    next_tick: Time,
    pins: PathBuf,
}

impl Worker {
    /// Reads from these sources.
    pub(super) fn new(
        config: EngineConfig,
        hooks: Hooks,
        inbox: Inbox,
        sources: Sources,
    ) -> Result<Self, StartError> {
        let required = config.fast.as_ref().is_some_and(|fast| fast.required);
        let mut worker = Self::paused(config, hooks, inbox, sources)?;
        // Of a process that was killed a moment ago. Nobody is registered: they wait for their targets.
        worker.forward.go_on();
        worker.resume().map_err(|errno| StartError::Thread(errno.into()))?;
        match worker.attach() {
            Err(error) if required => Err(StartError::Fast(error.into())),
            // Why not, it has said itself.
            _ => Ok(worker),
        }
    }

    /// Reads from these sources, once it is told to resume.
    pub(super) fn paused(
        config: EngineConfig,
        hooks: Hooks,
        inbox: Inbox,
        Sources { device, receivers, prepared: Prepared { outbox, pipeline, fast } }: Sources,
    ) -> Result<Self, StartError> {
        let thread = |errno: Errno| StartError::Thread(errno.into());
        let epoll = wait_for(&inbox).map_err(thread)?;
        let mut started = Instant::now();
        if let Some(fast) = &fast {
            epoll.add(fast, readable(ROUTES)).map_err(thread)?;
            // The machine has been up for longer than any engine.
            started = started.checked_sub(fast.began()).unwrap_or(started);
        }
        Ok(Self {
            epoll,
            receivers,
            inbox,
            backlog: false,
            paused: true,
            pausing: None,
            linger: Linger::default(),
            packet: Device::packet(),
            bursts: false,
            from_device: Train::with(Device::packet(), device.takes_udp_segments()),
            train: Train::new(device.takes_udp_segments()),
            forward: Forward {
                pipeline,
                fast,
                device,
                outbox,
                hooks,
                side: Side::default(),
                started,
            },
            next_tick: Time::ZERO,
            pins: config.pins,
        })
    }

    /// Reads packets.
    fn resume(&mut self) -> nix::Result<()> {
        if self.paused {
            self.epoll.add(&self.forward.device, readable(DEVICE))?;
            for (at, receiver) in self.receivers.iter().enumerate() {
                self.epoll.add(receiver, readable(at as u64))?;
            }
            self.paused = false;
        }
        Ok(())
    }

    /// Lets XDP go on, or begin.
    fn look(&mut self) {
        let now = self.forward.now();
        match &mut self.forward.fast {
            Some(fast) => fast.look(now),
            // Of a process before, that had XDP.
            None => kept::forget(&self.pins, &[]),
        }
    }

    /// As [`Self::look`], and waits for it.
    fn attach(&mut self) -> Result<(), AttachError> {
        let now = self.forward.now();
        if let Some(fast) = &mut self.forward.fast {
            let attached = fast.attach(now);
            self.forward.pipeline.settle();
            return attached;
        }
        kept::forget(&self.pins, &[]);
        Ok(())
    }

    /// Reads no packets.
    fn pause(&mut self) -> nix::Result<()> {
        if !self.paused {
            self.epoll.delete(&self.forward.device)?;
            for receiver in &self.receivers {
                self.epoll.delete(receiver)?;
            }
            self.paused = true;
        }
        Ok(())
    }

    fn hand_over(&mut self, has: Option<TablesId>) -> io::Result<HandOver> {
        let mut same = Has::Nothing;
        if let Some(fast) = &mut self.forward.fast {
            fast.leave();
            self.forward.pipeline.lend();
            if has == Some(fast.tables_id()) {
                same = Has::Tables;
            }
        }
        Ok(HandOver {
            device: self.forward.device.hand_over()?,
            tunnels: self.receivers.iter().map(Receiver::hand_over).collect::<Result<_, _>>()?,
            tables: self.forward.pipeline.hand_over(same),
        })
    }

    pub(super) const fn device_index(&self) -> u32 {
        self.forward.device.index()
    }

    pub(super) fn device_name(&self) -> &str {
        self.forward.device.name()
    }

    /// Works until it is told to stop or fails, then says so.
    pub(super) fn run(mut self) {
        // The worker is not used after a panic, only dropped.
        let result = catch_unwind(AssertUnwindSafe(|| {
            while !self.inbox.stopped() {
                self.turn()?;
            }
            Ok(())
        }));
        let Self { forward: Forward { hooks, device, fast, .. }, receivers, .. } = self;
        // Routes to the device go with it, before anyone hears of the end.
        drop((fast, device, receivers));
        (hooks.ended)(result.unwrap_or(Err(EngineFailure::Panicked)));
    }

    /// Waits, and takes a batch from each source that has something.
    fn turn(&mut self) -> Result<(), EngineFailure> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let ready = self.wait(&mut events)?;
        let ready = &events[..ready];
        let now = self.forward.now();
        self.forward.heed_news(now);
        let mut inbox = self.backlog;
        for event in ready {
            match event.data() {
                DEVICE => self.serve_device()?,
                INBOX => inbox = true,
                ROUTES => self.forward.routes_changed(),
                receiver => self.serve_tunnel(receiver as usize),
            }
        }
        if inbox {
            self.serve_inbox()?;
        }
        self.forward.heed_attached();
        let now = self.forward.now();
        self.pause_if_asked(now)?;
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            if self.paused {
                self.forward.stand_still(now);
            } else {
                self.forward.tick(now);
            }
        }
        self.forward.flush(now);
        Ok(())
    }

    /// Pauses for whoever asked, as soon as what is attached can be handed over at once.
    fn pause_if_asked(&mut self, now: Time) -> Result<(), EngineFailure> {
        if self.pausing.is_some() && self.forward.fast.as_mut().is_none_or(|fast| fast.rests(now)) {
            self.pause().map_err(|errno| EngineFailure::Wait(errno.into()))?;
            if let Some(asker) = self.pausing.take() {
                // It may have stopped waiting.
                let _ = asker.try_send(());
            }
        }
        Ok(())
    }

    /// Waits until something is ready, or the next tick is due; how much is.
    fn wait(&mut self, events: &mut [EpollEvent]) -> Result<usize, EngineFailure> {
        let patience = self.patience();
        let (began, span) = (Instant::now(), self.linger.span());
        loop {
            let looking = !self.backlog && began.elapsed() < span;
            let timeout = if looking { EpollTimeout::ZERO } else { patience };
            match self.epoll.wait(events, timeout) {
                Ok(0) if looking => thread::yield_now(),
                Ok(count) => {
                    self.linger.came_after(began.elapsed());
                    return Ok(count);
                }
                Err(Errno::EINTR) => return Ok(0),
                Err(errno) => return Err(EngineFailure::Wait(errno.into())),
            }
        }
    }

    /// How long the next turn may wait.
    fn patience(&self) -> EpollTimeout {
        if self.backlog {
            return EpollTimeout::ZERO;
        }
        let until_tick = self.next_tick - self.forward.now();
        // Up, or the last millisecond would be spent without waiting.
        let millis = (until_tick + Duration::from_micros(999)).as_millis();
        EpollTimeout::try_from(millis as i32).unwrap_or(EpollTimeout::ZERO)
    }

    /// Joins datagrams that follow each other, and handles them as one: to write one packet takes the
    /// kernel as long as to write many joined. Where packets come one by one, the first does not wait
    /// until it is known that there is no second.
    fn serve_device(&mut self) -> Result<(), EngineFailure> {
        let (packet, train, forward) = (&mut self.packet, &mut self.from_device, &mut self.forward);
        let now = forward.now();
        let mut taken = 0;
        while taken < BATCH {
            match forward.device.read(packet).map_err(EngineFailure::Device)? {
                Read::Empty => break,
                Read::Malformed => forward.pipeline.count_drops(DropReason::Malformed, 1),
                Read::Packet if train.join_with(packet) => {}
                Read::Packet => {
                    forward.device_train(train, now);
                    train.begin_with(packet);
                    if taken == 0 && !self.bursts {
                        forward.device_train(train, now);
                    }
                }
            }
            taken += 1;
        }
        forward.device_train(train, now);
        self.bursts = taken > 1;
        Ok(())
    }

    /// Joins what follows each other, and handles it as one.
    fn serve_tunnel(&mut self, receiver: usize) {
        let Some(receiver) = self.receivers.get_mut(receiver) else { return };
        let (train, forward) = (&mut self.train, &mut self.forward);
        let now = forward.now();
        for _ in 0..RECEIVES {
            // Errors are those of datagrams sent before; what failed is not received again.
            let Ok(count) = receiver.receive() else { break };
            // What is in the train came from there, straight from an ingress.
            let mut before = None;
            for (source, datagram) in receiver.datagrams(count) {
                let (header, inner) = match Header::parse(datagram) {
                    Ok(parsed) => parsed,
                    Err(error) => {
                        forward.pipeline.count_drops(reason(error), 1);
                        continue;
                    }
                };
                if before == Some((source, header)) && header.option.is_none() && train.join(inner)
                {
                    continue;
                }
                if let Some((source, header)) = before.replace((source, header)) {
                    forward.tunnel_packet(source, &header, train.take(), now);
                }
                train.begin(inner);
            }
            if let Some((source, header)) = before {
                forward.tunnel_packet(source, &header, train.take(), now);
            }
        }
    }

    fn serve_inbox(&mut self) -> Result<(), EngineFailure> {
        self.inbox.quiet();
        let mut taken = 0;
        while taken < BATCH
            && let Ok(command) = self.inbox.commands.try_recv()
        {
            self.obey(command)?;
            taken += 1;
        }
        self.backlog = taken == BATCH;
        taken = 0;
        let forward = &mut self.forward;
        for datagram in self.inbox.registrations.try_iter().take(BATCH) {
            forward.send_registration(&datagram, &mut self.packet);
            taken += 1;
        }
        self.backlog |= taken == BATCH;
        Ok(())
    }

    fn obey(&mut self, command: Command) -> Result<(), EngineFailure> {
        let wait = |errno: Errno| EngineFailure::Wait(errno.into());
        let forward = &mut self.forward;
        let now = forward.now();
        // Who asked may have stopped waiting for the answer.
        match command {
            Command::Update(update) => {
                forward.update(update, now);
            }
            Command::Counters(answer) => {
                drop(answer.try_send(forward.counters()));
            }
            Command::Fast(answer) => {
                drop(
                    answer
                        .try_send(forward.fast.as_ref().map_or_else(FastView::default, Fast::view)),
                );
            }
            Command::Occupancy(answer) => drop(answer.try_send(forward.pipeline.occupancy())),
            Command::Flows(groups, limit, answer) => {
                drop(answer.try_send(forward.pipeline.flows(&groups, limit, now)));
            }
            Command::Explain(client, group, answer) => {
                drop(answer.try_send(forward.pipeline.explain(client, group, now)));
            }
            Command::Pause(answer) => self.pausing = Some(answer),
            Command::Adopt(tables) => {
                let Adopted { flows, standby, pins, lost } =
                    forward.pipeline.take_over(*tables, now);
                info!(flows, standby, pins, lost, "flows of the process before are taken over");
            }
            Command::Resume => {
                self.pausing = None;
                forward.go_on();
                self.resume().map_err(wait)?;
                self.look();
            }
            Command::HandOver(has, answer) => drop(answer.try_send(self.hand_over(has))),
        }
        Ok(())
    }
}

fn readable(name: u64) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN, name)
}

fn wait_for(inbox: &Inbox) -> nix::Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(inbox.wake(), readable(INBOX))?;
    Ok(epoll)
}

const fn reason(error: HeaderError) -> DropReason {
    match error {
        HeaderError::Truncated
        | HeaderError::Version
        | HeaderError::Control
        | HeaderError::InnerType
        | HeaderError::CriticalOption
        | HeaderError::Option => DropReason::TunnelMalformed,
    }
}
