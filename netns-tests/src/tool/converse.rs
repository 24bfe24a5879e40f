//! One TCP connection that is never quiet for long.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{ToolError, clock, failed, print};

/// Says something to an echo server, waits for the echo, and so on.
#[derive(Debug, Args)]
pub struct Converse {
    /// The echo server
    to: SocketAddr,
    /// Time between an echo and the next word
    #[arg(long, default_value = "20ms")]
    every: humantime::Duration,
    /// Time that each echo gets
    #[arg(long, default_value = "10s")]
    patience: humantime::Duration,
    /// Number of words
    #[arg(long, default_value_t = 100_000)]
    count: u64,
}

/// One echo.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    /// The word's number, from 0.
    pub word: u64,
    /// When it was said, in ms since the epoch.
    pub said_ms: f64,
    /// Time to the echo, in ms.
    pub took_ms: f64,
}

impl Converse {
    pub(super) fn run(&self) -> Result<(), ToolError> {
        let patience = Duration::from(self.patience);
        let connect = TcpStream::connect_timeout(&self.to, patience);
        let mut stream = connect.map_err(failed(format!("connect to {}", self.to)))?;
        stream.set_nodelay(true).map_err(failed("set no delay"))?;
        stream.set_read_timeout(Some(patience)).map_err(failed("set a timeout"))?;
        for word in 0..self.count {
            let (said, start) = (clock(), Instant::now());
            stream.write_all(&word.to_be_bytes()).map_err(failed(format!("say {word}")))?;
            let mut echo = [0; 8];
            stream.read_exact(&mut echo).map_err(failed(format!("hear {word}")))?;
            if u64::from_be_bytes(echo) != word {
                return Err(ToolError::Altered { sent: 8, received: 8, differs: 0 });
            }
            let took_ms = start.elapsed().as_secs_f64() * 1e3;
            print(&Heard { word, said_ms: said.as_secs_f64() * 1e3, took_ms })?;
            // The pace of the conversation, not a wait for something.
            thread::sleep(self.every.into());
        }
        Ok(())
    }
}
