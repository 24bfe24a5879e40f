//! What clients see while something breaks: connections that stay open, and new
//! flows.

use std::time::Duration;

use pias_lab::{Crowd, HoldReport, Join, Lab, Questions, Reports, Signal, Stream, clock};

use crate::stage::{anycast, join, service};

/// Where the targets' echo servers listen.
pub(crate) const ECHO_PORT: u16 = 7007;

/// The echo servers' process name.
const ECHO: &str = "echo-all";

/// Makes `host` a target of the group number: for DNS, and for an echo server
/// over TCP.
pub(crate) fn serve<'lab>(lab: &'lab Lab, host: &str, number: u8) -> [Join<'lab>; 2] {
    start_echo(lab, host);
    let [address, _] = anycast(number);
    let echo = format!("{ECHO_PORT}/tcp");
    ["53", &echo].map(|suffix| join(lab, host, &address, suffix))
}

/// Starts the echo server of a target, if it does not run.
pub(crate) fn start_echo(lab: &Lab, host: &str) {
    let target = lab.host(host);
    if !target.runs(ECHO) {
        let port = ECHO_PORT.to_string();
        target.spawn(ECHO, &["pias-lab", "tool", "echo", &port]).expect("an echo server");
    }
}

/// The echo server of a target dies.
pub(crate) fn kill_echo(lab: &Lab, host: &str) {
    lab.host(host).kill(ECHO, Signal::SIGKILL).expect("the echo server runs");
}

/// A client with open connections to a group's echo server, and with questions
/// to its DNS server, 50 new flows a second.
pub(crate) struct Watch<'lab> {
    client: String,
    count: usize,
    crowd: Crowd<'lab, HoldReport>,
    stream: Stream<'lab>,
}

/// What a client saw since something broke.
pub(crate) struct Seen {
    client: String,
    count: usize,
    event: Duration,
    /// Its connections.
    pub(crate) held: Reports<HoldReport>,
    /// Its questions.
    pub(crate) asked: Questions,
}

impl<'lab> Watch<'lab> {
    /// Returns when all connections are open and a question was answered.
    pub(crate) fn start(lab: &'lab Lab, client: &str, number: u8, count: usize) -> Self {
        let [address, _] = anycast(number);
        let host = lab.host(client);
        let words = ["--every", "100ms"];
        let crowd = host.hold(&service(&address, ECHO_PORT), count, &words).expect("connections");
        let stream = host.ask_steadily(&service(&address, 53), &[]).expect("questions");
        Self { client: client.to_owned(), count, crowd, stream }
    }

    /// Watches until this long after `event`, and ends.
    pub(crate) fn until(self, event: Duration, after: Duration) -> Seen {
        self.crowd.watch_until(event + after).expect("the connections go on");
        self.stream.watch_until(event + after).expect("the questions go on");
        let held = self.crowd.stop().expect("the connections end");
        let asked = self.stream.stop().expect("the questions end");
        Seen {
            client: self.client,
            count: self.count,
            event,
            held: held.since(event),
            asked: asked.since(event),
        }
    }
}

impl Seen {
    /// How long after the event the last new flow began that failed.
    pub(crate) fn outage(&self) -> Duration {
        self.asked.outage(self.event)
    }

    /// Prints the figures in one line; `row` and `fault` are those of Table 1.
    pub(crate) fn print(&self, row: &str, fault: &str) {
        println!(
            "{row}, {fault}, {}: new flows failed for {} ms ({} of {} {:?}); {} of {} connections \
             lost {:?}, the last after {} ms, longest pause {} ms; answers by {:?}",
            self.client,
            self.outage().as_millis(),
            self.asked.asked() - self.asked.answered(),
            self.asked.asked(),
            self.asked.failures(),
            self.count - self.held.open(),
            self.count,
            self.held.lost(),
            self.held.last_loss(self.event).as_millis(),
            self.held.longest_pause().as_millis(),
            self.asked.by_target(),
        );
    }

    /// Asserts that no connection was lost, and that none waited longer than
    /// `pause` for an echo.
    pub(crate) fn survived(&self, pause: Duration) {
        assert_eq!(self.held.open(), self.count, "{}: {:?}", self.client, self.held.lost());
        let longest = self.held.longest_pause();
        assert!(longest <= pause, "{}: a connection paused for {longest:?}", self.client);
    }

    /// Asserts that connections ended (those with the target that broke), that
    /// their clients were told so within `limit`, and that no other waits.
    pub(crate) fn told_within(&self, limit: Duration) {
        assert!(self.held.open() < self.count, "no connection ended");
        self.survived_or_told();
        let last = self.held.last_loss(self.event);
        assert!(last <= limit, "the last one after {last:?}");
        let late = self.held.clone().since(self.event + limit + Duration::from_secs(1));
        let waiting = late.longest_pause();
        assert!(waiting < Duration::from_secs(1), "one still waits after {waiting:?}");
    }

    /// Asserts that the clients of all connections that ended were told so by TCP.
    pub(crate) fn survived_or_told(&self) {
        let lost = self.held.lost();
        let told: usize =
            ["reset", "closed"].iter().map(|how| lost.get(*how).copied().unwrap_or(0)).sum();
        assert_eq!(told, lost.values().sum::<usize>(), "told by TCP: {lost:?}");
    }

    /// Asserts that new flows failed for no longer than `limit`.
    pub(crate) fn served_after(&self, limit: Duration) {
        let late = self.asked.since(self.event + limit);
        assert_eq!(late.answered(), late.asked(), "{}: {:?}", self.client, late.failures());
    }
}

/// Breaks something under the eyes of several clients; each watches until
/// `after`.
pub(crate) fn watch_while<'lab>(
    watches: impl IntoIterator<Item = Watch<'lab>>,
    after: Duration,
    break_it: impl FnOnce(),
) -> Vec<Seen> {
    let watches: Vec<_> = watches.into_iter().collect();
    let event = clock();
    break_it();
    watches.into_iter().map(|watch| watch.until(event, after)).collect()
}
