//! `tcp-accept`: sends the first byte of every connection back.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use nix::sys::socket::{Backlog, listen};

use super::{LoadError, failed};
use crate::bench::limits::{ACCEPT_BACKLOG, CONNECTION_LIMIT, CONNECTION_WORKERS};

/// Serves connections, each by one of [`CONNECTION_WORKERS`] threads, until
/// the process is killed. What goes wrong on a connection is the client's to
/// count.
pub(super) fn accept(at: SocketAddr) -> Result<Infallible, LoadError> {
    let listener = TcpListener::bind(at).map_err(failed("listen at", at))?;
    let backlog =
        Backlog::new(ACCEPT_BACKLOG).map_err(|errno| failed("listen at", at)(errno.into()))?;
    listen(&listener, backlog).map_err(|errno| failed("listen at", at)(errno.into()))?;
    thread::scope(|scope| {
        for _ in 1..CONNECTION_WORKERS {
            scope.spawn(|| serve(&listener));
        }
        serve(&listener)
    })
    .map_err(failed("accept at", at))
}

fn serve(listener: &TcpListener) -> io::Result<Infallible> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let _counted_by_the_client = answer(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A byte back, then the end of the connection: the client closes first, as
/// clients do.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(CONNECTION_LIMIT))?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.write_all(&byte)?;
    stream.read(&mut byte).map(|_end| ())
}
