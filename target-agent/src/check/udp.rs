//! Check by datagram. What it can tell: whether the *host* refuses the port (ICMP port unreachable:
//! nothing is bound to it). A service that is bound but hangs looks the same as one that has no
//! answer to the payload, so silence counts as up; give a payload that the service answers, and use
//! `exec:` to demand the answer.

use std::{net::SocketAddr, time::Duration};

use tokio::{net::UdpSocket, time::timeout};

use super::CheckError;
use crate::target::unspecified;

/// Sends `payload` to `target`; down if that is refused within `patience`.
///
/// An answer ends the check at once, so a service that answers is checked in a round trip.
pub(crate) async fn probe(
    target: SocketAddr,
    payload: &[u8],
    patience: Duration,
) -> Result<(), CheckError> {
    let socket = UdpSocket::bind(SocketAddr::new(unspecified(target.ip()), 0)).await?;
    // Connected, so that the kernel hands this socket the ICMP errors about its datagrams.
    socket.connect(target).await?;
    socket.send(payload).await?;
    let mut answer = [0; 1];
    match timeout(patience, socket.recv(&mut answer)).await {
        Ok(Ok(_)) | Err(_) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
    }
}
