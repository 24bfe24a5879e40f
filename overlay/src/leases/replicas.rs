//! What mates hold, as they told it: this proxy is their heir.

use std::{collections::BTreeMap, net::SocketAddr};

use pias_protocol::{
    group::GroupKey,
    ids::{ProxyId, TargetId},
    overlay::{Lease, LeaseReplica},
};

use crate::{limits::MAX_REPLICATED_LEASES, outbox::Outbox};

#[derive(Debug)]
struct Replica {
    epoch: u64,
    leases: BTreeMap<TargetId, Lease>,
}

/// The leases of mates.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    of: BTreeMap<ProxyId, Replica>,
    /// Who holds a target; the last one that said so.
    by_target: BTreeMap<(GroupKey, SocketAddr), (ProxyId, TargetId)>,
    count: usize,
}

impl Replicas {
    /// Takes in a batch. Whether what went before is known: if not, the batch is of no use.
    pub(super) fn update(&mut self, from: ProxyId, batch: LeaseReplica, out: &mut Outbox) -> bool {
        if batch.sequence == 0 {
            self.take(from);
            let replica = Replica { epoch: batch.epoch, leases: BTreeMap::new() };
            self.of.insert(from, replica);
        } else if self.of.get(&from).is_none_or(|replica| replica.epoch != batch.epoch) {
            return false;
        }
        for target in batch.ended {
            self.forget(from, target);
        }
        for lease in batch.leases {
            self.forget(from, lease.id);
            if self.count >= MAX_REPLICATED_LEASES {
                out.counters.table_full += 1;
                continue;
            }
            if let Some(replica) = self.of.get_mut(&from) {
                self.by_target.insert((lease.group, lease.target), (from, lease.id));
                self.count += 1;
                replica.leases.insert(lease.id, lease);
            }
        }
        true
    }

    /// All leases of mates, as batches that [`Replicas::update`] takes.
    pub(super) fn batches(&self) -> Vec<(ProxyId, LeaseReplica)> {
        let batch = |(&mate, replica): (&ProxyId, &Replica)| {
            let leases = replica.leases.values().cloned().collect();
            (mate, LeaseReplica { epoch: replica.epoch, sequence: 0, leases, ended: Vec::new() })
        };
        self.of.iter().map(batch).collect()
    }

    fn forget(&mut self, from: ProxyId, target: TargetId) {
        let lease = self.of.get_mut(&from).and_then(|replica| replica.leases.remove(&target));
        if let Some(lease) = lease {
            self.unlist(from, &lease);
        }
    }

    fn unlist(&mut self, from: ProxyId, lease: &Lease) {
        self.count -= 1;
        let key = (lease.group, lease.target);
        if self.by_target.get(&key) == Some(&(from, lease.id)) {
            self.by_target.remove(&key);
        }
    }

    /// A target joined at a mate: another one that held it holds it no more.
    pub(super) fn taken(&mut self, by: ProxyId, group: GroupKey, target: SocketAddr) {
        if let Some(&(mate, id)) = self.by_target.get(&(group, target))
            && mate != by
        {
            self.forget(mate, id);
        }
    }

    /// Forgets what mates told of which another proxy is the heir now: it grows stale, and must not
    /// be taken over should this proxy become their heir the moment they die.
    pub(super) fn keep(&mut self, wards: impl Fn(ProxyId) -> bool) {
        let others: Vec<_> = self.of.keys().copied().filter(|&mate| !wards(mate)).collect();
        for mate in others {
            self.take(mate);
        }
    }

    /// All leases of a mate, which are not kept any longer.
    pub(super) fn take(&mut self, mate: ProxyId) -> Vec<Lease> {
        let leases = self.of.remove(&mate).map(|replica| replica.leases).unwrap_or_default();
        for lease in leases.values() {
            self.unlist(mate, lease);
        }
        leases.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use pias_protocol::overlay::{AgentLink, LeaseState};

    use super::*;

    const JAP: ProxyId = ProxyId(1);
    const MATE: ProxyId = ProxyId(2);

    fn lease(id: u64) -> Lease {
        let target: SocketAddr = ([10, 0, 0, id as u8], 53).into();
        Lease {
            id: TargetId(id),
            group: "203.0.113.10:53/udp".parse().unwrap(),
            target,
            weight: 1,
            state: LeaseState::Up,
            link: AgentLink {
                remote: target,
                anycast: "203.0.113.10".parse().unwrap(),
                connection: [id as u8; 8],
            },
        }
    }

    fn batch(epoch: u64, sequence: u64, leases: &[u64], ended: &[u64]) -> LeaseReplica {
        let leases = leases.iter().map(|&id| lease(id)).collect();
        LeaseReplica {
            epoch,
            sequence,
            leases,
            ended: ended.iter().map(|&id| TargetId(id)).collect(),
        }
    }

    fn held(replicas: &mut Replicas, mate: ProxyId) -> Vec<u64> {
        replicas.take(mate).iter().map(|lease| lease.id.0).collect()
    }

    #[test]
    fn batches_add_up_and_a_new_epoch_begins_anew() {
        let (mut replicas, mut out) = (Replicas::default(), Outbox::new(ProxyId(9)));
        assert!(replicas.update(JAP, batch(7, 0, &[1, 2], &[]), &mut out));
        // What was lost between is in a later batch again.
        assert!(replicas.update(JAP, batch(7, 5, &[3], &[1]), &mut out));
        assert!(!replicas.update(JAP, batch(8, 1, &[4], &[]), &mut out));
        assert_eq!(held(&mut replicas, JAP), [2, 3]);
        assert!(!replicas.update(JAP, batch(7, 6, &[5], &[]), &mut out), "it was taken over");
        assert!(replicas.update(JAP, batch(9, 0, &[6], &[]), &mut out));
        assert!(replicas.update(JAP, batch(10, 0, &[7], &[]), &mut out));
        assert_eq!(held(&mut replicas, JAP), [7]);
        assert_eq!((replicas.count, replicas.by_target.len()), (0, 0));
    }

    #[test]
    fn a_target_that_moved_is_not_inherited_from_where_it_was() {
        let (mut replicas, mut out) = (Replicas::default(), Outbox::new(ProxyId(9)));
        replicas.update(JAP, batch(7, 0, &[1, 2], &[]), &mut out);
        let moved = lease(1);
        replicas.taken(JAP, moved.group, moved.target);
        replicas.taken(MATE, moved.group, moved.target);
        assert_eq!(held(&mut replicas, JAP), [2]);
    }

    #[test]
    fn what_a_mate_told_before_it_had_another_heir_is_not_taken_over() {
        let (mut replicas, mut out) = (Replicas::default(), Outbox::new(ProxyId(9)));
        replicas.update(JAP, batch(7, 0, &[1, 2], &[]), &mut out);
        replicas.update(MATE, batch(8, 0, &[3], &[]), &mut out);
        replicas.keep(|mate| mate == MATE);
        assert!(!replicas.update(JAP, batch(7, 1, &[4], &[]), &mut out), "it has to begin anew");
        assert_eq!((held(&mut replicas, JAP), held(&mut replicas, MATE)), (vec![], vec![3]));
        assert_eq!((replicas.count, replicas.by_target.len()), (0, 0));
    }
}
