//! Which interfaces XDP shall work on.
//!
//! | | without `datapath.interfaces` |
//! | --- | --- |
//! | network cards, also of virtual machines, and bonds | are taken |
//! | what belongs to a bond, a bridge or the like | is not: packets are the other's |
//! | veth, VLAN, bridge, tunnel and other devices of the kernel's own | are not |
//!
//! A veth's packets may lack their checksums, which nobody computes who sends on the same machine: XDP
//! would send them on as they are. Whoever names one has seen to that (`ethtool -K ... tx off`).

use futures_util::TryStreamExt;
use pias_datapath::xdp::Interface;
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage,
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
        return Ok(links.iter().filter(|link| link.is_card()).map(Link::interface).collect());
    }
    let named = |name: &String| {
        let link = links.iter().find(|link| link.name == name);
        link.map(Link::interface).ok_or_else(|| InterfaceError::Missing(name.clone()))
    };
    names.iter().map(named).collect()
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
}

impl<'a> Link<'a> {
    fn read(message: &'a LinkMessage) -> Option<Self> {
        if message.header.link_layer_type != LinkLayerType::Ether {
            return None;
        }
        let (mut name, mut mac, mut kind, mut is_part) = (None, None, None, false);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Some(text.as_str()),
                LinkAttribute::Address(octets) => mac = octets[..].try_into().ok(),
                LinkAttribute::Controller(_) => is_part = true,
                LinkAttribute::LinkInfo(infos) => {
                    kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Some(Self { index: message.header.index, name: name?, mac: mac?, kind, is_part })
    }

    fn is_card(&self) -> bool {
        !self.is_part && matches!(self.kind, None | Some(InfoKind::Bond))
    }

    fn interface(&self) -> Interface {
        Interface {
            index: self.index,
            name: self.name.to_owned(),
            mac: self.mac,
            is_veth: self.kind == Some(&InfoKind::Veth),
        }
    }
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
        assert_eq!((found[0].is_veth, found[0].index, found[0].mac[5]), (true, 5, 5));
        assert!(!found[1].is_veth);
    }

    #[test]
    fn an_interface_that_is_not_there_is_told() {
        for missing in ["eth7", "lo"] {
            let error = choose(&[missing.to_owned()], &links()).unwrap_err();
            assert!(error.to_string().contains(&format!("`{missing}`")), "{error}");
        }
    }
}
