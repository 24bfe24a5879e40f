//! Every period and deadline of the brain, and why it is as long as it is.

use std::time::Duration;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

// Membership.

/// Heartbeats for which a mate may be silent before it is suspected.
pub(crate) const SILENT_BEATS: f64 = 3.5;
/// How often a suspected mate is asked, ...
pub(crate) const ASK_BURST: u32 = 6;
/// ... and how far apart: together they take less than a beat, and at 5 % loss all of them, and
/// their answers, are lost once in a million times.
pub(crate) const ASK_GAP: Duration = ms(12);
/// Every so many beats are answered, to measure the way.
pub(crate) const ASK_EVERY: u64 = 10;
/// How long a mate's word that another is silent counts.
pub(crate) const WORD_LIFETIME: Duration = ms(1_000);
/// How long a proxy that judged alone listens for others before it tells the world: a long round
/// trip.
pub(crate) const SPEAK_ALONE: Duration = ms(600);
/// Heartbeats within which a proxy must have been heard for the news of its death not to be
/// believed. Who judges a proxy dead has not heard it for longer, so news of a true death is.
pub(crate) const HEARSAY_BEATS: f64 = 1.5;

/// Longest round trip that is measured. Silence is borne for a round trip longer, so what takes
/// longer than this must not be taken for one.
pub(crate) const MAX_RTT: Duration = ms(2_000);

/// How often contacts in watched clusters are beaten.
pub(crate) const WATCH_BEAT: Duration = ms(1_000);
/// How long all contacts of a cluster may be silent before its members are asked: two beats.
pub(crate) const CLUSTER_SILENCE: Duration = ms(2_200);
/// How often the members of a silent cluster are asked, ...
pub(crate) const CLUSTER_ASKS: u32 = 3;
/// ... and how far apart: together as long as a long round trip may take.
pub(crate) const CLUSTER_ASK_GAP: Duration = ms(170);
/// How often the other watchers are told, at least, before one judges alone, ...
pub(crate) const CLUSTER_WORDS: u32 = 3;
/// ... and how far apart.
pub(crate) const CLUSTER_WORD_GAP: Duration = ms(300);
/// How long another watcher's word counts.
pub(crate) const CLUSTER_WORD_LIFETIME: Duration = ms(3_000);
/// How soon it is looked who watches whom when somebody came or went: many may do so at once.
pub(crate) const RECONSIDER: Duration = ms(10);
/// How often a cluster that is down is called.
pub(crate) const CLUSTER_CALL: Duration = ms(2_000);

/// How often neighbours are looked after, and chosen ones beaten: often enough that connections do
/// not fall idle.
pub(crate) const NEIGHBOUR_BEAT: Duration = ms(2_000);
/// How long a far neighbour may be silent before another takes its place.
pub(crate) const NEIGHBOUR_LOST: Duration = ms(10_000);
/// How soon neighbours are looked after when some came or went.
pub(crate) const TEND_SOON: Duration = ms(100);
/// For how long announcements are collected.
pub(crate) const ANNOUNCE: Duration = ms(50);
/// For how long news is collected that is not urgent.
pub(crate) const PUSH_BATCH: Duration = ms(500);
/// How long an announced record may take to be pushed before it is asked for.
pub(crate) const GRAFT: Duration = ms(200);
/// The same for news that is pushed in batches: some steps of the tree may lie between, each as long
/// as [`PUSH_BATCH`]. Were it asked for at once, most ways would become eager.
pub(crate) const GRAFT_BATCH: Duration = ms(2_000);
/// When it is asked for again.
pub(crate) const GRAFT_AGAIN: Duration = ms(300);
/// How long a death is doubted that a comparison brought up, or that may be old news: the accused
/// has to be told, and its denial has to get here.
pub(crate) const DOUBT: Duration = ms(1_500);

/// How long a proxy may take for its first sign of life: a QUIC handshake, twice lost.
pub(crate) const FIRST_CONTACT: Duration = ms(3_000);
/// Longest patience with a proxy that was taken for dead and denied it: it doubles each time.
pub(crate) const MAX_PATIENCE: Duration = ms(30_000);
/// For how long a proxy has to live for its deaths before not to count.
pub(crate) const STEADY: Duration = ms(600_000);
/// How often missed seeds and the dead are called, and a wrong belief of a proxy about itself is put right.
pub(crate) const CALL_INTERVAL: Duration = ms(1_000);
/// How often tables are compared with one other proxy, so that no loss lasts.
pub(crate) const EXCHANGE_INTERVAL: Duration = ms(5_000);
/// Of how many such comparisons in a row the other proxy is a neighbour, before one is with anybody,
/// for a while after a change, ...
pub(crate) const NEIGHBOURS_BETWEEN: usize = 3;
/// ... and in the mean while nothing happens: to ask anybody takes a handshake, so it is done once a
/// minute.
pub(crate) const NEIGHBOURS_BETWEEN_QUIET: usize = 11;
/// How long the while after a change lasts: the halves of a split find together in half of it.
pub(crate) const RESTLESS: Duration = ms(60_000);
/// How often a proxy does so that was told something and does not know all yet.
pub(crate) const LEARN_INTERVAL: Duration = ms(200);
/// How long the dead are remembered and called.
pub(crate) const FORGET_DEAD: Duration = ms(600_000);
/// How long it is remembered who stands in for a dead proxy: lists that name the dead are older
/// by far when nobody uses them any more.
pub(crate) const STANDS_IN: Duration = ms(600_000);
/// How long a proxy that has started waits for its mates to hand back the flows of its former life:
/// they look at 2^19 of them in 1.6 s.
pub(crate) const HAND_BACK_WAIT: Duration = ms(2_500);
/// How soon a mate that asked for its flows may ask again, unless it has started anew: looking for them
/// takes long, and would begin anew.
pub(crate) const HAND_BACK_AGAIN: Duration = HAND_BACK_WAIT;
/// How long the flows of a dead mate are gone on with: connections that are still used last longer
/// than the dead are remembered otherwise.
pub(crate) const HEIRLOOM_LIFETIME: Duration = ms(24 * 3_600_000);
/// How long a cluster that is down is remembered and called.
pub(crate) const FORGET_CLUSTER: Duration = ms(3_600_000);
/// How often it is looked for the long dead.
pub(crate) const FORGET_CHECK: Duration = ms(10_000);
/// How long a proxy waits for others before it announces itself alone.
pub(crate) const READY_GRACE: Duration = ms(1_000);
/// How long it waits at most to learn what others know.
pub(crate) const READY_MOST: Duration = ms(3_000);
/// How often it looks meanwhile.
pub(crate) const READY_CHECK: Duration = ms(100);

// Proximity.

/// How often a proxy looks where it is.
pub(crate) const PROXIMITY_LOOK: Duration = ms(500);
/// When a proxy publishes where it is for the first time after it measured something.
pub(crate) const PROXIMITY_FIRST: Duration = ms(1_000);
/// How long it waits at least before it publishes again, once it has been running for as long.
pub(crate) const PROXIMITY_PUBLISH: Duration = ms(30_000);
/// The same per cluster of the service: all clusters together publish at most twice in a second,
/// however many they are, so that everybody's idle traffic stays small.
pub(crate) const PROXIMITY_EACH: Duration = ms(500);

// Rendezvous.

/// How long a RAP believes that the heir of a JAP serves what that one did, unless the heir says so.
pub(crate) const INHERITED_LIFETIME: Duration = ms(5_000);
/// How long a RAP believes a count: three refreshes and some.
pub(crate) const COUNT_LIFETIME: Duration = ms(95_000);
/// For how long after its start, or after a proxy's death gave it new groups, a RAP does not take
/// its ignorance for an answer: JAPs need a round trip and their pacing to report.
pub(crate) const WARM_UP: Duration = ms(1_500);
/// How long a packet is held in warm-up: less than the datapath keeps it (a second).
pub(crate) const HOLD: Duration = ms(800);
/// For how long a RAP does not say that a group has lost its last JAP: an agent that routing led to
/// another proxy joins there within half a second and two long round trips, as a rule.
pub(crate) const VACANT: Duration = ms(1_000);
/// Least time between two pushes of one group's list.
pub(crate) const PUSH_INTERVAL: Duration = ms(200);
/// How long an ingress may use a list before it asks again.
pub(crate) const LIST_FRESH: Duration = ms(30_000);
/// How long an ingress that asked is told of changes.
pub(crate) const ASKER_LIFETIME: Duration = ms(90_000);
/// Within this time the same list is not sent twice to the same ingress: the packets that it
/// forwarded before the list arrived do not each earn one. Less than a refusal lasts.
pub(crate) const LIST_REPEAT: Duration = ms(300);

// Ingress.

/// How long a RAP may take to answer, at least; else three round trips.
pub(crate) const RESOLVE_RETRY: Duration = ms(250);
/// How long a refusal is believed.
pub(crate) const NEGATIVE_LIFETIME: Duration = ms(500);
/// How long an entry lives without use.
pub(crate) const INGRESS_IDLE: Duration = ms(300_000);
/// How long a JAP that said that it has no target is left out of lists that still name it, and how
/// soon such a list is asked for again.
pub(crate) const DISTRUST: Duration = ms(1_000);

// Join.

/// Shortest and longest keep-alive interval; between them it grows with the number of targets.
pub(crate) const KEEP_ALIVE_MIN: Duration = ms(1_000);
/// See [`KEEP_ALIVE_MIN`].
pub(crate) const KEEP_ALIVE_MAX: Duration = ms(15_000);
/// Keep-alives per second that a proxy is willing to answer: the interval follows.
pub(crate) const KEEP_ALIVES_PER_SECOND: u32 = 200;
/// What a lease lasts beyond two keep-alive intervals.
pub(crate) const LEASE_SLACK: Duration = ms(1_000);
/// How long a connection without a target is kept.
pub(crate) const IDLE_AGENT: Duration = ms(30_000);
/// How often an agent is pinged at most while flows are placed on its targets.
pub(crate) const PING_INTERVAL: Duration = ms(250);
/// How long an agent may take to answer a ping, at least; else three round trips.
pub(crate) const PING_DEADLINE: Duration = ms(150);
/// How long it may take while its round-trip time is unknown.
pub(crate) const FIRST_PING_DEADLINE: Duration = ms(1_000);
/// Unanswered pings in a row after which an agent is taken for dead.
pub(crate) const UNANSWERED_PINGS: u8 = 2;
/// First and longest time between two probes of a service that is down; it doubles.
pub(crate) const PROBE_BACKOFF_MIN: Duration = ms(250);
/// See [`PROBE_BACKOFF_MIN`].
pub(crate) const PROBE_BACKOFF_MAX: Duration = ms(2_000);
/// When the answer to a probe is taken for lost: the datapath gives up after a second.
pub(crate) const PROBE_LOST: Duration = ms(1_500);
/// How long a flow's refusal counts against a UDP service that answers no new flow: a dead one that is
/// asked refuses one a second.
pub(crate) const REFUSAL_COUNTS: Duration = ms(2_500);
/// A service that falls so soon after probes spoke for it did not rise.
pub(crate) const FLAPPING: Duration = ms(60_000);
/// How long an agent waits at most for the word that it is a member, while RAPs are told: twice a
/// long round trip.
pub(crate) const GRANTED_WAIT: Duration = ms(500);
/// How long the flows of a target that left may go on.
pub(crate) const LEAVING: Duration = ms(300_000);
/// How long they may where its agent does not answer: one that another proxy has reset joins there within
/// half a second and two long round trips, and mates hear of it.
pub(crate) const REJOINING: Duration = ms(2_000);
/// How long those of a target may that is elsewhere now: nothing is wrong with it, and its
/// connections last as long as those of a dead mate.
pub(crate) const MOVED: Duration = HEIRLOOM_LIFETIME;
/// A proxy that did not run for so long takes no agent's silence for its death: less than any lease,
/// and more than a busy machine takes.
pub(crate) const OWN_PAUSE: Duration = ms(500);

// Leases inside the cluster.

/// How long a change of a lease may wait for others before the heir is told.
pub(crate) const LEASE_DELAY: Duration = ms(20);
/// When a batch of leases is taken for lost.
pub(crate) const LEASE_REPEAT: Duration = ms(1_000);
/// How often the heir is asked whether it still has what it was told, though nothing changed.
pub(crate) const LEASE_REFRESH: Duration = ms(5_000);
/// How long a mate that died is remembered: if it comes back, it is told what it has lost.
pub(crate) const MATE_MEMORY: Duration = ms(600_000);
/// How long an heir serves a target that has joined at another mate: until the RAPs know, for which that
/// one may have to connect to them first.
pub(crate) const TAKEN_OVER: Duration = ms(1_000);
/// How long an inherited lease lasts at least without its agent.
pub(crate) const ORPHAN_MIN: Duration = ms(5_000);
/// When the reset of an inherited agent is repeated.
pub(crate) const RESET_REPEAT: Duration = ms(1_000);

// Reports.

/// How often a report is repeated although nothing changed.
pub(crate) const REPORT_REFRESH: Duration = ms(30_000);
/// When an unacknowledged report is repeated first; the time doubles up to the refresh.
pub(crate) const REPORT_REPEAT: Duration = ms(1_000);
/// How long at least between two times that all unacknowledged reports to one RAP are repeated at
/// once, because the connection to it was lost.
pub(crate) const REPORT_HASTE: Duration = ms(200);
/// Mean time between two steps of paced work.
pub(crate) const STEP: Duration = ms(20);
