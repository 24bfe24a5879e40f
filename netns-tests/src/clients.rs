//! What tests ask of clients and proxies, in their own words.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::host::{Host, RunError};

/// How a DNS question travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One datagram each way.
    Udp,
    /// A connection.
    Tcp,
}

/// Who answered, and how fast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The target, by its own word.
    pub target: String,
    /// From question to answer as dig measured it, in whole milliseconds.
    pub took: Duration,
}

impl Host<'_> {
    /// Asks the DNS service at `server`, port 53, who it is; one try of two
    /// seconds. None if nobody answers.
    pub fn ask_dns(&self, server: &str, transport: Transport) -> Result<Option<Answer>, RunError> {
        self.ask_dns_with(server, transport, &[])
    }

    /// [`Host::ask_dns`] with further arguments for dig, such as `-b ADDR#PORT`
    /// or `-p PORT`.
    pub fn ask_dns_with(
        &self,
        server: &str,
        transport: Transport,
        arguments: &[&str],
    ) -> Result<Option<Answer>, RunError> {
        let at = format!("@{server}");
        let over = if transport == Transport::Tcp { "+tcp" } else { "+notcp" };
        let question = ["dig", "+tries=1", "+time=2", over, at.as_str(), "whoami", "TXT"];
        let output = self.run(&[&question, arguments].concat())?.stdout;
        Ok(parse_dig(&output))
    }

    /// Fetches a page; its body if the answer is a success, none if there is
    /// no answer within two seconds.
    pub fn fetch(&self, url: &str) -> Result<Option<String>, RunError> {
        let output = self.run(&["curl", "-sSfg", "--max-time", "2", url])?;
        Ok(output.success().then_some(output.stdout))
    }

    /// Pings once, with a second to answer; the round-trip time.
    pub fn ping(&self, address: &str) -> Result<Option<Duration>, RunError> {
        let output = self.run(&["ping", "-n", "-c", "1", "-W", "1", address])?.stdout;
        let time = output.split("time=").nth(1).and_then(|rest| rest.split(' ').next());
        let milliseconds: Option<f64> = time.and_then(|time| time.parse().ok());
        Ok(milliseconds.map(|ms| Duration::from_secs_f64(ms / 1000.0)))
    }

    /// A proxy's packet counters by path: `ingress_direct`, `join_deliver`, ...
    pub fn paths(&self) -> Result<BTreeMap<String, u64>, RunError> {
        let status = self.piasctl(&["status"])?;
        let paths = status["engine"]["paths"].as_object().into_iter().flatten();
        Ok(paths.map(|(path, packets)| (path.clone(), packets.as_u64().unwrap_or(0))).collect())
    }

    /// A proxy's drop counters by reason, those that are not zero.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>, RunError> {
        let drops = self.piasctl(&["drops"])?;
        let rows = drops["drops"].as_array().into_iter().flatten();
        Ok(rows
            .filter_map(|row| Some((row["reason"].as_str()?.to_owned(), row["packets"].as_u64()?)))
            .collect())
    }
}

/// An address as URLs and groups write it: IPv6 in brackets.
pub fn bracketed(address: &str) -> String {
    match address.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => address.to_owned(),
    }
}

/// The TXT record's text and the query time in dig's output.
fn parse_dig(output: &str) -> Option<Answer> {
    let record = output.lines().find(|line| line.starts_with("whoami.") && line.contains("TXT"))?;
    let target = record.split('"').nth(1)?.to_owned();
    let time = output.lines().find_map(|line| line.strip_prefix(";; Query time: "))?;
    let milliseconds = time.split(' ').next()?.parse().ok()?;
    Some(Answer { target, took: Duration::from_millis(milliseconds) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digs_output_names_the_target_and_the_time() {
        let output = ";; ANSWER SECTION:\nwhoami.\t\t0\tIN\tTXT\t\"fra-t1\"\n\n\
                      ;; Query time: 84 msec\n;; SERVER: 203.0.113.10#53(203.0.113.10) (UDP)\n";
        let expected = Answer { target: "fra-t1".to_owned(), took: Duration::from_millis(84) };
        assert_eq!(parse_dig(output), Some(expected));
    }

    #[test]
    fn silence_is_no_answer() {
        let output = ";; communications error to 203.0.113.10#53: timed out\n";
        assert_eq!(parse_dig(output), None);
    }
}
