//! Which interfaces XDP shall work on.
//!
//! | | without `datapath.interfaces` |
//! | --- | --- |
//! | network cards, also of virtual machines, and bonds | are taken |
//! | devices of VLANs (802.1Q) on these | are taken, with the interface that they are on |
//! | what belongs to a bond, a bridge or the like | is not: packets are the other's |
//! | veth, bridge, tunnel and other devices of the kernel's own | are not |
//!
//! XDP sees a VLAN's frames at the interface below, so it is attached there. Who names that one means all that
//! comes in there, in VLANs or not; who names a VLAN's device, its frames alone:
//!
//! | `datapath.interfaces` | XDP is attached to | and takes |
//! | --- | --- | --- |
//! | `["eth0"]` | eth0 | frames without a tag, and those of all VLANs that have a device |
//! | `["eth0.7"]` | eth0 | frames of VLAN 7 |
//! | `["eth0.7", "eth0.8"]` | eth0 | frames of these two |
//!
//! A VLAN on a VLAN, one with tags of another kind (802.1ad), and one whose interface is in another namespace
//! are devices as others are: XDP is attached to them themselves.
//!
//! A veth's packets may lack their checksums, which nobody computes who sends on the same machine: XDP
//! would send them on as they are. Whoever names one has seen to that (`ethtool -K ... tx off`).

use futures_util::TryStreamExt;
use pias_datapath::xdp::{Interface, Vlan};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage, VlanProtocol,
};

/// Why interfaces are not known.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// Netlink cannot be used.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[from] std::io::Error),
    /// The kernel does not tell.
    #[error("cannot list the network interfaces: {0}")]
    List(#[from] rtnetlink::Error),
    /// One that is named is not there, or is none that Ethernet frames come by.
    #[error(
        "there is no Ethernet interface `{0}`: correct `datapath.interfaces` (`ip -br link` lists what there is)"
    )]
    Missing(String),
}

/// The interfaces of these names; if there are none, all network cards.
///
/// # Errors
/// [`InterfaceError`].
pub async fn find(names: &[String]) -> Result<Vec<Interface>, InterfaceError> {
    let (connection, netlink, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let links = netlink.link().get().execute().try_collect::<Vec<_>>().await;
    connection.abort();
    choose(names, &links?)
}

fn choose(names: &[String], links: &[LinkMessage]) -> Result<Vec<Interface>, InterfaceError> {
    let links: Vec<_> = links.iter().filter_map(Link::read).collect();
    if names.is_empty() {
        let cards = links.iter().filter(|link| link.is_card());
        return Ok(cards.map(|card| card.with_vlans(&links)).collect());
    }
    let mut chosen: Vec<Interface> = Vec::new();
    for name in names {
        let missing = || InterfaceError::Missing(name.clone());
        let link = links.iter().find(|link| link.name == name).ok_or_else(missing)?;
        match link.below(&links) {
            Some((below, vlan)) => add(&mut chosen, below.interface(None, vec![vlan])),
            None => add(&mut chosen, link.with_vlans(&links)),
        }
    }
    Ok(chosen)
}

/// Adds an interface, or what more of it is named.
fn add(chosen: &mut Vec<Interface>, more: Interface) {
    match chosen.iter_mut().find(|interface| interface.index == more.index) {
        Some(interface) => {
            interface.mac = interface.mac.or(more.mac);
            let new = |vlan: &Vlan| interface.vlans.iter().all(|known| known.index != vlan.index);
            let new: Vec<_> = more.vlans.into_iter().filter(new).collect();
            interface.vlans.extend(new);
        }
        None => chosen.push(more),
    }
}

/// An Ethernet interface as the kernel describes it.
struct Link<'a> {
    index: u32,
    name: &'a str,
    mac: [u8; 6],
    /// What made it, where that was not a driver of hardware.
    kind: Option<&'a InfoKind>,
    /// Whether its packets are another interface's.
    is_part: bool,
    /// Of a VLAN's device: its tag, and the index of the interface that it is on.
    vlan: Option<(u16, u32)>,
}

impl<'a> Link<'a> {
    fn read(message: &'a LinkMessage) -> Option<Self> {
        if message.header.link_layer_type != LinkLayerType::Ether {
            return None;
        }
        let (mut name, mut mac, mut kind, mut is_part) = (None, None, None, false);
        let (mut tag, mut below, mut is_elsewhere) = (None, None, false);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Some(text.as_str()),
                LinkAttribute::Address(octets) => mac = octets[..].try_into().ok(),
                LinkAttribute::Controller(_) => is_part = true,
                LinkAttribute::Link(index) => below = Some(*index),
                LinkAttribute::LinkNetNsId(_) => is_elsewhere = true,
                LinkAttribute::LinkInfo(infos) => {
                    kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind),
                        _ => None,
                    });
                    tag = infos.iter().find_map(|info| match info {
                        LinkInfo::Data(InfoData::Vlan(data)) => tag_of(data),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        let vlan = tag.zip(below).filter(|_| !is_elsewhere);
        Some(Self { index: message.header.index, name: name?, mac: mac?, kind, is_part, vlan })
    }

    fn is_card(&self) -> bool {
        !self.is_part && matches!(self.kind, None | Some(InfoKind::Bond))
    }

    /// Of a VLAN's device: the interface at which XDP sees its frames.
    fn below<'b>(&self, links: &'b [Link<'b>]) -> Option<(&'b Link<'b>, Vlan)> {
        let (tag, index) = self.vlan?;
        let below = links.iter().find(|link| link.index == index && link.vlan.is_none())?;
        let (name, mac) = (self.name.to_owned(), self.mac);
        Some((below, Vlan { index: self.index, name, mac, tag }))
    }

    /// All that comes in there.
    fn with_vlans(&self, links: &[Link<'_>]) -> Interface {
        let on_this = links.iter().filter_map(|link| link.below(links));
        let on_this = on_this.filter(|(below, _)| below.index == self.index);
        self.interface(Some(self.mac), on_this.map(|(_, vlan)| vlan).collect())
    }

    fn interface(&self, mac: Option<[u8; 6]>, vlans: Vec<Vlan>) -> Interface {
        let is_veth = self.kind == Some(&InfoKind::Veth);
        Interface { index: self.index, name: self.name.to_owned(), mac, is_veth, vlans }
    }
}

/// The number of a VLAN whose tags are those of 802.1Q.
fn tag_of(data: &[InfoVlan]) -> Option<u16> {
    let is_other = |info: &InfoVlan| matches!(info, InfoVlan::Protocol(protocol) if *protocol != VlanProtocol::Ieee8021Q);
    if data.iter().any(is_other) {
        return None;
    }
    data.iter().find_map(|info| match info {
        InfoVlan::Id(tag) if *tag != 0 => Some(*tag),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: Option<InfoKind>, part: bool) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::Address(vec![2, 0, 0, 0, 0, index as u8]));
        let infos = kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
        message.attributes.extend(infos);
        message.attributes.extend(part.then_some(LinkAttribute::Controller(9)));
        message
    }

    fn links() -> Vec<LinkMessage> {
        let mut loopback = link(1, "lo", None, false);
        loopback.header.link_layer_type = LinkLayerType::Loopback;
        vec![
            loopback,
            link(2, "eth0", None, false),
            link(3, "eth1", None, true),
            link(4, "bond0", Some(InfoKind::Bond), false),
            link(5, "veth0", Some(InfoKind::Veth), false),
            link(6, "br0", Some(InfoKind::Bridge), false),
        ]
    }

    fn names(interfaces: &[Interface]) -> Vec<&str> {
        interfaces.iter().map(|interface| &interface.name[..]).collect()
    }

    #[test]
    fn network_cards_and_bonds_are_taken_and_what_belongs_to_others_is_not() {
        assert_eq!(names(&choose(&[], &links()).unwrap()), ["eth0", "bond0"]);
    }

    #[test]
    fn whatever_carries_ethernet_can_be_named() {
        let wanted = ["veth0".to_owned(), "eth0".to_owned()];
        let found = choose(&wanted, &links()).unwrap();
        assert_eq!(names(&found), ["veth0", "eth0"]);
        assert_eq!((found[0].is_veth, found[0].index), (true, 5));
        assert_eq!(found[0].mac.unwrap()[5], 5);
        assert!(!found[1].is_veth);
    }

    /// The device of a VLAN on the interface `below`.
    fn vlan(index: u32, name: &str, tag: u16, below: u32, protocol: VlanProtocol) -> LinkMessage {
        let mut message = link(index, name, None, false);
        let data = InfoData::Vlan(vec![InfoVlan::Id(tag), InfoVlan::Protocol(protocol)]);
        let infos = vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(data)];
        message.attributes.push(LinkAttribute::LinkInfo(infos));
        message.attributes.push(LinkAttribute::Link(below));
        message
    }

    fn chosen(names: &[&str]) -> Vec<(String, bool, Vec<u16>)> {
        let mut links = links();
        links.push(vlan(7, "eth0.7", 7, 2, VlanProtocol::Ieee8021Q));
        links.push(vlan(8, "eth0.8", 8, 2, VlanProtocol::Ieee8021Q));
        links.push(vlan(9, "outer", 9, 2, VlanProtocol::Ieee8021Ad));
        links.push(vlan(10, "inner", 3, 7, VlanProtocol::Ieee8021Q));
        let mut moved = vlan(11, "moved", 5, 2, VlanProtocol::Ieee8021Q);
        moved.attributes.push(LinkAttribute::LinkNetNsId(1));
        links.push(moved);
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let found = choose(&names, &links).unwrap();
        let found = found.into_iter().map(|interface| {
            let tags = interface.vlans.iter().map(|vlan| vlan.tag).collect();
            (interface.name, interface.mac.is_some(), tags)
        });
        found.collect()
    }

    #[test]
    fn whoever_names_an_interface_means_its_vlans_as_well() {
        let eth0 = |tags| ("eth0".to_owned(), true, tags);
        assert_eq!(chosen(&["eth0"]), [eth0(vec![7, 8])]);
        assert_eq!(chosen(&["eth0.8", "eth0"]), [eth0(vec![8, 7])]);
        assert_eq!(chosen(&[])[0], eth0(vec![7, 8]));
    }

    #[test]
    fn whoever_names_a_vlan_means_its_frames_alone() {
        assert_eq!(chosen(&["eth0.7"]), [("eth0".to_owned(), false, vec![7])]);
        assert_eq!(chosen(&["eth0.8", "eth0.7"]), [("eth0".to_owned(), false, vec![8, 7])]);
    }

    #[test]
    fn what_is_no_vlan_to_xdp_is_a_device_as_others_are() {
        for name in ["outer", "inner", "moved"] {
            assert_eq!(chosen(&[name]), [(name.to_owned(), true, vec![])]);
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_told() {
        for missing in ["eth7", "lo"] {
            let error = choose(&[missing.to_owned()], &links()).unwrap_err();
            assert!(error.to_string().contains(&format!("`{missing}`")), "{error}");
        }
    }
}
