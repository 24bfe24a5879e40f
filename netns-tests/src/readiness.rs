//! When a lab is ready: routing has converged, proxies are announced.

use std::thread;
use std::time::Duration;

use crate::config::piasd::unicast;
use crate::host::RunError;
use crate::lab::Lab;
use crate::limits::BOOT_LIMIT;
use crate::topology::{Role, Topology};
use crate::wait::{TimedOut, wait_for};

/// What keeps a lab from being ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// A host cannot be asked.
    #[error(transparent)]
    Run(#[from] RunError),
    /// It took too long; the last thing that was missing is named.
    #[error("the lab did not get ready: {missing} ({source})")]
    TimedOut {
        /// What was missing.
        missing: String,
        /// How long it was waited for.
        source: TimedOut,
    },
}

/// Waits until every BGP session and OSPF adjacency is up and every client
/// reaches every proxy's host in both families.
pub(crate) fn wait_routed(lab: &Lab) -> Result<Duration, NotReady> {
    wait_all(lab, "routing", |lab, host| match host.1 {
        Role::Router | Role::Transit => missing_protocols(lab, host.0),
        Role::Client => missing_paths(lab, host.0),
        Role::Proxy | Role::Target => Ok(None),
    })
}

/// Waits until every proxy says that it is ready, every POP's router sends the
/// anycast prefixes to all proxies of its LAN, and every transit AS sends them
/// to its POP's router.
pub(crate) fn wait_proxies(lab: &Lab) -> Result<Duration, NotReady> {
    wait_all(lab, "the proxies", |lab, host| match host.1 {
        Role::Proxy => Ok(missing_readiness(lab, host.0)),
        Role::Router => missing_routes(lab, host.0),
        Role::Transit => missing_way(lab, host.0),
        Role::Client | Role::Target => Ok(None),
    })
}

/// Asks all hosts at once, each until it misses nothing.
fn wait_all(
    lab: &Lab,
    what: &str,
    missing: impl Fn(&Lab, (&str, Role)) -> Result<Option<String>, RunError> + Sync,
) -> Result<Duration, NotReady> {
    let hosts: Vec<_> =
        lab.topology().hosts.iter().map(|host| (host.name.as_str(), host.role)).collect();
    let wait_one = |host: (&str, Role)| {
        let mut last = Ok(None);
        let waited = wait_for(BOOT_LIMIT, format!("{what} at {}", host.0), || {
            last = missing(lab, host);
            matches!(last, Ok(None)).then_some(())
        });
        match (waited, last) {
            (Ok(((), took)), _) => Ok(took),
            (Err(_), Err(error)) => Err(NotReady::Run(error)),
            (Err(source), Ok(missing)) => {
                Err(NotReady::TimedOut { missing: missing.unwrap_or_default(), source })
            }
        }
    };
    thread::scope(|scope| {
        let waits: Vec<_> = hosts.iter().map(|host| scope.spawn(|| wait_one(*host))).collect();
        waits
            .into_iter()
            .map(|wait| wait.join().expect("waiting does not panic"))
            .try_fold(Duration::ZERO, |longest, took| Ok(longest.max(took?)))
    })
}

/// A router's protocol that is not up, in BIRD's words.
fn missing_protocols(lab: &Lab, host: &str) -> Result<Option<String>, RunError> {
    let protocols = lab.host(host).run(&["birdc", "show", "protocols"])?;
    if !protocols.success() {
        return Ok(Some(format!("{host}: BIRD does not answer")));
    }
    let down = protocols.stdout.lines().find(|line| {
        let mut words = line.split_whitespace().skip(1);
        match words.next() {
            Some("BGP") => !line.contains("Established"),
            Some("OSPF") => !line.contains("Running"),
            _ => false,
        }
    });
    if let Some(line) = down {
        return Ok(Some(format!("{host}: {}", line.trim())));
    }
    missing_neighbors(lab, host)
}

/// An OSPF instance that has fewer full neighbours than its LAN has members.
fn missing_neighbors(lab: &Lab, host: &str) -> Result<Option<String>, RunError> {
    let Some(lan) = lab.topology().lans.iter().find(|lan| lan.router == host) else {
        return Ok(None);
    };
    for instance in ["ospf_ipv4", "ospf_ipv6"] {
        let text = lab.host(host).run(&["birdc", "show", "ospf", "neighbors", instance])?.stdout;
        let full = text.lines().filter(|line| line.contains("Full/")).count();
        if full < lan.members.len() {
            return Ok(Some(format!("{host}: {instance} has {full} full neighbours")));
        }
    }
    Ok(None)
}

/// A proxy's unicast address that a client cannot ping.
fn missing_paths(lab: &Lab, client: &str) -> Result<Option<String>, RunError> {
    for address in proxy_addresses(lab.topology()) {
        let ping = lab.host(client).run(&["ping", "-n", "-c", "1", "-W", "1", &address])?;
        if !ping.success() {
            return Ok(Some(format!("{client} does not reach {address}")));
        }
    }
    Ok(None)
}

fn proxy_addresses(topology: &Topology) -> Vec<String> {
    let proxies = topology.hosts_of(Role::Proxy);
    proxies.flat_map(|proxy| unicast(topology, &proxy.name)).map(|ip| ip.to_string()).collect()
}

/// Whether a proxy is not ready by its own word.
fn missing_readiness(lab: &Lab, proxy: &str) -> Option<String> {
    match lab.host(proxy).piasctl(&["status"]) {
        Ok(status) if status["ready"].as_bool() == Some(true) => None,
        Ok(_) => Some(format!("{proxy}: piasd is not ready")),
        Err(error) => Some(error.to_string()),
    }
}

/// An anycast prefix that a router does not spread over its LAN's proxies.
fn missing_routes(lab: &Lab, router: &str) -> Result<Option<String>, RunError> {
    let Some(lan) = lab.topology().lans.iter().find(|lan| lan.router == router) else {
        return Ok(None);
    };
    lacking(lab, router, |routes| {
        let hops = routes.matches(" via ").count();
        (hops < lan.members.len()).then(|| format!("{hops} next hops"))
    })
}

/// An anycast prefix that a transit AS does not reach through the POP that it
/// is the neighbour of, whose name the interface has.
fn missing_way(lab: &Lab, transit: &str) -> Result<Option<String>, RunError> {
    let topology = lab.topology();
    let ends = topology.links.iter().map(|link| [&link.a, &link.b]);
    let linked = ends.filter(|ends| ends.iter().any(|end| *end == transit)).flatten();
    let pops: Vec<_> =
        linked.filter(|end| topology.lans.iter().any(|lan| lan.router == **end)).collect();
    if pops.is_empty() {
        return Ok(None);
    }
    lacking(lab, transit, |routes| {
        let near = pops.iter().any(|pop| routes.contains(&format!(" dev {pop} ")));
        (!near).then(|| format!("no route to {pops:?}"))
    })
}

/// An anycast prefix whose routes at a host are not what they should be.
fn lacking(
    lab: &Lab,
    host: &str,
    lack: impl Fn(&str) -> Option<String>,
) -> Result<Option<String>, RunError> {
    for prefix in &lab.topology().anycast.prefixes {
        let prefix = prefix.to_string();
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        let routes = lab.host(host).run(&["ip", family, "route", "show", &prefix])?.stdout;
        if let Some(lack) = lack(&routes) {
            return Ok(Some(format!("{host}: {prefix} has {lack}")));
        }
    }
    Ok(None)
}
