//! Messages between proxies: from an effect to an arrival.

use pias_overlay::Delivery;
use pias_protocol::{ids::ProxyId, overlay::OverlayMessage};

use super::{
    Sim,
    event::{Carried, Event},
    host::HostNo,
};

impl Sim {
    pub(super) fn message(
        &mut self,
        n: HostNo,
        to: ProxyId,
        delivery: Delivery,
        message: OverlayMessage,
    ) {
        let Some(peer) = self.ids.get(to) else { return };
        let (here, there) = (self.hosts[n].cluster, self.hosts[peer].cluster);
        self.tally.sent(n, here == there, delivery, &message);
        match delivery {
            Delivery::Datagram => {
                let [first, again] = self.network.datagram(here, there, self.now);
                let carried = Carried::datagram(message);
                let wait = self.network.connect((n, peer), here, there, self.now);
                for (at, carried) in again
                    .map(|at| (at, carried.clone()))
                    .into_iter()
                    .chain(first.map(|at| (at, carried)))
                {
                    self.deliver_at(at + wait, n, peer, carried);
                }
            }
            Delivery::Stream => {
                if self.trace.wanted() {
                    let Self { hosts, trace, now, .. } = self;
                    let (from, to) = (&hosts[n].name, &hosts[peer].name);
                    trace.note(*now, format_args!("{from} to {to}: {message:?}"));
                }
                if let Some(at) = self.network.stream((n, peer), here, there, self.now) {
                    self.deliver_at(at, n, peer, Carried::Stream(Box::new(message)));
                }
            }
        }
    }

    fn deliver_at(
        &mut self,
        at: pias_protocol::time::Time,
        from: HostNo,
        to: HostNo,
        message: Carried,
    ) {
        let life = self.hosts[to].life;
        let event = Event::Message { host: to as u32, from: from as u32, life, message };
        self.queue.push(at, event);
    }

    /// A message arrives; one for a former life was on a connection that is gone.
    pub(super) fn arrive(&mut self, n: HostNo, from: HostNo, life: u32, message: Carried) {
        if self.hosts[n].life != life {
            return;
        }
        if self.hosts[n].cluster != self.hosts[from].cluster {
            self.network.keep_open((from, n), self.now);
        }
        let from = self.hosts[from].id;
        let message = message.message();
        self.tally.received(&message);
        let news = matches!(message, OverlayMessage::MemberUpdate(_));
        self.with_node(n, |node, now| node.handle_message(from, message, now));
        if news {
            self.share(n);
        }
    }

    /// Lets a node use the tables of others that equal its own. Tables change by news, by a node's
    /// own verdicts (which it notes), and at no other time.
    pub(super) fn share(&mut self, n: HostNo) {
        if let (Some(shelf), Some(running)) = (&mut self.shelf, &mut self.hosts[n].running) {
            running.node.share(shelf);
        }
    }

    /// Counts what news of one proxy the others receive from now on.
    pub fn follow_news_of(&mut self, host: HostNo) {
        self.tally.follow(&self.hosts[host].name);
    }

    /// How many copies of its record were received since.
    #[must_use]
    pub fn copies_received(&self) -> u64 {
        self.tally.copies()
    }

    /// How many announcements of its record were received since.
    #[must_use]
    pub fn announcements_received(&self) -> u64 {
        self.tally.announcements()
    }
}
