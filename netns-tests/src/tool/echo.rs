//! The echo server: TCP and UDP on one port, both families.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use super::{ToolError, failed, raise_file_limit};

/// Echoes until the process is killed. What goes wrong with one client is that
/// client's business.
pub(super) fn serve(port: u16) -> Result<Infallible, ToolError> {
    raise_file_limit()?;
    // An unspecified IPv6 socket takes IPv4 too.
    let at = (Ipv6Addr::UNSPECIFIED, port);
    let socket = UdpSocket::bind(at).map_err(failed(format!("listen at UDP port {port}")))?;
    let listener = TcpListener::bind(at).map_err(failed(format!("listen at TCP port {port}")))?;
    thread::spawn(move || -> io::Result<()> {
        for stream in listener.incoming() {
            let stream = stream?;
            thread::spawn(move || repeat(&stream));
        }
        Ok(())
    });
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        // An error is about an earlier echo.
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _lost = socket.send_to(&buffer[..length], from);
        }
    }
}

fn repeat(stream: &TcpStream) -> io::Result<u64> {
    stream.set_nodelay(true)?;
    let (mut from, mut to) = (stream, stream);
    io::copy(&mut from, &mut to)
}
