//! The registration port as a socket of QUIC: datagrams come from the datapath, which took them off
//! the anycast addresses, and go back through it.
//!
//! The kernel has no socket on an anycast address: it routes all of them into the TUN device.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use pias_datapath::engine::Datagram;
use pias_protocol::PIAS_PORT;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{EcnCodepoint, RecvMeta, Transmit},
};
use tokio::sync::mpsc;

use crate::metrics::JoinCounters;

/// Takes a datagram to send; `false` when there is no room for it.
pub type SendDatagram = Box<dyn Fn(Datagram) -> bool + Send + Sync>;

/// The socket.
pub struct RegistrationSocket {
    send: SendDatagram,
    received: Mutex<Received>,
    counters: JoinCounters,
}

/// What came in and was not read yet.
struct Received {
    queue: mpsc::Receiver<Datagram>,
    /// A super-datagram of which segments are left, and where they begin.
    rest: Option<(Datagram, usize)>,
}

impl RegistrationSocket {
    /// A socket that reads `queue` and sends by `send`.
    #[must_use]
    pub fn new(
        queue: mpsc::Receiver<Datagram>,
        send: SendDatagram,
        counters: JoinCounters,
    ) -> Arc<Self> {
        Arc::new(Self { send, received: Mutex::new(Received { queue, rest: None }), counters })
    }

    /// Sends one datagram that is no connection's, from an anycast address.
    pub fn send(&self, source: IpAddr, remote: SocketAddr, payload: Vec<u8>) {
        let local = SocketAddr::new(source, PIAS_PORT);
        self.hand_over(Datagram { local, remote, ecn: 0, segment_size: None, payload });
    }

    fn hand_over(&self, datagram: Datagram) {
        if !(self.send)(datagram) {
            self.counters.send_dropped();
        }
    }
}

impl fmt::Debug for RegistrationSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationSocket").finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for RegistrationSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    /// Never waits: a full queue drops the datagram, as a network would, and QUIC sends again.
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(source) = transmit.src_ip else {
            return Err(io::Error::other("a datagram without the anycast address it comes from"));
        };
        self.hand_over(Datagram {
            local: SocketAddr::new(source, PIAS_PORT),
            remote: transmit.destination,
            ecn: transmit.ecn.map_or(0, |ecn| ecn as u8),
            segment_size: transmit.segment_size.and_then(|size| size.try_into().ok()),
            payload: transmit.contents.to_vec(),
        });
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // A reader that panicked leaves whole datagrams behind.
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let mut filled = 0;
        for (buffer, meta) in bufs.iter_mut().zip(meta) {
            match received.poll_segment(cx, buffer) {
                Poll::Ready(Some(read)) => *meta = read,
                // A datapath that has ended sends nothing any more, which is no error of the socket.
                Poll::Ready(None) | Poll::Pending if filled == 0 => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
            filled += 1;
        }
        Poll::Ready(Ok(filled))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PIAS_PORT))
    }

    /// Keeps packets at QUIC's least size of 1,200 octets: there is little to say, and each size
    /// that is tried and lost would cost an agent a round trip.
    fn may_fragment(&self) -> bool {
        true
    }
}

impl Received {
    /// Copies the next datagram (or segment) into a buffer; `None` when the datapath has ended.
    fn poll_segment(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Option<RecvMeta>> {
        let (datagram, start) = match self.rest.take() {
            Some(rest) => rest,
            None => match ready!(self.queue.poll_recv(cx)) {
                Some(datagram) => (datagram, 0),
                None => return Poll::Ready(None),
            },
        };
        let left = datagram.payload.len() - start;
        let segment =
            datagram.segment_size.map_or(left, usize::from).clamp(1, left.max(1)).min(left);
        let taken = segment.min(buffer.len());
        buffer[..taken].copy_from_slice(&datagram.payload[start..start + taken]);
        let meta = RecvMeta {
            addr: datagram.remote,
            len: taken,
            stride: taken,
            ecn: EcnCodepoint::from_bits(datagram.ecn),
            dst_ip: Some(datagram.local.ip()),
        };
        if segment < left {
            self.rest = Some((datagram, start + segment));
        }
        Poll::Ready(Some(meta))
    }
}

/// There is always room, or else the datagram is lost.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn datagram(payload: &[u8], segment_size: Option<u16>) -> Datagram {
        Datagram {
            local: "203.0.113.1:7427".parse().unwrap(),
            remote: "192.0.2.1:40000".parse().unwrap(),
            ecn: 2,
            segment_size,
            payload: payload.to_vec(),
        }
    }

    async fn read(socket: &RegistrationSocket, most: usize) -> Vec<(Vec<u8>, RecvMeta)> {
        let mut rooms = vec![[0_u8; 8]; most];
        let mut meta = vec![RecvMeta::default(); most];
        let count = {
            let mut bufs: Vec<_> = rooms.iter_mut().map(|room| IoSliceMut::new(room)).collect();
            poll_fn(|cx| socket.poll_recv(cx, &mut bufs, &mut meta)).await.unwrap()
        };
        (0..count).map(|at| (rooms[at][..meta[at].len].to_vec(), meta[at])).collect()
    }

    #[tokio::test]
    async fn segments_of_a_super_datagram_are_read_one_by_one() {
        let (queue, received) = mpsc::channel(4);
        let socket = RegistrationSocket::new(received, Box::new(|_| true), JoinCounters::default());
        queue.try_send(datagram(b"aaaabbbbcc", Some(4))).unwrap();
        queue.try_send(datagram(b"", None)).unwrap();
        let mut seen = read(&socket, 2).await;
        seen.extend(read(&socket, 8).await);
        let payloads: Vec<_> = seen.iter().map(|(bytes, _)| bytes.as_slice()).collect();
        assert_eq!(payloads, [b"aaaa".as_slice(), b"bbbb", b"cc", b""]);
        assert!(seen.iter().all(|(_, meta)| meta.dst_ip == Some("203.0.113.1".parse().unwrap())));
        assert!(seen.iter().all(|(_, meta)| meta.ecn == Some(EcnCodepoint::Ect0)));
    }

    #[tokio::test]
    async fn an_answer_leaves_from_the_address_that_was_asked() {
        let (sent, mut seen) = mpsc::unbounded_channel();
        let (_queue, received) = mpsc::channel(1);
        let send = Box::new(move |datagram| sent.send(datagram).is_ok());
        let socket = RegistrationSocket::new(received, send, JoinCounters::default());
        let transmit = Transmit {
            destination: "192.0.2.1:40000".parse().unwrap(),
            ecn: None,
            contents: b"answer",
            segment_size: None,
            src_ip: Some("203.0.113.1".parse().unwrap()),
        };
        socket.try_send(&transmit).unwrap();
        let datagram = seen.recv().await.unwrap();
        assert_eq!(datagram.local, "203.0.113.1:7427".parse().unwrap());
        assert_eq!(datagram.payload, b"answer");
    }
}
