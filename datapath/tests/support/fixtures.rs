//! What `fixtures/*.txt` say, for every engine that runs them. The format: `fixtures/README.md`.

use std::{fmt::Write as _, fs, net::IpAddr, path::PathBuf};

use pias_datapath::{
    limits::Limits,
    packet::Packet,
    pipeline::{Pipeline, PipelineConfig, Side, Verdict},
};
use pias_protocol::{
    forwarding::{ForwardingUpdate, IngressEntry, Target, TargetState},
    geneve,
    ids::{ProxyId, TargetId},
    placement::Candidate,
    time::Time,
};

/// When all fixtures play.
pub(crate) const NOW: Time = Time::from_micros(1_000_000);

/// The proxy at which all fixtures play.
pub(crate) fn config() -> PipelineConfig {
    PipelineConfig {
        self_id: ProxyId(1),
        anycast: vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:a::/48".parse().unwrap()],
        nat: vec!["192.0.2.200".parse().unwrap(), "2001:db8:2::1".parse().unwrap()],
        unicast: vec!["198.51.100.1".parse().unwrap(), "2001:db8:1::1".parse().unwrap()],
        underlay_mtu: 1500,
        limits: Limits::default(),
        seed: 7,
    }
}

/// All fixtures: their files and texts.
pub(crate) fn all() -> Vec<(PathBuf, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut files: Vec<PathBuf> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    assert!(files.len() >= 12, "fixtures are missing from {}", folder.display());
    files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect()
}

/// The line's change of the forwarding table, if it is one.
pub(crate) fn update(words: &[&str]) -> Option<ForwardingUpdate> {
    let proxy = |text: &str| ProxyId(text.parse().unwrap());
    let ingress = |group: &str, entry| {
        Some(ForwardingUpdate::Ingress { group: group.parse().unwrap(), entry })
    };
    match *words {
        ["peer", id, address] => {
            Some(ForwardingUpdate::Peer { id: proxy(id), tunnel: address.parse().unwrap() })
        }
        ["candidates", group, ref ids @ ..] => {
            let candidate = |id: &&str| Candidate { proxy: proxy(id), tier: 0, weight: 1 };
            ingress(group, IngressEntry::Candidates(ids.iter().map(candidate).collect()))
        }
        ["rendezvous", group, id] => ingress(group, IngressEntry::Rendezvous(proxy(id))),
        ["refuse", group] => ingress(group, IngressEntry::Refuse),
        ["target", id, group, address] => Some(ForwardingUpdate::Target(Target {
            id: TargetId(id.parse().unwrap()),
            group: group.parse().unwrap(),
            address: address.parse().unwrap(),
            weight: 1,
            state: TargetState::Up,
        })),
        _ => None,
    }
}

/// A packet that a line brings.
pub(crate) enum Arrival {
    /// From the TUN device.
    Tun(Vec<u8>),
    /// From this proxy's tunnel endpoint, with its Geneve header.
    Tunnel(IpAddr, Vec<u8>),
}

/// The line's packet, if it is one.
pub(crate) fn arrival(words: &[&str]) -> Option<Arrival> {
    match *words {
        ["tun", hex] => Some(Arrival::Tun(from_hex(hex))),
        ["tunnel", source, hex] => Some(Arrival::Tunnel(source.parse().unwrap(), from_hex(hex))),
        _ => None,
    }
}

impl Arrival {
    /// The lines that the packet leads to in a pipeline.
    pub(crate) fn outcome(&self, pipeline: &mut Pipeline, now: Time) -> Vec<String> {
        let mut side = Side::default();
        let (packet, verdict) = match self {
            Self::Tun(bytes) => {
                let mut packet = Packet::from_bytes(bytes);
                let verdict = pipeline.from_tun(&mut packet, now, &mut side);
                (packet, verdict)
            }
            Self::Tunnel(source, datagram) => {
                let (header, inner) = geneve::Header::parse(datagram).unwrap();
                let mut packet = Packet::from_bytes(inner);
                let verdict = pipeline.from_tunnel(*source, &header, &mut packet, now, &mut side);
                (packet, verdict)
            }
        };
        let mut lines = vec![format!("verdict {}", name(&verdict))];
        if matches!(verdict, Verdict::Tun | Verdict::Peer { .. }) {
            lines.push(format!("bytes {}", with_header(&verdict, &packet)));
        }
        lines.extend(side.packets.iter().map(|(verdict, packet)| {
            format!("beside {} {}", name(verdict), with_header(verdict, packet))
        }));
        lines
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "odd hex");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// Octets as fixtures write them.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn with_header(verdict: &Verdict, packet: &Packet) -> String {
    let mut bytes = Vec::new();
    if let Verdict::Peer { header, .. } = verdict {
        let mut out = [0; geneve::MAX_LEN];
        let length = header.write(&mut out);
        bytes.extend(&out[..length]);
    }
    bytes.extend(packet.bytes());
    to_hex(&bytes)
}

fn name(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Tun => "tun".into(),
        Verdict::Peer { tunnel, .. } => format!("peer {tunnel}"),
        Verdict::Registration { .. } => "registration".into(),
        Verdict::Parked => "parked".into(),
        Verdict::Drop(reason) => format!("drop {}", reason.name()),
        Verdict::Answered => "answered".into(),
    }
}
