//! The driver: foca's members on the simulator's queue and network.
//!
//! It is as kind to foca as a driver can be: all members know each other from the start, what was
//! late because a member was paused is told to it in the order of its times (so that an answer
//! comes before the timer that would have missed it), and processing takes no time.

use std::time::Duration;

use foca::{
    Foca, Member as Record, NoCustomBroadcast, Notification, PostcardCodec, Runtime, Timer,
};
use pias_protocol::time::Time;

use super::{
    identity::{Chance, Id},
    ledger::Ledger,
    settings::Settings,
    wire,
};
use crate::{network::Network, queue::Queue, random::Draws, sim::GRACE, topology::Topology};

type Swim = Foca<Id, PostcardCodec, Chance, NoCustomBroadcast>;

/// Packets take up to so much longer than their way: as in the overlay's own figures.
const JITTER: Duration = Duration::from_millis(2);

#[derive(Debug)]
enum Event {
    Timer { member: usize, timer: Timer<Id> },
    Packet { member: usize, data: Box<[u8]> },
}

impl Event {
    const fn member(&self) -> usize {
        match self {
            Self::Timer { member, .. } | Self::Packet { member, .. } => *member,
        }
    }
}

/// All that is around the members.
pub(super) struct Around {
    now: Time,
    queue: Queue<Event>,
    pub(super) network: Network,
    pub(super) ledger: Ledger,
    places: Vec<Place>,
}

/// A member as its surroundings see it.
#[derive(Clone, Copy, Debug)]
struct Place {
    cluster: usize,
    runs: bool,
    paused_until: Time,
}

/// Members of foca, a clock and a network.
pub(super) struct World {
    members: Vec<Swim>,
    pub(super) around: Around,
    /// Events that happened.
    pub(super) events: u64,
}

impl World {
    /// As many members as the topology has proxies. All know each other; their timers start at
    /// drawn times.
    pub(super) fn new(topology: &Topology, settings: Settings, seed: u64) -> Self {
        let cluster_of = topology.clusters.iter().enumerate();
        let places: Vec<Place> = cluster_of
            .flat_map(|(cluster, at)| std::iter::repeat_n(cluster, at.proxies))
            .map(|cluster| Place { cluster, runs: true, paused_until: Time::ZERO })
            .collect();
        let config = settings.config(places.len());
        let mut network = Network::new(topology, seed);
        network.jitter(JITTER);
        let ledger = Ledger::new(places.len());
        let count = places.len();
        let mut around =
            Around { now: Time::ZERO, queue: Queue::default(), network, ledger, places };
        let mut first = Draws::new(seed, 0x666F_6361);
        let members = (0..count)
            .map(|n| {
                let chance = Chance(Draws::new(seed, n as u64));
                let mut swim = Foca::new(Id::of(n), config.clone(), chance, PostcardCodec);
                let all = (0..count).filter(|&other| other != n).map(|n| Record::alive(Id::of(n)));
                let stagger = Some(&mut first);
                let outcome =
                    swim.apply_many(all, false, At { member: n, stagger, around: &mut around });
                around.ledger.refused += u64::from(outcome.is_err());
                swim
            })
            .collect();
        Self { members, around, events: 0 }
    }

    pub(super) const fn now(&self) -> Time {
        self.around.now
    }

    pub(super) const fn ledger(&self) -> &Ledger {
        &self.around.ledger
    }

    /// How many members there are, dead or alive.
    pub(super) const fn count(&self) -> usize {
        self.members.len()
    }

    /// How many run.
    pub(super) fn running(&self) -> usize {
        self.around.places.iter().filter(|place| place.runs).count()
    }

    pub(super) fn runs(&self, member: usize) -> bool {
        self.around.places[member].runs
    }

    /// The members of a cluster.
    pub(super) fn in_cluster(&self, cluster: usize) -> Vec<usize> {
        let places = self.around.places.iter().enumerate();
        places.filter(|(_, place)| place.cluster == cluster).map(|(n, _)| n).collect()
    }

    /// Whether every member that runs takes every other for alive, and nobody else.
    pub(super) fn agree(&self) -> bool {
        let others = self.running() - 1;
        (0..self.count()).all(|n| !self.runs(n) || self.members[n].num_members() == others)
    }

    /// Kills a member.
    pub(super) fn crash(&mut self, member: usize) {
        self.around.places[member].runs = false;
    }

    /// Stops a member for a while: all comes late, nothing is lost.
    pub(super) fn pause(&mut self, member: usize, time: Duration) {
        self.around.places[member].paused_until = self.around.now + time;
    }

    /// Lets time pass.
    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.around.now + time;
        while let Some((at, event)) = self.around.queue.pop(end) {
            self.around.now = self.around.now.max(at);
            self.happen(event);
        }
        self.around.now = end;
    }

    /// Lets time pass, in steps, until something holds: how long that took, or `None` if it took
    /// longer than `patience`.
    pub(super) fn until(
        &mut self,
        step: Duration,
        patience: Duration,
        holds: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let began = self.now();
        while !holds(self) {
            if self.now() - began >= patience {
                return None;
            }
            self.run_for(step);
        }
        Some(self.now() - began)
    }

    fn happen(&mut self, event: Event) {
        let n = event.member();
        let place = self.around.places[n];
        if !place.runs {
            return;
        }
        if place.paused_until > self.around.now {
            self.around.queue.push(place.paused_until, event);
            return;
        }
        self.events += 1;
        let around = &mut self.around;
        let outcome = match event {
            Event::Timer { timer, .. } => {
                self.members[n].handle_timer(timer, At { member: n, stagger: None, around })
            }
            Event::Packet { data, .. } => {
                around.look_into(&data);
                self.members[n].handle_data(&data, At { member: n, stagger: None, around })
            }
        };
        self.around.ledger.refused += u64::from(outcome.is_err());
    }
}

impl Around {
    fn look_into(&mut self, packet: &[u8]) {
        if let Some(member) = self.ledger.followed {
            self.ledger.copies += wire::deaths_of(member, packet).unwrap_or(0);
        }
    }

    /// Whether a member runs and nothing disturbed it lately: who takes it for dead is wrong.
    fn innocent(&self, member: usize) -> bool {
        let place = self.places[member];
        let disturbed = place.paused_until > Time::ZERO && self.now < place.paused_until + GRACE;
        place.runs && !disturbed
    }
}

/// A member in its surroundings: what foca asks for is done at once.
struct At<'a> {
    member: usize,
    /// At the start timers begin at any time up to their own, so that members do not march in step.
    stagger: Option<&'a mut Draws>,
    around: &'a mut Around,
}

impl Runtime<Id> for At<'_> {
    fn notify(&mut self, notification: Notification<'_, Id>) {
        match notification {
            Notification::MemberUp(&id) => self.around.ledger.up(self.member, id),
            Notification::MemberDown(&id) => {
                let innocent = self.around.innocent(id.member());
                self.around.ledger.down(self.member, id, innocent);
            }
            _ => {}
        }
    }

    fn send_to(&mut self, to: Id, data: &[u8]) {
        let around = &mut *self.around;
        let to = to.member();
        let (here, there) = (around.places[self.member].cluster, around.places[to].cluster);
        around.ledger.sent(data.len(), here == there);
        for at in around.network.datagram(here, there, around.now).into_iter().flatten() {
            around.queue.push(at, Event::Packet { member: to, data: data.into() });
        }
    }

    fn submit_after(&mut self, timer: Timer<Id>, after: Duration) {
        let after = match &mut self.stagger {
            Some(draws) => draws.between(Duration::ZERO, after),
            None => after,
        };
        self.around
            .queue
            .push(self.around.now + after, Event::Timer { member: self.member, timer });
    }
}
