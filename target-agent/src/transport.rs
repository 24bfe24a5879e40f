//! One QUIC connection to whatever proxy routing picks: bytes to messages and back, nothing else.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use pias_protocol::{
    PROXY_TLS_NAME,
    agent::{AgentMessage, JapMessage},
    envelope::{self, DecodeError, Decoded},
};
use quinn::{
    ClientConfig, ConnectError, Connection, ConnectionError, Endpoint, ReadError, RecvStream,
    SendStream, VarInt, WriteError,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    limits::CLOSE_TIMEOUT,
    registration::ConnectionId,
    target::{route_source, unspecified},
};

/// What a connection reports.
#[derive(Debug)]
pub(crate) enum Input {
    /// It stands; the route to the proxy leaves from this address.
    Connected(IpAddr),
    /// The proxy said this.
    Message(JapMessage),
    /// It could not be made, or is gone.
    Lost(TransportError),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    #[error("no route to {0}: {1}")]
    Route(IpAddr, #[source] io::Error),
    #[error("no UDP socket: {0}")]
    Socket(#[source] io::Error),
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, #[source] ConnectError),
    #[error("no proxy answered at {0} within {time}", time = humantime::format_duration(*.1))]
    Timeout(SocketAddr, Duration),
    #[error("the connection was reset: routing now leads to another proxy")]
    Reset,
    #[error("the connection ended: {0}")]
    Ended(#[source] ConnectionError),
    #[error("the proxy closed the stream")]
    Closed,
    #[error("the proxy does not read what it is sent")]
    Stalled,
    #[error("the proxy does not speak this protocol: {0}")]
    Decode(#[from] DecodeError),
}

impl From<ConnectionError> for TransportError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::Reset => Self::Reset,
            other => Self::Ended(other),
        }
    }
}

impl From<ReadError> for TransportError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => error.into(),
            _ => Self::Closed,
        }
    }
}

impl From<WriteError> for TransportError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => error.into(),
            _ => Self::Closed,
        }
    }
}

/// Where a connection goes, and how.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    pub(crate) id: ConnectionId,
    pub(crate) proxy: SocketAddr,
    pub(crate) tls: ClientConfig,
    pub(crate) within: Duration,
}

/// Runs a connection: connects, then carries messages both ways until it is lost, or until
/// `outgoing` is closed, which flushes and closes it.
pub(crate) async fn run(
    dial: Dial,
    mut outgoing: mpsc::Receiver<AgentMessage>,
    inputs: mpsc::Sender<(ConnectionId, Input)>,
) {
    let reports = Reports { id: dial.id, inputs };
    let opened = tokio::select! {
        opened = open(&dial) => opened,
        // Nothing is sent before it stands: this means that it is no longer wanted.
        _ = outgoing.recv() => return,
    };
    let (mut link, route) = match opened {
        Ok(opened) => opened,
        Err(error) => return reports.send(Input::Lost(error)).await,
    };
    reports.send(Input::Connected(route)).await;
    match link.talk(&mut outgoing, &reports).await {
        Ok(()) => link.close().await,
        Err(error) => reports.send(Input::Lost(error)).await,
    }
}

struct Reports {
    id: ConnectionId,
    inputs: mpsc::Sender<(ConnectionId, Input)>,
}

impl Reports {
    async fn send(&self, input: Input) {
        // The driver may be gone already: then nobody cares for the report.
        let _ = self.inputs.send((self.id, input)).await;
    }
}

struct Link {
    /// Each connection has a socket, and so a source port, of its own: where several paths lead to
    /// the address, a new port may take one that does not end at a dead proxy.
    endpoint: Endpoint,
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
    /// What was read but is not yet a whole message.
    buffer: Vec<u8>,
}

async fn open(dial: &Dial) -> Result<(Link, IpAddr), TransportError> {
    let proxy = dial.proxy;
    let route = route_source(proxy.ip()).map_err(|e| TransportError::Route(proxy.ip(), e))?;
    // Unconnected: an ICMP error about one packet must not end the socket.
    let endpoint = Endpoint::client(SocketAddr::new(unspecified(proxy.ip()), 0))
        .map_err(TransportError::Socket)?;
    let connecting = endpoint
        .connect_with(dial.tls.clone(), proxy, PROXY_TLS_NAME)
        .map_err(|error| TransportError::Connect(proxy, error))?;
    let connection = timeout(dial.within, connecting)
        .await
        .map_err(|_| TransportError::Timeout(proxy, dial.within))??;
    let (send, recv) = timeout(dial.within, connection.open_bi())
        .await
        .map_err(|_| TransportError::Timeout(proxy, dial.within))??;
    Ok((Link { endpoint, connection, send, recv, buffer: Vec::new() }, route))
}

impl Link {
    /// Carries messages until `outgoing` is closed and empty.
    async fn talk(
        &mut self,
        outgoing: &mut mpsc::Receiver<AgentMessage>,
        reports: &Reports,
    ) -> Result<(), TransportError> {
        let mut chunk = [0; 4096];
        loop {
            tokio::select! {
                read = self.recv.read(&mut chunk) => {
                    let length = read?.ok_or(TransportError::Closed)?;
                    self.buffer.extend_from_slice(&chunk[..length]);
                    while let Some(message) = next_message(&mut self.buffer)? {
                        reports.send(Input::Message(message)).await;
                    }
                }
                message = outgoing.recv() => {
                    let Some(message) = message else { return Ok(()) };
                    let bytes = envelope::encode(&message);
                    let write = timeout(CLOSE_TIMEOUT, self.send.write_all(&bytes));
                    write.await.map_err(|_| TransportError::Stalled)??;
                }
            }
        }
    }

    /// Ends the connection so that the proxy has everything that was sent, within a bound.
    async fn close(mut self) {
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        if self.send.finish().is_ok() {
            // Whether acknowledged, refused or too late: now it is closed.
            let _ = timeout_at(deadline, self.send.stopped()).await;
        }
        self.connection.close(VarInt::from_u32(0), b"left");
        let _ = timeout_at(deadline, self.endpoint.wait_idle()).await;
    }
}

/// Takes the first whole message out of the buffer, skipping kinds that this build does not know.
///
/// The buffer stays bounded: `decode` refuses a message longer than the protocol's limit.
fn next_message(buffer: &mut Vec<u8>) -> Result<Option<JapMessage>, DecodeError> {
    loop {
        match envelope::decode(buffer)? {
            Decoded::Message(message, taken) => {
                buffer.drain(..taken);
                return Ok(Some(message));
            }
            Decoded::Unknown(kind, taken) => {
                tracing::debug!(kind, "skipped a message of a kind this build does not know");
                buffer.drain(..taken);
            }
            Decoded::Incomplete(_) => return Ok(None),
        }
    }
}
