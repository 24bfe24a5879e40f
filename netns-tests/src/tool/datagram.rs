//! One datagram there and back, compared octet by octet.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::{ToolError, any_of_family, failed, print};
use crate::linkemu::random::Random;

/// Sends a datagram to an echo server.
#[derive(Debug, Args)]
pub struct Datagram {
    /// The echo server
    to: SocketAddr,
    /// Octets of its payload, at most 65,507
    #[arg(long)]
    size: usize,
    /// Time that the echo gets
    #[arg(long, default_value = "2s")]
    patience: humantime::Duration,
}

#[derive(Serialize)]
struct Echoed {
    size: usize,
    took_ms: f64,
}

impl Datagram {
    pub(super) fn run(&self) -> Result<(), ToolError> {
        let socket = UdpSocket::bind(any_of_family(self.to)).map_err(failed("open a socket"))?;
        socket.connect(self.to).map_err(failed(format!("connect to {}", self.to)))?;
        let patience = Duration::from(self.patience);
        socket.set_read_timeout(Some(patience)).map_err(failed("set a timeout"))?;
        let mut random = Random::new(self.size as u64);
        let sent: Vec<u8> = (0..self.size).map(|_| random.next() as u8).collect();
        let start = Instant::now();
        socket.send(&sent).map_err(failed(format!("send to {}", self.to)))?;
        let mut buffer = vec![0; usize::from(u16::MAX)];
        let length = socket.recv(&mut buffer).map_err(failed("hear the echo"))?;
        let took_ms = start.elapsed().as_secs_f64() * 1e3;
        let received = &buffer[..length];
        if received != sent {
            let same = sent.iter().zip(received).take_while(|(one, other)| one == other).count();
            return Err(ToolError::Altered { sent: self.size, received: length, differs: same });
        }
        print(&Echoed { size: self.size, took_ms })
    }
}
