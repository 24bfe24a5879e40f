//! What a record of a whole cluster changes: that it is lost, or is not; and where it is.
//!
//! | what comes | what happens |
//! | --- | --- |
//! | the loss of the own cluster | denied with a higher version |
//! | that of one that was just heard | not believed; a member is told |
//! | one found by comparing tables | believed if no member denies it in time |
//! | newer than what is known | believed, and passed on |

use pias_protocol::{
    ids::ProxyId,
    overlay::{ClusterRecord, MemberState, MemberUpdate},
    time::Time,
};

use super::{
    Due, MemberEvent, Membership,
    doubt::Claim,
    duty,
    learn::{Came, Learned},
    observe::Verdict,
    peer::Peer,
    records,
    spread::Subject,
    tell,
    watch::ClusterVerdict,
};
use crate::{notice::Notice, outbox::Outbox};

impl Membership {
    /// A record came.
    #[expect(clippy::too_many_arguments, reason = "as members, and who says it")]
    pub(super) fn learn_cluster(
        &mut self,
        from: ProxyId,
        record: ClusterRecord,
        came: Came,
        now: Time,
        learned: &mut Learned,
        events: &mut Vec<MemberEvent>,
        out: &mut Outbox,
    ) {
        let id = record.cluster;
        let Some(cluster) = self.table.cluster(id) else { return };
        if record.version == u32::MAX || record.stamp == u32::MAX {
            let (name, why) = (cluster.name.to_string(), "no version is left to deny it with");
            return out.notice(Notice::RecordRefused { name, why });
        }
        let moved = record.stamp > cluster.stamp;
        let newer = (record.version, record.down) > (cluster.version, cluster.down);
        if !moved && !newer {
            let same = record.version == cluster.version && record.stamp == cluster.stamp;
            learned.known += usize::from(same && id != self.cluster);
            return;
        }
        if moved {
            self.change().edit(id, |cluster| {
                cluster.stamp = record.stamp;
                cluster.coordinate = record.coordinate;
            });
            self.spread.push_later(Subject::Cluster(id), from, now);
        }
        if newer {
            if id == self.cluster && record.down {
                self.deny_cluster(record.version, now, events, out);
            } else if !self.doubted_cluster(record, came, now, out) {
                self.turn_cluster(record, now, events, out);
                learned.news.push(Subject::Cluster(id));
            }
        }
    }

    /// Whether the loss of a cluster is not believed, or not yet; then its members are told.
    fn doubted_cluster(
        &mut self,
        record: ClusterRecord,
        came: Came,
        now: Time,
        out: &mut Outbox,
    ) -> bool {
        let Some(cluster) = self.table.cluster(record.cluster) else { return false };
        if !record.down || cluster.living() == 0 {
            return false;
        }
        let accused = duty::delegate(cluster, self.cluster);
        let subject = Subject::Cluster(record.cluster);
        let doubted = self.watch.hears(record.cluster, now)
            || (self.doubtful(came, now)
                && self.doubts.doubt(subject, Claim::Cluster(record), now, out));
        if doubted {
            if let Some(accused) = accused {
                let update =
                    MemberUpdate { pushed: false, clusters: vec![record], members: vec![] };
                out.send(accused, update);
            }
            if let Some(at) = self.doubts.next() {
                self.timers.set_by(Due::Doubt, at);
            }
        }
        doubted
    }

    /// A cluster is down, or was not.
    fn turn_cluster(
        &mut self,
        record: ClusterRecord,
        now: Time,
        events: &mut Vec<MemberEvent>,
        out: &mut Outbox,
    ) {
        let Some(cluster) = self.table.cluster(record.cluster) else { return };
        let turned = cluster.down != record.down;
        let name = cluster.name.to_string();
        let members: Vec<_> =
            cluster.standing().map(|m| (m.id, m.who.name.to_string(), m.state)).collect();
        self.change().edit(record.cluster, |cluster| {
            cluster.version = record.version;
            cluster.down = record.down;
        });
        if !turned {
            return;
        }
        self.forget.cluster(record.cluster, record.down, now);
        self.watch.reconsider(now);
        self.tend_soon(now);
        let proxies = members.len();
        if record.down {
            out.notice(Notice::ClusterGone { name, proxies });
            for (id, ..) in members {
                self.neighbours.gone(id);
                events.push(MemberEvent::Gone(id));
            }
        } else {
            out.notice(Notice::ClusterUp { name, proxies });
            for (id, _, state) in members {
                events.push(MemberEvent::Up(id));
                if state == MemberState::Draining {
                    events.push(MemberEvent::Draining(id));
                }
            }
        }
    }

    /// Denies that the own cluster is down. Who has just started vouches only for those it heard:
    /// the others are dead until they say otherwise.
    fn deny_cluster(
        &mut self,
        version: u32,
        now: Time,
        events: &mut Vec<MemberEvent>,
        out: &mut Outbox,
    ) {
        let unheard = |(&id, peer): (&ProxyId, &Peer)| {
            let mate = peer.mate.as_ref().filter(|mate| mate.alive && !mate.met);
            mate.filter(|_| peer.heard.is_none()).map(|_| id)
        };
        let unheard: Vec<_> = self.peers.iter().filter_map(unheard).collect();
        let mut news = Vec::new();
        for id in unheard {
            news.push(Subject::Member(id));
            self.declare(Verdict { proxy: id, witnessed: false }, now, events, out);
        }
        let own = self.cluster;
        self.change().edit(own, |cluster| cluster.version = version.saturating_add(1));
        out.notice(Notice::ClusterRefuted { version: version.saturating_add(1) });
        news.push(Subject::Cluster(own));
        self.push_news(&news, now, out);
        let to: Vec<_> = self.mates().collect();
        for update in records::named(&self.table, &[Subject::Cluster(own)], true) {
            tell(&to, &update, out);
        }
    }

    /// A cluster is down, as this proxy found out itself.
    pub(super) fn declare_cluster(
        &mut self,
        verdict: ClusterVerdict,
        now: Time,
        events: &mut Vec<MemberEvent>,
        out: &mut Outbox,
    ) {
        let Some(cluster) = self.table.cluster(verdict.cluster) else { return };
        if cluster.living() == 0 {
            return;
        }
        let version = cluster.version.saturating_add(1);
        let record = ClusterRecord { version, down: true, ..cluster.record() };
        self.turn_cluster(record, now, events, out);
        let news = [Subject::Cluster(verdict.cluster)];
        if verdict.witnessed {
            self.push_news(&news, now, out);
        }
        // Mates share the fate of this proxy, and its view.
        let to: Vec<_> = self.mates().collect();
        for update in records::named(&self.table, &news, true) {
            tell(&to, &update, out);
        }
    }
}
