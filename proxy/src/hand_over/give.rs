//! The running process's side.

use std::{
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use pias_datapath::engine::TablesId;
use rustix::process::{Signal, kill_process};
use tokio::task::spawn_blocking;

use super::{
    FreezeError, Hello, Legacy,
    link::{Kind, Link, LinkError},
    parts::{self, decode},
};
use crate::limits::{HELLO_TIME, TAKE_TIME};

/// How a hand-over went.
#[derive(Debug)]
pub enum Given<F> {
    /// This process goes on; what was frozen is to be thawed.
    Kept {
        /// Why.
        why: String,
    },
    /// The new process serves.
    Taken {
        /// Its process id.
        by: u32,
        /// What stands still, and shall for ever.
        frozen: F,
        /// For how long nobody served.
        paused: Duration,
    },
}

/// Hands over to the process at the other end of `stream`. `freeze` stops all parts when it is awaited, and is
/// told which tables that process has; they go on when the `F` is dropped.
pub async fn give<F, W>(
    stream: UnixStream,
    own: Hello,
    freeze: impl FnOnce(Option<TablesId>) -> W,
) -> Given<F>
where
    W: Future<Output = Result<(Legacy, F), FreezeError>>,
{
    match try_give(stream, own, freeze).await {
        Ok(taken) => taken,
        Err(error) => Given::Kept { why: error.to_string() },
    }
}

async fn try_give<F, W>(
    stream: UnixStream,
    own: Hello,
    freeze: impl FnOnce(Option<TablesId>) -> W,
) -> Result<Given<F>, LinkError>
where
    W: Future<Output = Result<(Legacy, F), FreezeError>>,
{
    let (link, has) = blocking(move || welcome(stream, &own)).await?;
    let began = Instant::now();
    let (legacy, frozen) = match freeze(has).await {
        Ok(frozen) => frozen,
        Err(error) => {
            let why = error.to_string();
            link.send(Kind::Refused, why.as_bytes())?;
            return Err(LinkError::Said(why));
        }
    };
    let by = blocking(move || hand(&link, legacy)).await?;
    Ok(Given::Taken { by, frozen, paused: began.elapsed() })
}

/// Hears who asks, up to its wish that the hand-over begin: with the tables that it has already.
fn welcome(stream: UnixStream, own: &Hello) -> Result<(Link, Option<TablesId>), LinkError> {
    let link = Link::new(stream)?;
    link.patience(HELLO_TIME)?;
    let hello: Hello = match link.expect(Kind::Hello).and_then(|hello| decode(&hello.payload)) {
        Ok(hello) => hello,
        Err(error) => return refuse(&link, error.to_string()),
    };
    if let Some(key) = own.differs(&hello) {
        let why = format!(
            "`{key}` differs from that of the running piasd: stop it first, and then start anew"
        );
        return refuse(&link, why);
    }
    tracing::info!(version = hello.version, "another piasd wishes to take over");
    link.send(Kind::Welcome, &[])?;
    let ask = link.expect(Kind::Ask)?;
    let has = decode(&ask.payload)?;
    Ok((link, has))
}

fn refuse<T>(link: &Link, why: String) -> Result<T, LinkError> {
    link.send(Kind::Refused, why.as_bytes())?;
    Err(LinkError::Said(why))
}

/// Hands all over, and waits until the new process serves: its id. Returns an error only when it
/// cannot serve any more.
fn hand(link: &Link, legacy: Legacy) -> Result<u32, LinkError> {
    let by = link.peer()?;
    let taken = link.patience(TAKE_TIME).and_then(|()| {
        parts::send(link, &legacy)?;
        // The new process alone has the device from now on, but for the engine that stands still.
        drop(legacy);
        link.expect(Kind::Taken)
    });
    match taken {
        Ok(_) => Ok(by.as_raw_pid() as u32),
        // It said so, and serves nothing; or it is gone.
        Err(error @ (LinkError::Said(_) | LinkError::Closed)) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "the new piasd is stopped: it does not take over");
            // One that is gone cannot be killed, which is as good.
            let _ = kill_process(by, Signal::KILL);
            link.drain()?;
            Err(error)
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LinkError> + Send + 'static,
) -> Result<T, LinkError> {
    let ended = |error: tokio::task::JoinError| LinkError::Unexpected(error.to_string());
    spawn_blocking(work).await.map_err(ended)?
}
