//! Check by HTTP: a GET that is answered with a status of 2xx or 3xx. No TLS, no redirects followed.

use std::{fmt, str::FromStr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{CheckError, ParseCheckError};
use crate::limits::HTTP_STATUS_LINE;

/// An `http://host[:port][/path]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    /// As it stands in the URL and goes into `Host:`; an IPv6 address keeps its brackets.
    authority: String,
    /// Host and port to connect to.
    connect: String,
    path: String,
}

impl FromStr for HttpUrl {
    type Err = ParseCheckError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseCheckError::Url(text.to_owned());
        let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) if rest.as_bytes()[at] == b'?' => (&rest[..at], format!("/{}", &rest[at..])),
            Some(at) => (&rest[..at], rest[at..].to_owned()),
            None => (rest, "/".to_owned()),
        };
        let path = path.split('#').next().unwrap_or_default().to_owned();
        // What would break out of the request line, or name a user, is no URL of a health check.
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if !plain(authority) || !plain(&path) || authority.contains('@') {
            return Err(wrong());
        }
        let host_end = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority[host_end..].find(':') {
            Some(colon) => {
                let (host, port) = authority.split_at(host_end + colon);
                (host, port[1..].parse::<u16>().map_err(|_| wrong())?)
            }
            None => (authority, 80),
        };
        if host.is_empty() || port == 0 {
            return Err(wrong());
        }
        Ok(Self { authority: authority.to_owned(), connect: format!("{host}:{port}"), path })
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

/// Asks for the URL, and judges the status.
pub(crate) async fn probe(url: &HttpUrl) -> Result<(), CheckError> {
    let mut stream = TcpStream::connect(&url.connect).await?;
    let HttpUrl { authority, path, .. } = url;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: pias-join/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    stream.write_all(request.as_bytes()).await?;
    let mut line = Vec::with_capacity(HTTP_STATUS_LINE);
    while !line.contains(&b'\n') {
        let room = HTTP_STATUS_LINE - line.len();
        if room == 0 || (&mut stream).take(room as u64).read_buf(&mut line).await? == 0 {
            return Err(CheckError::NotHttp);
        }
    }
    match status(&line).ok_or(CheckError::NotHttp)? {
        200..=399 => Ok(()),
        other => Err(CheckError::HttpStatus(other)),
    }
}

/// The status code of a status line (RFC 9112 section 4).
fn status(line: &[u8]) -> Option<u16> {
    let mut words = line.split(|&b| b == b' ' || b == b'\r' || b == b'\n');
    if !words.next()?.starts_with(b"HTTP/1.") {
        return None;
    }
    let code = words.next()?;
    if code.len() != 3 {
        return None;
    }
    std::str::from_utf8(code).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, String, String) {
        let url: HttpUrl = text.parse().unwrap();
        (url.authority, url.connect, url.path)
    }

    #[test]
    fn a_url_is_taken_apart() {
        let of = |a: &str, c: &str, p: &str| (a.to_owned(), c.to_owned(), p.to_owned());
        assert_eq!(parts("http://a:81/x?y#z"), of("a:81", "a:81", "/x?y"));
        assert_eq!(parts("http://10.0.0.1"), of("10.0.0.1", "10.0.0.1:80", "/"));
        assert_eq!(parts("http://[::1]:8080/"), of("[::1]:8080", "[::1]:8080", "/"));
        assert_eq!(parts("http://[::1]"), of("[::1]", "[::1]:80", "/"));
        assert_eq!(parts("http://a?q=1"), of("a", "a:80", "/?q=1"));
    }

    #[test]
    fn what_is_no_url_or_would_inject_a_header_is_refused() {
        for text in [
            "https://a/",
            "http://",
            "http://:80/",
            "http://a:0/",
            "http://a:x/",
            "http://u@a/",
            "http://a/ b",
            "http://a/\r\nX: y",
        ] {
            assert!(text.parse::<HttpUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_status_is_three_digits_behind_the_version() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 503\r\n"), Some(503));
        assert_eq!(status(b"SSH-2.0-OpenSSH\r\n"), None);
        assert_eq!(status(b"HTTP/1.1 20\r\n"), None);
    }
}
