//! Echo services, and clients of theirs.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use xxhash_rust::xxh3::Xxh3Default;

use super::hosts::{Host, PATIENCE, wait_for};

/// A service on `address` that sends back what it gets, over UDP and TCP, until the test ends.
pub(crate) fn echo_service(host: &Host, address: SocketAddr) {
    host.run(move || {
        let udp = UdpSocket::bind(address).unwrap();
        let tcp = TcpListener::bind(address).unwrap();
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok((len, from)) = udp.recv_from(&mut buffer) {
                // A client that is gone is no reason to stop.
                let _ = udp.send_to(&buffer[..len], from);
            }
        });
        thread::spawn(move || {
            for stream in tcp.incoming().map_while(Result::ok) {
                thread::spawn(move || echo_stream(stream));
            }
        });
    });
}

fn echo_stream(mut stream: TcpStream) {
    // An error ends the stream; the client notices.
    let _ = stream.try_clone().and_then(|mut reader| io::copy(&mut reader, &mut stream));
    let _ = stream.shutdown(Shutdown::Write);
}

/// A connected UDP socket on `host`.
pub(crate) fn udp_client(host: &Host, to: SocketAddr) -> UdpSocket {
    host.run(move || {
        let any = SocketAddr::new(
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() },
            0,
        );
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket
    })
}

/// Sends `payload` to an echo service until it comes back, past late answers to what was sent
/// before.
pub(crate) fn assert_echo(socket: &UdpSocket, payload: &[u8]) {
    let mut buffer = vec![0; 65_536];
    let what = format!("{} octets from {:?}", payload.len(), socket.peer_addr());
    wait_for(&what, || {
        // An ICMP error of an earlier try may be reported now.
        socket.send(payload).ok()?;
        while let Ok(len) = socket.recv(&mut buffer) {
            if buffer[..len] == *payload {
                return Some(());
            }
        }
        None
    });
}

/// Says something to an echo service, and hears it back.
pub(crate) fn assert_spoken(stream: &mut TcpStream, words: &[u8]) {
    stream.write_all(words).unwrap();
    let mut heard = vec![0; words.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(heard, words);
}

/// Sends `total` octets to the echo service at `to` while receiving them back: the hashes of what
/// was sent and of what came back.
pub(crate) fn tcp_there_and_back(host: &Host, to: SocketAddr, total: usize) -> (u64, u64) {
    host.run(move || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let reader = stream.try_clone().unwrap();
        let received = thread::spawn(move || hash_of(reader));
        let mut sent = Xxh3Default::new();
        let mut state = 1_u64;
        let mut block = vec![0; 128 * 1024];
        let mut left = total;
        while left > 0 {
            for word in block.as_chunks_mut::<8>().0 {
                // Knuth's multiplier: no two blocks alike.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *word = state.to_ne_bytes();
            }
            let part = &block[..left.min(block.len())];
            stream.write_all(part).unwrap();
            sent.update(part);
            left -= part.len();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        (sent.digest(), received.join().unwrap())
    })
}

fn hash_of(mut stream: TcpStream) -> u64 {
    let mut hash = Xxh3Default::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return hash.digest(),
            Ok(len) => hash.update(&buffer[..len]),
            Err(error) => panic!("the stream broke: {error}"),
        }
    }
}
