//! What a configuration must hold beyond its syntax. Every check names the place of the fault.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use pias_overlay::{Policy, Seed};
use pias_protocol::{GENEVE_PORT, PIAS_PORT, PROXY_TLS_NAME, limits::MAX_NAME};
use toml::Spanned;

use super::{Config, Engine, file};
use crate::{
    identity::{Identity, IdentityError, Part},
    keys::ResetKeys,
};

/// Faults by the octet where each begins.
type Found = Vec<(usize, String)>;

/// Turns a file into a configuration.
pub(super) fn check(file: file::File) -> Result<Config, Found> {
    let mut found = Found::new();
    label(&file.name, "name", &mut found);
    label(&file.cluster, "cluster", &mut found);
    if file.name.get_ref() == PROXY_TLS_NAME {
        let message =
            format!("`{PROXY_TLS_NAME}` is the name that all proxies share: choose another");
        found.push((file.name.span().start, message));
    }
    let anycast = prefixes(&file.anycast.prefixes, &mut found);
    let unicast = unicast(&file.proxy.unicast, &anycast, &mut found);
    let nat = nat(&file.proxy.nat, &anycast, &unicast, &mut found);
    let seeds = seeds(&file, &unicast, &mut found);
    let groups = groups(&file.group, &anycast, &mut found);
    let interfaces = interfaces(&file.datapath.interfaces, &mut found);
    let keys = tls(&file, &mut found);
    let numbers = numbers(&file, &mut found);
    match keys {
        Some((identity, reset_keys)) if found.is_empty() => Ok(Config {
            name: file.name.into_inner(),
            cluster: file.cluster.into_inner(),
            state_directory: file.state_directory.unwrap_or_else(|| "/var/lib/pias".into()),
            anycast,
            unicast,
            nat,
            overlay_port: numbers.port,
            heartbeat: numbers.heartbeat,
            seeds,
            identity,
            reset_keys,
            device: numbers.device,
            mtu: numbers.mtu,
            engine: match file.datapath.engine {
                file::Engine::Auto => Engine::Auto,
                file::Engine::Xdp => Engine::Xdp,
                file::Engine::Tun => Engine::Tun,
            },
            interfaces,
            admin_socket: file.admin.socket.unwrap_or_else(|| crate::ADMIN_SOCKET.into()),
            metrics: numbers.metrics,
            drain_wait: numbers.drain_wait,
            groups,
        }),
        _ => Err(found),
    }
}

/// A name that goes into a certificate: a DNS label (RFC 1035 section 2.3.1, digits first too).
pub(crate) fn is_label(name: &str) -> bool {
    let octet = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(octet)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn label(name: &Spanned<String>, what: &str, found: &mut Found) {
    if !is_label(name.get_ref()) {
        let text = name.get_ref();
        found.push((
            name.span().start,
            format!(
                "{what} `{text}`: write 1 to {MAX_NAME} of a-z, 0-9 and -, with no - at the ends"
            ),
        ));
    }
}

fn prefixes(list: &Spanned<Vec<Spanned<IpNet>>>, found: &mut Found) -> Vec<IpNet> {
    let mut seen: Vec<IpNet> = Vec::new();
    if list.get_ref().is_empty() {
        found.push((list.span().start, "no prefix: name at least one to announce".to_owned()));
    }
    for item in list.get_ref() {
        let (prefix, at) = (*item.get_ref(), item.span().start);
        if prefix.addr() != prefix.network() {
            found.push((at, format!("{prefix} has host bits: write {}", prefix.trunc())));
        } else if prefix.prefix_len() < 8 || !usable(prefix.addr()) {
            found.push((at, format!("{prefix} cannot be an anycast prefix")));
        } else if let Some(other) = seen.iter().find(|o| o.contains(&prefix) || prefix.contains(*o))
        {
            found.push((at, format!("{prefix} overlaps {other}: keep the shorter one")));
        }
        seen.push(prefix);
    }
    seen
}

/// Addresses of a list, at most one a family, each fit for a host.
fn one_a_family(
    list: &Spanned<Vec<Spanned<IpAddr>>>,
    what: &str,
    anycast: &[IpNet],
    found: &mut Found,
) -> Vec<IpAddr> {
    let mut seen: Vec<IpAddr> = Vec::new();
    if list.get_ref().is_empty() {
        found.push((list.span().start, format!("no {what} address: name one, or one a family")));
    }
    for item in list.get_ref() {
        let (address, at) = (*item.get_ref(), item.span().start);
        if !usable(address) {
            found.push((at, format!("{address} cannot be a {what} address")));
        } else if let Some(prefix) = anycast.iter().find(|prefix| prefix.contains(&address)) {
            found.push((
                at,
                format!("{what} address {address} is in the anycast prefix {prefix}: take one of this proxy's own"),
            ));
        } else if let Some(other) = seen.iter().find(|o| o.is_ipv4() == address.is_ipv4()) {
            found.push((
                at,
                format!("a second {what} address of one family, after {other}: keep one"),
            ));
        }
        seen.push(address);
    }
    seen
}

fn unicast(
    list: &Spanned<Vec<Spanned<IpAddr>>>,
    anycast: &[IpNet],
    found: &mut Found,
) -> Vec<IpAddr> {
    one_a_family(list, "unicast", anycast, found)
}

fn nat(
    list: &Spanned<Vec<Spanned<IpAddr>>>,
    anycast: &[IpNet],
    unicast: &[IpAddr],
    found: &mut Found,
) -> Vec<IpAddr> {
    let addresses = one_a_family(list, "NAT", anycast, found);
    for item in list.get_ref().iter().filter(|item| unicast.contains(item.get_ref())) {
        found.push((
            item.span().start,
            format!("NAT address {} is the unicast address too: answers of targets must come to an address of their own", item.get_ref()),
        ));
    }
    for (v4, family) in [(true, "IPv4"), (false, "IPv6")] {
        let served = anycast.iter().any(|prefix| prefix.addr().is_ipv4() == v4);
        if served && !addresses.iter().any(|address| address.is_ipv4() == v4) {
            found.push((
                list.span().start,
                format!("no {family} NAT address, yet there is an {family} anycast prefix: its targets could not be reached"),
            ));
        }
    }
    addresses
}

fn seeds(file: &file::File, unicast: &[IpAddr], found: &mut Found) -> Vec<Seed> {
    let mut seen = BTreeMap::new();
    let mut seeds = Vec::new();
    for seed in &file.overlay.seeds {
        let (name, address) = (seed.name.get_ref(), *seed.address.get_ref());
        let at = seed.address.span().start;
        label(&seed.name, "seed", found);
        if let Some(other) = seen.insert(name.clone(), address) {
            let message = format!("seed {name} twice, before at {other}: keep one");
            found.push((seed.name.span().start, message));
        }
        let own = unicast.contains(&address);
        if (name == file.name.get_ref()) != own {
            let message = if own {
                format!("{address} is this proxy's own address, and not that of {name}")
            } else {
                format!(
                    "seed {name} is this proxy itself, but {address} is not its unicast address"
                )
            };
            found.push((at, message));
        } else if !usable(address) {
            found.push((at, format!("{address} cannot be the address of a proxy")));
        } else if !unicast.iter().any(|mine| mine.is_ipv4() == address.is_ipv4()) {
            found.push((
                at,
                format!("this proxy has no unicast address of the family of {address}"),
            ));
        } else if !own {
            seeds.push(Seed { name: name.clone(), address });
        }
    }
    seeds
}

fn groups(list: &[file::Group], anycast: &[IpNet], found: &mut Found) -> Vec<(SocketAddr, Policy)> {
    let mut seen = BTreeSet::new();
    for group in list {
        let (address, at) = (*group.address.get_ref(), group.address.span().start);
        if !anycast.iter().any(|prefix| prefix.contains(&address.ip())) {
            found.push((at, format!("group {address} is in no anycast prefix")));
        } else if address.port() == 0 {
            found.push((at, "port 0 names no service".to_owned()));
        } else if address.port() == PIAS_PORT {
            found.push((at, format!("port {PIAS_PORT} is the proxies' own")));
        } else if !seen.insert(address) {
            found.push((at, format!("group {address} twice: keep one")));
        }
    }
    list.iter()
        .map(|group| {
            let policy = match group.policy {
                file::Policy::Nearest => Policy::Nearest,
                file::Policy::Balanced => Policy::Balanced,
                file::Policy::Random => Policy::Random,
            };
            (*group.address.get_ref(), policy)
        })
        .collect()
}

fn interfaces(list: &[Spanned<String>], found: &mut Found) -> Vec<String> {
    let mut seen = BTreeSet::new();
    for item in list {
        let (name, at) = (item.get_ref(), item.span().start);
        if !is_device(name) {
            found.push((at, no_device(name)));
        } else if !seen.insert(name) {
            found.push((at, format!("interface {name} twice: keep one")));
        }
    }
    list.iter().map(|item| item.get_ref().clone()).collect()
}

/// Whether a network device can have the name.
fn is_device(name: &str) -> bool {
    let octet = |c: u8| c.is_ascii_graphic() && c != b'/' && c != b':' && c != b'%';
    (1..=15).contains(&name.len()) && name.bytes().all(octet)
}

fn no_device(name: &str) -> String {
    format!("`{name}` cannot name a network device: 1 to 15 characters")
}

/// Reads certificate, keys and CA, and puts a fault at the file that causes it.
fn tls(file: &file::File, found: &mut Found) -> Option<(Identity, ResetKeys)> {
    let tls = &file.tls;
    let path = |spanned: &Spanned<PathBuf>| spanned.get_ref().clone();
    let (ca, certificate, key) =
        (path(&tls.certificate_authority), path(&tls.certificate), path(&tls.key));
    let identity = Identity::load(&ca, &certificate, &key, file.name.get_ref());
    let reset = ResetKeys::load(tls.reset_key.get_ref());
    if let Err(error) = &reset {
        found.push((tls.reset_key.span().start, error.to_string()));
    }
    match identity {
        Ok(identity) => Some((identity, reset.ok()?)),
        Err(IdentityError { part, message }) => {
            let at = match part {
                Part::Authority => &tls.certificate_authority,
                Part::Certificate => &tls.certificate,
                Part::Key => &tls.key,
            };
            found.push((at.span().start, message));
            None
        }
    }
}

/// The single values, with their defaults.
struct Numbers {
    port: u16,
    heartbeat: Duration,
    device: String,
    mtu: u16,
    metrics: SocketAddr,
    drain_wait: Duration,
}

fn numbers(file: &file::File, found: &mut Found) -> Numbers {
    let mut bad = |at: usize, message: String| found.push((at, message));
    let port = file.overlay.port.as_ref().map_or(PIAS_PORT, |port| *port.get_ref());
    if let Some(spanned) = file.overlay.port.as_ref().filter(|_| port == 0 || port == GENEVE_PORT) {
        bad(spanned.span().start, format!("port {port} cannot be the overlay's"));
    }
    let span = |spanned: &Option<file::Span>, default| {
        spanned.as_ref().map_or((default, 0), |s| (s.get_ref().into_inner(), s.span().start))
    };
    let (heartbeat, at) = span(&file.overlay.heartbeat, pias_overlay::DEFAULT_HEARTBEAT);
    if heartbeat < Duration::from_millis(20) || heartbeat > Duration::from_secs(10) {
        bad(at, "heartbeat: from 20ms to 10s".to_owned());
    }
    let (drain_wait, at) = span(&file.drain.wait, Duration::from_secs(5));
    if drain_wait > Duration::from_secs(600) {
        bad(at, "wait: at most 10m".to_owned());
    }
    let device = file.tunnel.device.as_ref().map_or("pias0", |device| device.get_ref()).to_owned();
    if let Some(spanned) = file.tunnel.device.as_ref().filter(|_| !is_device(&device)) {
        bad(spanned.span().start, no_device(&device));
    }
    let mtu = file.tunnel.mtu.as_ref().map_or(1500, |mtu| *mtu.get_ref());
    if let Some(spanned) = file.tunnel.mtu.as_ref().filter(|_| mtu < 1380) {
        bad(
            spanned.span().start,
            "mtu: at least 1380, so that IPv6's least packet fits into a tunnel".to_owned(),
        );
    }
    let metrics = file.admin.metrics.as_ref().map_or(crate::METRICS_ADDRESS, |m| *m.get_ref());
    if let Some(spanned) = file.admin.metrics.as_ref().filter(|_| !metrics.ip().is_loopback()) {
        bad(
            spanned.span().start,
            format!(
                "{metrics} is no loopback address: the figures are open to whoever reaches them"
            ),
        );
    }
    Numbers { port, heartbeat, device, mtu, metrics, drain_wait }
}

/// Whether a host can have the address.
fn usable(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast)
}
