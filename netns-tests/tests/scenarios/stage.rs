//! The lab that a scenario plays in.

use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pias_lab::topology::GroupSpec;
use pias_lab::{Join, Lab, Options, Topology, bracketed, clock, testing, wait_until};

use crate::losses;
use crate::machine::{Ticks, wait_until_steady};

/// The POPs of the default topology. Each has the client `c-POP`, the targets
/// `POP-t1` and `POP-t2`, and the proxies `POP1` and `POP2`.
pub(crate) const POPS: [&str; 3] = ["fra", "nyc", "sin"];

/// The group number with the policy `balanced`, see [`anycast`].
pub(crate) const BALANCED: u8 = 101;

/// The group number with the policy `random`, see [`anycast`].
pub(crate) const RANDOM: u8 = 102;

/// One lab at a time, and the one that a scenario left whole: the next scenario
/// goes on with it.
static TURN: Mutex<Option<Lab>> = Mutex::new(None);

/// A lab, and the turn to use the machine.
pub(crate) struct Stage {
    lab: Option<Lab>,
    shared: bool,
    began: Ticks,
    turn: MutexGuard<'static, Option<Lab>>,
}

impl Stage {
    /// The default topology. Scenarios share it, so one that breaks something
    /// mends it, and each uses group numbers of its own. None where no lab can
    /// run.
    pub(crate) fn shared() -> Option<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(1);
        if testing::skip() {
            return None;
        }
        let mut turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = turn.take().unwrap_or_else(|| {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let state = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("scenarios-{number}"));
            up(&shared_topology(), &Options { state: Some(state), ..Options::default() })
        });
        if !wait_until_steady() {
            // Links may have flapped, and routes gone elsewhere.
            lab.wait_proxies().expect("routing comes back");
        }
        Some(Self { lab: Some(lab), shared: true, began: Ticks::now(), turn })
    }

    /// A lab of its own, of another topology.
    pub(crate) fn own(topology: &Topology) -> Option<Self> {
        if testing::skip() {
            return None;
        }
        let mut turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // Two labs at once would share two cores.
        drop(turn.take());
        let lab = Some(up(topology, &Options::default()));
        wait_until_steady();
        Some(Self { lab, shared: false, began: Ticks::now(), turn })
    }
}

impl Deref for Stage {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        self.lab.as_ref().expect("the lab is there until the stage is dropped")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let stolen = Ticks::now().stolen_since(self.began);
            eprintln!("the host took {:.0} % of the machine's time meanwhile", stolen * 100.0);
            losses::tell(self);
            eprintln!("logs: {}", self.logs().display());
        } else if self.shared {
            *self.turn = self.lab.take();
        }
    }
}

fn up(topology: &Topology, options: &Options) -> Lab {
    wait_until_steady();
    let lab = Lab::up(topology, options).expect("the lab boots");
    let times = lab.boot_times();
    println!("{}: {:.1?}", topology.name, times.built + times.routed + times.proxies);
    lab
}

fn shared_topology() -> Topology {
    let mut topology = Topology::three_pops();
    for (number, policy) in [(BALANCED, "balanced"), (RANDOM, "random")] {
        topology.groups.extend(anycast(number).map(|address| GroupSpec {
            address: service(&address, 53),
            policy: policy.to_owned(),
        }));
    }
    topology
}

/// The anycast addresses of a number, one per family.
pub(crate) fn anycast(number: u8) -> [String; 2] {
    [format!("203.0.113.{number}"), format!("2001:db8:a::{number}")]
}

/// `AA:port`.
pub(crate) fn service(address: &str, port: u16) -> String {
    format!("{}:{port}", bracketed(address))
}

/// Joins a host to `AA:port` of both families; `protocol` is `/udp`, `/tcp` or
/// empty for both.
pub(crate) fn join_both<'lab>(
    lab: &'lab Lab,
    host: &str,
    number: u8,
    suffix: &str,
) -> [Join<'lab>; 2] {
    anycast(number).map(|address| join(lab, host, &address, suffix))
}

/// Joins a host to `AA:suffix`, and waits until the group's RAPs know: a client
/// that asks earlier may be told that nobody is there.
pub(crate) fn join<'lab>(lab: &'lab Lab, host: &str, address: &str, suffix: &str) -> Join<'lab> {
    let group = format!("{}:{suffix}", bracketed(address));
    let join = lab.host(host).join(&group, &[]).expect("the target joins");
    for joined in join.joins() {
        let details = |proxy: &str| {
            let details = lab.host(proxy).piasctl(&["group", &joined.group]).expect("piasctl");
            details["groups"][0].clone()
        };
        let raps = details(&joined.proxy)["raps"].as_array().cloned().unwrap_or_default();
        for rap in raps.iter().filter_map(|rap| rap.as_str()) {
            let knows = || {
                let counts = details(rap)["counts"].as_array().cloned().unwrap_or_default();
                counts.iter().any(|count| count["proxy"] == joined.proxy.as_str())
            };
            let what = format!("{rap} to know that {} serves {}", joined.proxy, joined.group);
            wait_until(Duration::from_secs(5), what, knows).expect("the RAPs are told");
        }
    }
    join
}

/// Ends memberships as an operator would.
pub(crate) fn leave<'lab>(joins: impl IntoIterator<Item = Join<'lab>>) {
    for join in joins {
        join.leave().expect("the agent leaves");
    }
}

/// Time since a moment of the machine's clock.
pub(crate) fn since(moment: Duration) -> Duration {
    clock().saturating_sub(moment)
}

/// The other proxy of a POP: of `fra1` it is `fra2`.
pub(crate) fn mate(proxy: &str) -> String {
    let (pop, number) = proxy.split_at(proxy.len() - 1);
    format!("{pop}{}", if number == "1" { "2" } else { "1" })
}

/// Waits until every proxy takes every other for alive; how long that took.
/// Nobody helps them.
pub(crate) fn all_up(lab: &Lab, limit: Duration) -> Duration {
    let proxies: Vec<_> =
        POPS.iter().flat_map(|pop| [format!("{pop}1"), format!("{pop}2")]).collect();
    let sees_all = |proxy: &String| up_at(lab, proxy).len() == proxies.len();
    let mut missing = Vec::new();
    let waited = wait_until(limit, "every proxy to take every other for alive", || {
        missing = proxies.iter().filter(|proxy| !sees_all(proxy)).cloned().collect();
        missing.is_empty()
    });
    waited.unwrap_or_else(|error| {
        let views: Vec<_> = missing.iter().map(|proxy| (proxy, up_at(lab, proxy))).collect();
        panic!("{error}: alive by the word of {views:?}")
    })
}

/// The proxies that are up by the word of one of them.
pub(crate) fn up_at(lab: &Lab, proxy: &str) -> Vec<String> {
    let proxies = lab.host(proxy).piasctl(&["proxies"]).unwrap_or_default();
    let rows = proxies["proxies"].as_array().cloned().unwrap_or_default();
    let up = rows.iter().filter(|row| row["state"] == "up");
    up.filter_map(|row| row["name"].as_str().map(str::to_owned)).collect()
}

/// Waits until a POP's router may tell OSPF of a change at once: a router
/// originates the same LSA every five seconds at most (RFC 2328, MinLSInterval),
/// and a scenario before this one may have changed something.
pub(crate) fn routing_settled(lab: &Lab, pop: &str) {
    let ages = || {
        let words = ["birdc", "show", "ospf", "lsadb", "self", "ospf_ipv4"];
        let shown = lab.host(pop).ok(&words).expect("birdc");
        let age = |line: &str| line.split_whitespace().nth(4)?.parse::<u32>().ok();
        shown.lines().filter_map(age).collect::<Vec<_>>()
    };
    wait_until(Duration::from_secs(15), format!("the LSAs of {pop} to be old"), || {
        let ages = ages();
        !ages.is_empty() && ages.iter().all(|age| *age >= 6)
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", ages()));
}
