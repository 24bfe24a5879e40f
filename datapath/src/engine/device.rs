//! The TUN device.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    unistd::{read, write},
};
use tracing::warn;
use tun_rs::DeviceBuilder;

use super::{
    hand_over::TunDevice,
    vnet::{self, VNET_LEN},
};
use crate::{
    limits::engine::{DEVICE_MTU, DEVICE_QUEUE, MAX_PACKET},
    packet::Packet,
};

/// A TUN device that passes super-packets whole, in both directions.
pub(super) struct Device {
    tun: OwnedFd,
    index: u32,
    name: String,
    udp_segments: bool,
}

/// What reading brought.
pub(super) enum Read {
    /// A packet.
    Packet,
    /// A packet with a vnet header that contradicts it.
    Malformed,
    /// Nothing is waiting.
    Empty,
}

impl Device {
    /// Makes the device and brings it up. Routes to it are not this module's business.
    pub(super) fn create(name: &str) -> io::Result<Self> {
        let tun = DeviceBuilder::new()
            .name(name)
            .mtu(DEVICE_MTU)
            .with(|builder| {
                builder.offload(true);
            })
            .enable(false)
            .build_sync()?;
        tun.set_nonblocking(true)?;
        let (index, name, udp_segments) = (tun.if_index()?, tun.name()?, tun.udp_gso());
        if !udp_segments {
            warn!(
                device = name,
                "the kernel (older than 6.2) does not join UDP datagrams for a TUN device: UDP bulk is slower"
            );
        }
        configure(&name);
        // The kernel asks for privileges outside of a user namespace for this one: a lab that an
        // ordinary user runs does without.
        if let Err(error) = tun.set_tx_queue_len(DEVICE_QUEUE) {
            warn!(device = name, %error, "the device's queue stays short: bursts may overrun it");
        }
        tun.enabled(true)?;
        // The device lives as long as a descriptor of it does. It is read and written here without
        // its builder's help, as is one that another process made.
        Ok(Self { tun: tun.as_fd().try_clone_to_owned()?, index, name, udp_segments })
    }

    /// The device that another process made, under the name that it should have.
    ///
    /// # Errors
    /// It is no TUN device, or one of another name.
    pub(super) fn adopt(device: TunDevice, name: &str) -> io::Result<Self> {
        let found = attached(&device.descriptor)?;
        if found != name {
            let what = format!("the descriptor belongs to the device `{found}`");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let index = if_nametoindex(name)?;
        let TunDevice { descriptor: tun, udp_segments } = device;
        Ok(Self { tun, index, name: found, udp_segments })
    }

    /// The device for another process; this one keeps it, too.
    ///
    /// # Errors
    /// This process may not open more descriptors.
    pub(super) fn hand_over(&self) -> io::Result<TunDevice> {
        let (descriptor, udp_segments) = (self.tun.try_clone()?, self.udp_segments);
        Ok(TunDevice { descriptor, udp_segments })
    }

    /// Its interface index.
    pub(super) const fn index(&self) -> u32 {
        self.index
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether super-packets of UDP datagrams may be written.
    pub(super) const fn takes_udp_segments(&self) -> bool {
        self.udp_segments
    }

    /// A buffer for [`Self::read`].
    pub(super) fn packet() -> Packet {
        Packet::with_capacity(VNET_LEN + MAX_PACKET)
    }

    /// Reads a packet into `packet`, which [`Self::packet`] made: what does not fit is cut.
    ///
    /// # Errors
    /// The device is gone.
    pub(super) fn read(&self, packet: &mut Packet) -> io::Result<Read> {
        let len = loop {
            match read(&self.tun, packet.reset()) {
                Ok(len) => break len,
                Err(Errno::EAGAIN) => return Ok(Read::Empty),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        };
        packet.set_len(len);
        let Some(&header) = packet.bytes().first_chunk::<VNET_LEN>() else {
            return Ok(Read::Malformed);
        };
        packet.pull_front(VNET_LEN);
        let Some(offload) = vnet::read(header, packet.bytes()) else {
            return Ok(Read::Malformed);
        };
        packet.offload = offload;
        Ok(Read::Packet)
    }

    /// Writes a packet. The packet's octets are as before afterwards.
    ///
    /// # Errors
    /// The kernel did not take it: because memory is short, or because it finds the packet or its
    /// vnet header wrong.
    pub(super) fn write(&self, packet: &mut Packet) -> io::Result<()> {
        packet.push_front(&vnet::write(&packet.offload));
        let written = write(&self.tun, packet.bytes());
        packet.pull_front(VNET_LEN);
        Ok(written.map(|_| ())?)
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tun.as_fd()
    }
}

/// The name of the TUN device behind a descriptor, as the kernel tells it.
fn attached(descriptor: &OwnedFd) -> io::Result<String> {
    let path = format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd());
    let text = fs::read_to_string(path)?;
    let name = text.lines().find_map(|line| line.strip_prefix("iff:"));
    let no_tun = || io::Error::new(io::ErrorKind::InvalidInput, "the descriptor is no TUN device");
    Ok(name.ok_or_else(no_tun)?.trim().to_owned())
}

/// Tells the kernel that packets of any source may come out of the device, and that it is no link
/// with routers and neighbours. Where that fails (a read-only `/proc/sys`), the operator must have
/// set it: IPv4 packets would be lost to a strict reverse path filter.
fn configure(name: &str) {
    for (family, key, value) in [
        ("ipv4", "rp_filter", "0"),
        ("ipv4", "send_redirects", "0"),
        ("ipv6", "accept_ra", "0"),
        ("ipv6", "autoconf", "0"),
        ("ipv6", "addr_gen_mode", "1"),
    ] {
        let path = format!("/proc/sys/net/{family}/conf/{name}/{key}");
        if let Err(error) = fs::write(&path, value) {
            warn!(path, value, %error, "cannot set a kernel parameter of the TUN device");
        }
    }
}
