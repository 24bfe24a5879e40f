//! One peer: the connection to it, dialled when there is something to say.
//!
//! Both sides may dial at once. Then both use the connection that the proxy with the lower id
//! dialled: the other side gives its own attempt up, or lets its connection fall idle. Of an old
//! and a new connection the new one counts: its peer has restarted.
//!
//! What a connection takes with it when it is lost nobody says again here. The brain is told
//! ([`Input::Undelivered`]), and says what still matters.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use pias_protocol::ids::ProxyId;
use quinn::{Connection, ConnectionError, SendStream};
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

use super::{OverlayNet, peer_name};
use crate::{brain::Input, limits, log_limit::LogLimit, metrics::Queue};

/// How long a peer without a connection and without messages keeps its task.
const FORGET: Duration = Duration::from_secs(60);

/// Up to this age two connections are taken to have been dialled at the same time.
const YOUNG: Duration = Duration::from_secs(4);

/// A message on its way out.
pub(super) struct Outgoing {
    pub(super) address: SocketAddr,
    pub(super) datagram: bool,
    pub(super) bytes: Vec<u8>,
}

/// What waits for a peer's task.
enum Order {
    Send(Outgoing),
    /// Tell when the peer has all that was sent before.
    Flush(oneshot::Sender<()>),
}

/// The link that datagrams go out on without passing the task.
type Current = Arc<Mutex<Option<Connection>>>;

/// What the table of peers holds.
pub(super) struct PeerHandle {
    current: Current,
    queue: mpsc::Sender<Order>,
    adopted: mpsc::Sender<Connection>,
}

impl PeerHandle {
    /// Sends at once (a datagram on a live connection), or queues.
    ///
    /// # Errors
    /// The queue that was full.
    pub(super) fn send(&self, outgoing: Outgoing) -> Result<(), Queue> {
        let outgoing = match &*lock(&self.current) {
            Some(link) if outgoing.datagram && link.close_reason().is_none() => {
                return link.send_datagram(outgoing.bytes.into()).map_err(|_| Queue::Peer);
            }
            _ => outgoing,
        };
        self.queue.try_send(Order::Send(outgoing)).map_err(|_| Queue::Peer)
    }

    /// Resolves when the peer has all that was sent before, or cannot get it.
    pub(super) fn flush(&self) -> oneshot::Receiver<()> {
        let (done, flushed) = oneshot::channel();
        // A full queue drops the order, which resolves it: there is no hope for that peer.
        let _ = self.queue.try_send(Order::Flush(done));
        flushed
    }

    /// Hands over a connection that the peer dialled; whether it was taken.
    pub(super) fn adopt(&self, connection: Connection) -> bool {
        !matches!(self.adopted.try_send(connection), Err(TrySendError::Full(_)))
    }
}

/// Starts the task of a peer.
pub(super) fn spawn(net: OverlayNet, id: ProxyId, name: String) -> PeerHandle {
    let (queue, outgoing) = mpsc::channel(limits::PEER_QUEUE);
    let (adopt, adopted) = mpsc::channel(2);
    let current = Current::default();
    let peer = Peer {
        net,
        id,
        name,
        current: current.clone(),
        link: None,
        pause: limits::DIAL_PAUSE_LEAST,
        rest_until: None,
        dropped: false,
    };
    tokio::spawn(peer.run(outgoing, adopted));
    PeerHandle { current, queue, adopted: adopt }
}

/// The connection in use.
struct Link {
    connection: Connection,
    /// Opened by the first message that needs it.
    stream: Option<SendStream>,
    dialled: bool,
    since: Instant,
    address: SocketAddr,
}

struct Peer {
    net: OverlayNet,
    id: ProxyId,
    name: String,
    current: Current,
    link: Option<Link>,
    pause: Duration,
    rest_until: Option<Instant>,
    /// Whether messages were dropped, or lost with a connection, and the brain does not know.
    dropped: bool,
}

/// What happened to a peer.
enum Happened {
    Adopted(Connection),
    Lost(ConnectionError, SocketAddr),
    Ordered(Order),
    Forgotten,
}

impl Peer {
    async fn run(
        mut self,
        mut outgoing: mpsc::Receiver<Order>,
        mut adopted: mpsc::Receiver<Connection>,
    ) {
        loop {
            match self.next(&mut outgoing, &mut adopted).await {
                Happened::Adopted(connection) => self.take(connection, false),
                Happened::Lost(why, address) => self.lost(&why, address, &mut adopted).await,
                Happened::Ordered(Order::Send(message)) => {
                    self.send(message, &mut outgoing, &mut adopted).await;
                }
                Happened::Ordered(Order::Flush(done)) => {
                    if let Some(link) = &mut self.link {
                        link.flush().await;
                    }
                    drop(done);
                }
                Happened::Forgotten => {
                    // Under the table's lock nothing can be queued between the check and the end.
                    let mut peers = self.net.0.peers();
                    if outgoing.is_empty() && adopted.is_empty() {
                        peers.remove(&self.id);
                        return;
                    }
                }
            }
        }
    }

    async fn next(
        &mut self,
        outgoing: &mut mpsc::Receiver<Order>,
        adopted: &mut mpsc::Receiver<Connection>,
    ) -> Happened {
        let link = self.link.as_ref();
        let lost = async {
            match link {
                Some(link) => Happened::Lost(link.connection.closed().await, link.address),
                None => {
                    tokio::time::sleep(FORGET).await;
                    Happened::Forgotten
                }
            }
        };
        tokio::select! {
            biased;
            Some(connection) = adopted.recv() => Happened::Adopted(connection),
            happened = lost => happened,
            Some(order) = outgoing.recv() => Happened::Ordered(order),
        }
    }

    /// Uses a new connection, unless one of the same moment is the better one.
    fn take(&mut self, connection: Connection, dialled: bool) {
        let rival = self.link.as_ref().filter(|link| {
            link.connection.close_reason().is_none()
                && link.dialled != dialled
                && link.since.elapsed() < YOUNG
        });
        let by_lower = dialled == (self.net.0.own < self.id);
        if rival.is_some() && !by_lower {
            return;
        }
        // A rival is read to its end by the peer; what an older one has under way is lost.
        let lossy = self.dropped || (self.link.is_some() && rival.is_none());
        self.pause = limits::DIAL_PAUSE_LEAST;
        self.rest_until = None;
        *lock(&self.current) = Some(connection.clone());
        let address = connection.remote_address();
        self.link =
            Some(Link { connection, stream: None, dialled, since: Instant::now(), address });
        if lossy {
            self.undelivered();
        }
    }

    /// Tells the brain that messages may be lost.
    fn undelivered(&mut self) {
        self.dropped = false;
        // A full queue has other news: then what was lost is repeated in its own time.
        let _ = self.net.0.inputs.try_send(Input::Undelivered(self.id));
    }

    /// Forgets the connection. A peer that restarted answers with a stateless reset, and is dialled
    /// again at once.
    async fn lost(
        &mut self,
        why: &ConnectionError,
        address: SocketAddr,
        adopted: &mut mpsc::Receiver<Connection>,
    ) {
        tracing::debug!(peer = self.name, %why, "the connection to a peer ended");
        let dialled = self.link.take().is_some_and(|link| link.dialled);
        *lock(&self.current) = None;
        self.dropped = true;
        if matches!(why, ConnectionError::Reset) && dialled {
            self.dial(address, adopted).await;
        } else {
            self.undelivered();
        }
    }

    async fn send(
        &mut self,
        message: Outgoing,
        outgoing: &mut mpsc::Receiver<Order>,
        adopted: &mut mpsc::Receiver<Connection>,
    ) {
        let resting = self.rest_until.is_some_and(|until| Instant::now() < until);
        if self.link.is_none() && (resting || !self.dial(message.address, adopted).await) {
            self.dropped = true;
            self.net.0.counters.dropped(Queue::Unreachable);
            while outgoing.try_recv().is_ok() {
                self.net.0.counters.dropped(Queue::Unreachable);
            }
            return;
        }
        let Some(link) = &mut self.link else { return };
        if link.write(message).await.is_err() {
            self.net.0.counters.dropped(Queue::Peer);
        }
    }

    /// Connects to the peer, or takes the connection that it opens meanwhile; whether there is one.
    async fn dial(
        &mut self,
        address: SocketAddr,
        adopted: &mut mpsc::Receiver<Connection>,
    ) -> bool {
        // If both gave up, there would be none.
        let yields = self.id < self.net.0.own;
        let outcome = tokio::select! {
            biased;
            Some(connection) = adopted.recv(), if yields => Ok((connection, false)),
            outcome = self.connect(address) => match outcome {
                Ok(connection) => Ok((connection, true)),
                Err(why) => adopted.try_recv().map(|connection| (connection, false)).map_err(|_| why),
            },
        };
        match outcome {
            Ok((connection, dialled)) => {
                if dialled {
                    self.net.read(self.id, connection.clone());
                }
                self.take(connection, dialled);
                true
            }
            Err(why) => {
                self.failed(address, &why);
                false
            }
        }
    }

    /// Rests for a while. The first failure is worth a line, those that follow it are not.
    fn failed(&mut self, address: SocketAddr, why: &str) {
        static FAILED: LogLimit = LogLimit::per_second(10);
        let first = self.pause == limits::DIAL_PAUSE_LEAST;
        self.rest_until = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(limits::DIAL_PAUSE_MOST);
        self.net.0.counters.dial_failed();
        match FAILED.permit().filter(|_| first) {
            Some(suppressed) => {
                tracing::warn!(peer = self.name, %address, why, suppressed, "cannot reach a peer");
            }
            None => tracing::debug!(peer = self.name, %address, why, "cannot reach a peer"),
        }
        // A full queue has other news; the next failure tells again.
        let _ = self.net.0.inputs.try_send(Input::PeerUnreachable(self.id));
    }

    async fn connect(&self, address: SocketAddr) -> Result<Connection, String> {
        let shared = &self.net.0;
        let Some(endpoint) = shared.endpoint(address) else {
            return Err("this proxy has no unicast address of that family".to_owned());
        };
        let Ok(_permit) = shared.handshakes.clone().try_acquire_owned() else {
            return Err("too many handshakes in progress".to_owned());
        };
        let connecting = endpoint.connect(address, &self.name).map_err(|e| e.to_string())?;
        let connection = tokio::time::timeout(limits::DIAL_TIME, connecting)
            .await
            .map_err(|_| format!("no answer within {:?}", limits::DIAL_TIME))?
            .map_err(|error| error.to_string())?;
        // A certificate may carry several names; who the peer is, is said by the first.
        if peer_name(&connection).as_deref() == Some(self.name.as_str()) {
            Ok(connection)
        } else {
            Err("its certificate names another proxy".to_owned())
        }
    }
}

impl Link {
    async fn write(&mut self, message: Outgoing) -> Result<(), ()> {
        if message.datagram {
            return self.connection.send_datagram(message.bytes.into()).map_err(drop);
        }
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(self.connection.open_uni().await.map_err(drop)?),
        };
        stream.write_all(&message.bytes).await.map_err(drop)
    }

    /// Ends the stream, and waits until the peer has all of it (or the connection is lost).
    async fn flush(&mut self) {
        if let Some(mut stream) = self.stream.take()
            && stream.finish().is_ok()
        {
            let _ = stream.stopped().await;
        }
    }
}

fn lock(current: &Current) -> std::sync::MutexGuard<'_, Option<Connection>> {
    // One assignment is all that happens under the lock.
    current.lock().unwrap_or_else(PoisonError::into_inner)
}
