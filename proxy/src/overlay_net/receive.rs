//! What comes in on a connection to a peer: datagrams, and streams of messages.

use pias_protocol::{
    envelope::{self, Decoded},
    ids::ProxyId,
    overlay::OverlayMessage,
};
use quinn::{Connection, RecvStream, VarInt};
use tokio::sync::mpsc;

use crate::{
    brain::Input,
    framing::{Frame, FrameError, Frames},
    log_limit::LogLimit,
    metrics::{Direction, OverlayCounters, Queue},
};

/// Reads a connection until it ends. A message that cannot be read ends it.
pub(super) async fn read_all(
    from: ProxyId,
    connection: Connection,
    inputs: mpsc::Sender<Input>,
    counters: OverlayCounters,
) {
    let reader = Reader { from, connection, inputs, counters };
    loop {
        tokio::select! {
            datagram = reader.connection.read_datagram() => match datagram {
                Ok(bytes) => reader.datagram(&bytes),
                Err(_) => return,
            },
            stream = reader.connection.accept_uni() => match stream {
                Ok(stream) => { tokio::spawn(reader.clone().stream(stream)); }
                Err(_) => return,
            },
        }
    }
}

#[derive(Clone)]
struct Reader {
    from: ProxyId,
    connection: Connection,
    inputs: mpsc::Sender<Input>,
    counters: OverlayCounters,
}

impl Reader {
    /// One message a datagram. A full queue drops it, as a full socket buffer would.
    fn datagram(&self, bytes: &[u8]) {
        match envelope::decode::<OverlayMessage>(bytes) {
            Ok(Decoded::Message(message, _)) => {
                self.counters.message(Direction::Received, &message);
                let input = Input::Message { from: self.from, message };
                if self.inputs.try_send(input).is_err() {
                    self.counters.dropped(Queue::Brain);
                }
            }
            Ok(Decoded::Unknown(kind, _)) => self.unknown(kind),
            Ok(Decoded::Incomplete(_)) => self.malformed(&"a datagram that ends within a message"),
            Err(error) => self.malformed(&error),
        }
    }

    /// A full queue makes the stream wait, and by QUIC's flow control the peer.
    async fn stream(self, stream: RecvStream) {
        let mut frames = Frames::new(stream);
        loop {
            match frames.next().await {
                Ok(Some(Frame::Message(message))) => {
                    self.counters.message(Direction::Received, &message);
                    let input = Input::Message { from: self.from, message };
                    if self.inputs.send(input).await.is_err() {
                        return;
                    }
                }
                Ok(Some(Frame::Unknown(kind))) => self.unknown(kind),
                Ok(None) | Err(FrameError::Read(_)) => return,
                Err(error) => return self.malformed(&error),
            }
        }
    }

    fn unknown(&self, kind: u8) {
        static UNKNOWN: LogLimit = LogLimit::new();
        self.counters.unknown();
        if let Some(suppressed) = UNKNOWN.permit() {
            let peer = self.from;
            tracing::info!(%peer, kind, suppressed, "a peer speaks of what this version does not know");
        }
    }

    fn malformed(&self, why: &dyn std::fmt::Display) {
        static MALFORMED: LogLimit = LogLimit::new();
        self.counters.malformed();
        if let Some(suppressed) = MALFORMED.permit() {
            tracing::warn!(peer = %self.from, %why, suppressed, "a peer's message cannot be read");
        }
        self.connection.close(VarInt::from_u32(3), b"malformed message");
    }
}
