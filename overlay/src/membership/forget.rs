//! The end of the dead: they are remembered for a while, so that stale news does not bring them
//! back, and then forgotten by everybody.

use std::{collections::BTreeMap, sync::Arc};

use pias_protocol::{
    ids::{ClusterId, ProxyId},
    time::Time,
};

use super::table::Table;
use crate::timing::{FORGET_CLUSTER, FORGET_DEAD};

/// Since when who is dead, as far as this proxy can tell.
#[derive(Debug, Default)]
pub(super) struct Forget {
    members: BTreeMap<ProxyId, Time>,
    clusters: BTreeMap<ClusterId, Time>,
}

impl Forget {
    /// A proxy is dead, or has left.
    pub(super) fn dead(&mut self, id: ProxyId, now: Time) {
        self.members.insert(id, now);
    }

    /// A proxy lives.
    pub(super) fn alive(&mut self, id: ProxyId) {
        self.members.remove(&id);
    }

    /// A cluster is down, or lives.
    pub(super) fn cluster(&mut self, id: ClusterId, down: bool, now: Time) {
        if down {
            self.clusters.insert(id, now);
        } else {
            self.clusters.remove(&id);
        }
    }

    /// Forgets those that are dead for long. Who was forgotten.
    pub(super) fn tick(&mut self, table: &mut Arc<Table>, now: Time) -> Vec<ProxyId> {
        let over = |since: &Time, after| now - *since >= after;
        let mut members: Vec<_> = self
            .members
            .iter()
            .filter(|(_, since)| over(since, FORGET_DEAD))
            .map(|(&id, _)| id)
            .collect();
        self.members.retain(|_, since| !over(since, FORGET_DEAD));
        let clusters: Vec<_> = self
            .clusters
            .iter()
            .filter(|(_, since)| over(since, FORGET_CLUSTER))
            .map(|(&id, _)| id)
            .collect();
        self.clusters.retain(|_, since| !over(since, FORGET_CLUSTER));
        for cluster in clusters.iter().filter_map(|&id| table.cluster(id)) {
            members.extend(cluster.members().iter().map(|member| member.id));
        }
        if !members.is_empty() {
            members.sort_unstable();
            Arc::make_mut(table).forget(|_, member| members.binary_search(&member.id).is_ok());
        }
        members
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pias_protocol::overlay::MemberState;

    use super::{
        super::table::tests::{filled, record},
        *,
    };

    #[test]
    fn the_dead_are_remembered_for_ten_minutes_and_lost_clusters_for_an_hour() {
        let mut table = Arc::new(filled(&[
            record("a1", "a", 1, MemberState::Up),
            record("a2", "a", 1, MemberState::Down),
            record("b1", "b", 1, MemberState::Up),
        ]));
        Arc::make_mut(&mut table).edit(ClusterId::of("b"), |cluster| cluster.down = true);
        let mut forget = Forget::default();
        forget.dead(ProxyId::of("a2"), Time::ZERO);
        forget.cluster(ClusterId::of("b"), true, Time::ZERO);
        let minutes = |n: u64| Time::ZERO + Duration::from_secs(60 * n);
        assert!(forget.tick(&mut table, minutes(9)).is_empty());
        assert_eq!(forget.tick(&mut table, minutes(10)), [ProxyId::of("a2")]);
        assert!(forget.tick(&mut table, minutes(59)).is_empty());
        assert_eq!(forget.tick(&mut table, minutes(60)), [ProxyId::of("b1")]);
        assert_eq!((table.known(), table.clusters().count()), (1, 1));
    }
}
