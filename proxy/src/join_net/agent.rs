//! One agent: its stream's messages to the overlay, and the overlay's to it.

use pias_overlay::AgentId;
use pias_protocol::{
    agent::{AgentMessage, JapMessage},
    envelope,
    overlay::AgentLink,
};
use quinn::{Connection, ConnectionError, Incoming, RecvStream, SendStream, VarInt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{JoinNet, Place};
use crate::{
    brain::Input,
    connection_ids,
    framing::{Frame, FrameError, Frames},
    limits,
    log_limit::LogLimit,
    metrics::{AgentEnd, AgentRefusal},
};

/// What the overlay wishes of an agent's connection.
pub(super) enum Saying {
    Message(JapMessage),
    Close(String),
}

/// Serves one connection from its first packet to its last.
pub(super) async fn serve(
    net: JoinNet,
    incoming: Incoming,
    _place: Place,
    handshake: OwnedSemaphorePermit,
) {
    let opened = tokio::time::timeout(limits::AGENT_HANDSHAKE_TIME, open(incoming)).await;
    drop(handshake);
    let Ok(Ok((connection, link, send, receive))) = opened else {
        return net.0.counters.refused(AgentRefusal::Handshake);
    };
    let agent = net.0.new_id();
    let (queue, sayings) = mpsc::channel(limits::AGENT_QUEUE);
    net.0.agents().insert(agent, queue);
    net.0.counters.connected();
    let remote = link.remote;
    if net.0.inputs.send(Input::AgentConnected { agent, link }).await.is_ok() {
        let (end, code, reason) = tokio::select! {
            ended = listen(&net, agent, receive) => ended,
            ended = speak(send, sayings) => ended,
        };
        net.0.agents().remove(&agent);
        net.0.counters.closed(end);
        connection.close(VarInt::from_u32(code), reason.as_bytes());
        tracing::debug!(agent = agent.0, %remote, reason, "an agent's connection ended");
        // Only a stopped brain does not hear it.
        let _ = net.0.inputs.send(Input::AgentClosed(agent)).await;
    }
}

/// The handshake, and the agent's one stream.
async fn open(
    incoming: Incoming,
) -> Result<(Connection, AgentLink, SendStream, RecvStream), ConnectionError> {
    let (connecting, id) = connection_ids::accept(incoming)?;
    let connection = connecting.await?;
    let link = AgentLink {
        remote: connection.remote_address(),
        // The registration socket names it for every datagram.
        anycast: connection.local_ip().ok_or(ConnectionError::LocallyClosed)?,
        connection: id,
    };
    let (send, receive) = connection.accept_bi().await?;
    Ok((connection, link, send, receive))
}

/// How a connection ended: for the counter, and for the agent.
type Ended = (AgentEnd, u32, String);

/// Reads until the agent ends or says what cannot be read. A full queue makes it wait, and by
/// QUIC's flow control the agent.
async fn listen(net: &JoinNet, agent: AgentId, receive: RecvStream) -> Ended {
    static UNKNOWN: LogLimit = LogLimit::new();
    static MALFORMED: LogLimit = LogLimit::new();
    let mut frames = Frames::<AgentMessage>::new(receive);
    loop {
        match frames.next().await {
            Ok(Some(Frame::Message(message))) => {
                if net.0.inputs.send(Input::AgentMessage { agent, message }).await.is_err() {
                    return (AgentEnd::Overlay, 0, "stopping".to_owned());
                }
            }
            Ok(Some(Frame::Unknown(kind))) => {
                net.0.counters.unknown();
                if let Some(suppressed) = UNKNOWN.permit() {
                    tracing::info!(
                        agent = agent.0,
                        kind,
                        suppressed,
                        "an agent speaks of what this version does not know"
                    );
                }
            }
            Ok(None) | Err(FrameError::Read(_)) => {
                return (AgentEnd::Agent, 0, "bye".to_owned());
            }
            Err(error) => {
                if let Some(suppressed) = MALFORMED.permit() {
                    tracing::warn!(agent = agent.0, %error, suppressed, "an agent's message cannot be read");
                }
                return (AgentEnd::Malformed, 3, error.to_string());
            }
        }
    }
}

/// Writes until the overlay is done with the agent.
async fn speak(mut send: SendStream, mut sayings: mpsc::Receiver<Saying>) -> Ended {
    loop {
        match sayings.recv().await {
            Some(Saying::Message(message)) => {
                if send.write_all(&envelope::encode(&message)).await.is_err() {
                    // The reading half learns why.
                    std::future::pending::<()>().await;
                }
            }
            Some(Saying::Close(reason)) => {
                // The agent shall read the last message before the close overtakes it.
                if send.finish().is_ok() {
                    let _ = tokio::time::timeout(limits::DIAL_TIME, send.stopped()).await;
                }
                return (AgentEnd::Overlay, 4, reason);
            }
            None => return (AgentEnd::Slow, 5, "messages were not read: join again".to_owned()),
        }
    }
}
