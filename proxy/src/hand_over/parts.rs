//! What is known, as it travels: first the descriptors, then parts, each a message in postcard.
//!
//! A long table is several parts. The frames' version stands for all of this: nothing here is read
//! that another version wrote.

use std::{
    net::{IpAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
};

use pias_datapath::{
    engine::{HandOver, TunDevice},
    flow::ingress::PinRecord,
    pipeline::Tables,
};
use pias_overlay::{NodeState, OwnState};
use pias_protocol::{
    flow::FlowRecord,
    group::GroupKey,
    ids::ProxyId,
    overlay::{Lease, LeaseReplica, MemberUpdate},
    placement::Candidate,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Legacy,
    link::{Kind, Link, LinkError},
};
use crate::limits::{HAND_OVER_ITEMS, HAND_OVER_PART};

/// Which descriptor is which: the device, then the sockets in this order.
#[derive(Debug, Serialize, Deserialize)]
struct Layout {
    /// Whether the device takes super-packets of UDP datagrams.
    udp_segments: bool,
    /// How many tunnel sockets.
    tunnels: usize,
    /// How many overlay sockets.
    overlay: usize,
}

/// Some of what is known: see the fields of [`NodeState`] and [`Tables`].
#[derive(Serialize, Deserialize)]
enum Part {
    Own(OwnState),
    Members(Vec<MemberUpdate>),
    Heirs(Vec<(ProxyId, ProxyId)>),
    Heirlooms(Vec<(ProxyId, Vec<IpAddr>, ProxyId)>),
    Counts(Vec<(GroupKey, ProxyId, u32)>),
    Askers(Vec<(GroupKey, ProxyId)>),
    Lists(Vec<(GroupKey, Vec<Candidate>)>),
    Leases(Vec<Lease>),
    Replicas(Vec<(ProxyId, LeaseReplica)>),
    Inherited(Vec<Lease>),
    Flows(Vec<FlowRecord>),
    Standby(Vec<(ProxyId, FlowRecord)>),
    Pins(Vec<PinRecord>),
    Returns(Vec<(ProxyId, Vec<IpAddr>)>),
}

/// Sends all that is known, and the descriptors.
pub(super) fn send(link: &Link, legacy: &Legacy) -> Result<(), LinkError> {
    let Legacy { engine: HandOver { device, tunnels, tables }, node, overlay, metrics } = legacy;
    let (udp_segments, sockets) = (device.udp_segments, tunnels.iter().chain(overlay));
    let layout = Layout { udp_segments, tunnels: tunnels.len(), overlay: overlay.len() };
    let mut descriptors: Vec<BorrowedFd<'_>> = vec![device.descriptor.as_fd()];
    descriptors.extend(sockets.map(AsFd::as_fd));
    descriptors.push(metrics.as_fd());
    link.send_with(Kind::Descriptors, &encode(&layout)?, &descriptors)?;
    link.send(Kind::Part, &encode(&Part::Own(node.own.clone()))?)?;
    cut(link, &node.members, Part::Members)?;
    cut(link, &node.heirs, Part::Heirs)?;
    cut(link, &node.heirlooms, Part::Heirlooms)?;
    cut(link, &node.counts, Part::Counts)?;
    cut(link, &node.askers, Part::Askers)?;
    cut(link, &node.lists, Part::Lists)?;
    cut(link, &node.leases, Part::Leases)?;
    cut(link, &node.replicas, Part::Replicas)?;
    cut(link, &node.inherited, Part::Inherited)?;
    cut(link, &tables.flows, Part::Flows)?;
    cut(link, &tables.standby, Part::Standby)?;
    cut(link, &tables.pins, Part::Pins)?;
    cut(link, &tables.returns, Part::Returns)?;
    link.send(Kind::End, &[])
}

/// Sends a list in parts.
fn cut<T: Clone>(link: &Link, items: &[T], part: fn(Vec<T>) -> Part) -> Result<(), LinkError> {
    for some in items.chunks(HAND_OVER_PART) {
        link.send(Kind::Part, &encode(&part(some.to_vec()))?)?;
    }
    Ok(())
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, LinkError> {
    postcard::to_stdvec(value).map_err(|error| LinkError::Malformed(error.to_string()))
}

pub(super) fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, LinkError> {
    match postcard::take_from_bytes(payload) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(LinkError::Malformed(format!("{} octets too many", rest.len()))),
        Err(error) => Err(LinkError::Malformed(error.to_string())),
    }
}

/// Receives all that is known, and the descriptors.
pub(super) fn receive(link: &Link) -> Result<Legacy, LinkError> {
    let frame = link.expect(Kind::Descriptors)?;
    let layout: Layout = decode(&frame.payload)?;
    let mut descriptors = frame.descriptors.into_iter();
    let mut next = || descriptors.next().ok_or(LinkError::DescriptorsLost);
    let device = TunDevice { descriptor: next()?, udp_segments: layout.udp_segments };
    let mut sockets = |count: usize| {
        (0..count).map(|_| next().map(UdpSocket::from)).collect::<Result<Vec<_>, _>>()
    };
    let (tunnels, overlay) = (sockets(layout.tunnels)?, sockets(layout.overlay)?);
    let metrics = TcpListener::from(next()?);
    let (mut tables, mut node, mut own) = (Tables::default(), NodeState::default(), None);
    loop {
        let frame = link.receive()?;
        match frame.kind {
            Kind::Part => take(decode(&frame.payload)?, &mut tables, &mut node, &mut own)?,
            Kind::End => break,
            other => return Err(LinkError::Unexpected(format!("{other:?}"))),
        }
    }
    let missing = || LinkError::Malformed("nothing of the proxy itself".to_owned());
    node.own = own.ok_or_else(missing)?;
    Ok(Legacy { engine: HandOver { device, tunnels, tables }, node, overlay, metrics })
}

fn take(
    part: Part,
    tables: &mut Tables,
    node: &mut NodeState,
    own: &mut Option<OwnState>,
) -> Result<(), LinkError> {
    match part {
        Part::Own(state) => {
            *own = Some(state);
            Ok(())
        }
        Part::Members(some) => append(&mut node.members, some),
        Part::Heirs(some) => append(&mut node.heirs, some),
        Part::Heirlooms(some) => append(&mut node.heirlooms, some),
        Part::Counts(some) => append(&mut node.counts, some),
        Part::Askers(some) => append(&mut node.askers, some),
        Part::Lists(some) => append(&mut node.lists, some),
        Part::Leases(some) => append(&mut node.leases, some),
        Part::Replicas(some) => append(&mut node.replicas, some),
        Part::Inherited(some) => append(&mut node.inherited, some),
        Part::Flows(some) => append(&mut tables.flows, some),
        Part::Standby(some) => append(&mut tables.standby, some),
        Part::Pins(some) => append(&mut tables.pins, some),
        Part::Returns(some) => append(&mut tables.returns, some),
    }
}

fn append<T>(to: &mut Vec<T>, some: Vec<T>) -> Result<(), LinkError> {
    if to.len() + some.len() > HAND_OVER_ITEMS {
        return Err(LinkError::TooLong(to.len() + some.len()));
    }
    to.extend(some);
    Ok(())
}
