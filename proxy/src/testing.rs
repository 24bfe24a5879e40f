//! What several tests need: an operator's CA in a temporary directory, and patience.

use std::{collections::BTreeMap, path::Path, time::Duration};

use pias_overlay::NodeConfig;
use tempfile::TempDir;

use crate::{ctl::ca, identity::Identity, keys::ResetKeys};

/// A CA of its own, and proxies' certificates by it.
pub(crate) struct Operator {
    pub(crate) dir: TempDir,
}

impl Operator {
    /// With certificates for these proxies.
    pub(crate) fn new(proxies: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        ca::init(dir.path(), 30).unwrap();
        for name in proxies {
            ca::issue_proxy(name, dir.path(), dir.path(), 30).unwrap();
        }
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn identity(&self, name: &str) -> Identity {
        let file = |suffix| self.path().join(format!("{name}.{suffix}"));
        Identity::load(&self.path().join("ca.pem"), &file("pem"), &file("key"), name).unwrap()
    }

    pub(crate) fn reset_keys(&self) -> ResetKeys {
        ResetKeys::load(&self.path().join("reset.key")).unwrap()
    }
}

/// The configuration of the node `fra1`, which knows nobody.
pub(crate) fn node_config() -> NodeConfig {
    NodeConfig {
        name: "fra1".into(),
        cluster: "fra".into(),
        unicast: vec!["127.0.0.1".parse().unwrap()],
        nat: Vec::new(),
        anycast: vec!["203.0.113.0/24".parse().unwrap()],
        seeds: Vec::new(),
        heartbeat: Duration::from_millis(200),
        policies: BTreeMap::new(),
        drain_wait: Duration::from_secs(5),
        incarnation: 1,
    }
}

/// Waits until something holds.
///
/// # Panics
/// After 20 seconds.
pub(crate) async fn eventually(mut holds: impl FnMut() -> bool) {
    let polled = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), polled).await.expect("it holds in time");
}
