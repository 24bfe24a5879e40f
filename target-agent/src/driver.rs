//! Drives one [`Registration`]: gives it the time and what its connections report, and does what it
//! says.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use pias_protocol::{agent::AgentMessage, time::Time};
use quinn::ClientConfig;
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinSet,
    time::sleep_until,
};

use crate::{
    event::Event,
    health::Health,
    limits::{INPUT_QUEUE, WRITE_QUEUE},
    registration::{Command, ConnectionId, End, MemberSpec, Registration},
    tls,
    transport::{self, Dial, Input, TransportError},
};

/// What one anycast address needs.
pub(crate) struct Driver {
    /// The address, and the port of registration.
    pub(crate) proxy: SocketAddr,
    pub(crate) tls: ClientConfig,
    pub(crate) members: Vec<MemberSpec>,
    pub(crate) fail_fast: bool,
    pub(crate) health: watch::Receiver<Vec<Health>>,
    pub(crate) events: broadcast::Sender<Event>,
    /// Becomes true, or loses its sender, when all is to end.
    pub(crate) leave: watch::Receiver<bool>,
}

impl Driver {
    /// Runs until the registration ends, and its connections are closed.
    pub(crate) async fn run(mut self) -> End {
        let clock = Clock(Instant::now());
        let mut known = self.health.borrow_and_update().clone();
        let members = self.members.drain(..).zip(known.iter().cloned()).collect();
        let mut registration = Registration::new(members, self.fail_fast, tls::seed(), clock.now());
        let mut connections = Connections::new(self.proxy, self.tls.clone());
        loop {
            while let Some(command) = registration.poll_command() {
                connections.execute(command);
            }
            if let Some(end) = registration.end() {
                connections.finish().await;
                self.publish(&mut registration);
                return end;
            }
            self.publish(&mut registration);
            tokio::select! {
                (id, input) = connections.report() => match input {
                    Input::Connected(route) => {
                        registration.handle_connected(id, route, clock.now());
                    }
                    Input::Message(message) => {
                        registration.handle_message(id, message, clock.now());
                    }
                    Input::Lost(error @ TransportError::Reset) => {
                        registration.handle_reset(id, &error.to_string(), clock.now());
                    }
                    Input::Lost(error) => {
                        registration.handle_lost(id, &error.to_string(), clock.now());
                    }
                },
                () = clock.until(registration.deadline()) => {
                    registration.handle_timeout(clock.now());
                }
                Ok(()) = self.health.changed() => {
                    let new = self.health.borrow_and_update().clone();
                    for ((number, old), new) in (0..).zip(&mut known).zip(new) {
                        if *old != new {
                            *old = new.clone();
                            registration.set_health(number, new, clock.now());
                        }
                    }
                }
                // An error means that nobody could wish so any more: the same.
                _ = self.leave.wait_for(|leave| *leave) => registration.leave(),
            }
        }
    }

    fn publish(&self, registration: &mut Registration) {
        while let Some(event) = registration.poll_event() {
            tracing::debug!(?event);
            // Nobody listens any more: that is the application's choice.
            let _ = self.events.send(event);
        }
    }
}

/// The registration's time: microseconds since the driver began.
struct Clock(Instant);

impl Clock {
    fn now(&self) -> Time {
        Time::ZERO + self.0.elapsed()
    }

    /// Rounded up by the clock's own microsecond, so that the deadline has passed on return.
    async fn until(&self, deadline: Option<Time>) {
        match deadline {
            Some(at) => {
                let after = (at - Time::ZERO).saturating_add(Duration::from_micros(1));
                sleep_until((self.0 + after).into()).await;
            }
            None => std::future::pending().await,
        }
    }
}

/// The connections that a registration asked for.
struct Connections {
    proxy: SocketAddr,
    tls: ClientConfig,
    outgoing: BTreeMap<ConnectionId, mpsc::Sender<AgentMessage>>,
    reports: mpsc::Receiver<(ConnectionId, Input)>,
    report_to: mpsc::Sender<(ConnectionId, Input)>,
    tasks: JoinSet<()>,
}

impl Connections {
    fn new(proxy: SocketAddr, tls: ClientConfig) -> Self {
        let (report_to, reports) = mpsc::channel(INPUT_QUEUE);
        let (outgoing, tasks) = (BTreeMap::new(), JoinSet::new());
        Self { proxy, tls, outgoing, reports, report_to, tasks }
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Connect { id, within } => {
                while self.tasks.try_join_next().is_some() {}
                let (sender, receiver) = mpsc::channel(WRITE_QUEUE);
                self.outgoing.insert(id, sender);
                let dial = Dial { id, proxy: self.proxy, tls: self.tls.clone(), within };
                self.tasks.spawn(transport::run(dial, receiver, self.report_to.clone()));
            }
            Command::Send(id, message) => {
                let Some(sender) = self.outgoing.get(&id) else { return };
                if let Err(error) = sender.try_send(message) {
                    // Full: the unanswered keep-alive behind it will end the connection. Closed:
                    // its report is on the way.
                    tracing::debug!(id, %error, "a message was not sent");
                }
            }
            Command::Close(id) => {
                self.outgoing.remove(&id);
            }
        }
    }

    /// The next report of a connection.
    async fn report(&mut self) -> (ConnectionId, Input) {
        match self.reports.recv().await {
            Some((id, input)) => {
                if matches!(input, Input::Lost(_)) {
                    self.outgoing.remove(&id);
                }
                (id, input)
            }
            // Cannot be: this struct holds a sender itself.
            None => std::future::pending().await,
        }
    }

    /// Closes all, and waits for them: each is bounded by itself.
    async fn finish(mut self) {
        self.outgoing.clear();
        self.reports.close();
        while self.tasks.join_next().await.is_some() {}
    }
}
