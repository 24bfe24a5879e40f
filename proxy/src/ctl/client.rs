//! Asks the daemon: HTTP over its Unix socket.

use std::{
    io,
    path::{Path, PathBuf},
};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request, body::Bytes};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::limits;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no piasd answers at {socket}: is it running? (`systemctl status piasd`; another socket: --socket PATH)"
    )]
    NotRunning {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket belongs to somebody else.
    #[error(
        "not allowed to use {socket}: it belongs to the user that piasd runs as, try with sudo"
    )]
    NotAllowed {
        /// The socket.
        socket: PathBuf,
    },
    /// The connection failed.
    #[error("cannot ask piasd at {socket}: {source}")]
    Connection {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The exchange failed.
    #[error("piasd broke off: {0}")]
    Exchange(String),
    /// The daemon says no.
    #[error("{0}")]
    Refused(String),
}

/// The daemon's answer to a question, as it is.
///
/// # Errors
/// As [`ClientError`] tells.
pub(super) async fn get(socket: &Path, path: &str) -> Result<String, ClientError> {
    exchange(socket, Method::GET, path).await
}

/// The daemon's answer to an order.
///
/// # Errors
/// As [`ClientError`] tells.
pub(super) async fn post(socket: &Path, path: &str) -> Result<String, ClientError> {
    exchange(socket, Method::POST, path).await
}

async fn exchange(socket: &Path, method: Method, path: &str) -> Result<String, ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, error))?;
    let broke = |error: hyper::Error| ClientError::Exchange(error.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, "piasd")
        .body(Empty::<Bytes>::new())
        .map_err(|error| ClientError::Exchange(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(broke)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), limits::ADMIN_ANSWER)
        .collect()
        .await
        .map_err(|error| ClientError::Exchange(error.to_string()))?;
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    if status.is_success() {
        return Ok(text);
    }
    let said = serde_json::from_str::<serde_json::Value>(&text).ok();
    let error = said.as_ref().and_then(|value| value.get("error")?.as_str());
    Err(ClientError::Refused(
        error.map_or_else(|| format!("piasd says {status}: {text}"), str::to_owned),
    ))
}

fn unreachable(socket: &Path, error: io::Error) -> ClientError {
    let socket = socket.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning { socket }
        }
        io::ErrorKind::PermissionDenied => ClientError::NotAllowed { socket },
        _ => ClientError::Connection { socket, source: error },
    }
}

/// A text as a part of a URL's query (RFC 3986 section 2.1).
pub(super) fn escape(text: &str) -> String {
    let escape = |octet: u8| match octet {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(octet).to_string()
        }
        _ => format!("%{octet:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_what_was_typed() {
        assert_eq!(escape("[2001:db8::1]:53/udp"), "%5B2001%3Adb8%3A%3A1%5D%3A53%2Fudp");
        assert_eq!(escape("a&b=c"), "a%26b%3Dc");
    }

    #[tokio::test]
    async fn a_daemon_that_does_not_run_is_told_with_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("piasd.sock");
        let error = get(&socket, "/status").await.unwrap_err();
        assert!(matches!(error, ClientError::NotRunning { .. }));
        assert!(error.to_string().contains(socket.to_str().unwrap()), "{error}");
    }
}
