//! The interfaces that XDP is attached to, and the thread that attaches it.
//!
//! ```text
//!   engine's thread                        pias-xdp
//!   here ── look ─────────────────────────► attaches, asks the drivers
//!   here ◄───────────────────── has looked ──┘
//! ```
//! The kernel does both under a lock that it has for all of its networking (`rtnl`). Whoever else changes routes
//! or links holds it meanwhile, on a busy machine for some hundred milliseconds. Packets do not wait for that: what
//! no program takes passes the TUN device.

use std::{
    io,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use tracing::{info, warn};

use super::FastView;
use crate::xdp::{
    AttachError, Attached, Features, Interface, Program, Vlan, kept,
    layout::{Device, Mode},
};

/// The interfaces, and the program for them.
pub(super) struct Ports {
    /// Before the program, which it keeps attached.
    ports: Vec<Port>,
    program: Program,
    features: Features,
    pins: PathBuf,
    /// Whether what is in `pins` is this engine's: it goes with it.
    owns_pins: bool,
}

struct Port {
    interface: Interface,
    attached: Result<Attached, String>,
    told: Option<Device>,
}

impl Ports {
    /// With a program that is attached to nothing.
    pub(super) fn new(program: Program, interfaces: &[Interface], pins: PathBuf) -> Self {
        let port = |interface: &Interface| Port {
            interface: interface.clone(),
            attached: Err(String::new()),
            told: None,
        };
        let ports = interfaces.iter().map(port).collect();
        Self { ports, program, features: Features::open(), pins, owns_pins: false }
    }

    /// Attaches the program where it is not yet, and tells it what its interfaces can do.
    ///
    /// # Errors
    /// Why it is not attached to the first interface that it is not attached to; it is to the others.
    pub(super) fn look(&mut self) -> Result<(), AttachError> {
        let mut outcome = Ok(());
        // What takes another program's place is in the midst of packets at once.
        for port in &mut self.ports {
            port.take_back();
            if port.is_new() {
                port.tell(Some(Mode::Native), &self.features, &mut self.program);
            }
        }
        for port in &mut self.ports {
            if port.attached.is_err() {
                outcome = outcome.and(port.attach(&mut self.program, &self.pins));
            }
            port.tell(port.mode(), &self.features, &mut self.program);
        }
        self.own_pins();
        outcome
    }

    /// Has files hold what is to outlive a crash. What another process left for interfaces that are not this
    /// engine's any more goes.
    fn own_pins(&mut self) {
        if self.owns_pins {
            return;
        }
        let files = self.files();
        if !files.is_empty() {
            self.owns_pins = true;
            if let Err(error) = self.program.keep(&self.pins) {
                warn!("XDP ends with this process, without a time of grace: {error}");
            }
        }
        kept::forget(&self.pins, &files);
    }

    /// The files that are this engine's.
    fn files(&self) -> Vec<String> {
        let links =
            self.ports.iter().filter_map(|port| port.attached.as_ref().ok()?.file(&port.interface));
        let links: Vec<_> = links.collect();
        let tables = kept::TABLES.iter().filter(|_| !links.is_empty());
        tables.map(|&table| table.to_owned()).chain(links.iter().cloned()).collect()
    }

    /// Takes the program off all interfaces.
    pub(super) fn detach(&mut self, why: &str) {
        for port in &mut self.ports {
            port.attached = Err(why.to_owned());
            port.tell(None, &self.features, &mut self.program);
        }
    }

    /// Leaves what is attached to the next process.
    pub(super) fn leave(&mut self) {
        self.owns_pins = false;
        for Port { interface, attached, .. } in &mut self.ports {
            if attached.as_mut().is_ok_and(|attached| !attached.leave()) {
                let (name, pins) = (&interface.name, self.pins.display());
                warn!(
                    interface = name,
                    "XDP is taken off, and the next process attaches it anew: it cannot be handed \
                     over by {pins}; mount bpffs at /sys/fs/bpf"
                );
                *attached = Err("it cannot be handed over".to_owned());
            }
        }
    }

    pub(super) fn view(&self) -> FastView {
        let interfaces = self.ports.iter().map(|port| {
            let mode = port.attached.as_ref().map(Attached::mode);
            (port.interface.name.clone(), mode.map_err(Clone::clone))
        });
        FastView { interfaces: interfaces.collect() }
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        if self.owns_pins {
            self.ports.clear();
            kept::forget(&self.pins, &[]);
        }
    }
}

impl Port {
    fn attach(&mut self, program: &mut Program, pins: &Path) -> Result<(), AttachError> {
        let name = &self.interface.name;
        match program.attach(&self.interface, pins) {
            Ok(attached) => {
                let mode = attached.mode().name();
                if self.interface.mac.is_some() {
                    info!(interface = name, mode, "XDP forwards what enters here");
                }
                for Vlan { name: vlan, tag, .. } in &self.interface.vlans {
                    info!(interface = vlan, tag, on = name, mode, "XDP forwards what enters here");
                }
                self.attached = Ok(attached);
                Ok(())
            }
            Err(error) => {
                let why = error.to_string();
                if self.attached.as_ref().err() != Some(&why) {
                    warn!(interface = name, "what enters here takes the TUN device: {why}");
                }
                self.attached = Err(why);
                Err(error)
            }
        }
    }

    /// What was left to a next process, which did not come, is taken as from another.
    fn take_back(&mut self) {
        if self.attached.as_ref().is_ok_and(Attached::is_left) {
            self.attached = Err(String::new());
        }
    }

    /// Whether it was not tried yet to attach the program here.
    fn is_new(&self) -> bool {
        self.attached.as_ref().is_err_and(String::is_empty)
    }

    fn mode(&self) -> Option<Mode> {
        self.attached.as_ref().ok().map(Attached::mode)
    }

    /// Tells the program what can be sent from here, where that is new.
    fn tell(&mut self, mode: Option<Mode>, features: &Features, program: &mut Program) {
        let Interface { index, mac, is_veth, .. } = self.interface;
        let device = mode.map(|mode| {
            let sends = features.of(index, is_veth);
            // No frame is to an address of zeros.
            let mac = mac.unwrap_or_default();
            Device { mac, mode, bounces: sends.bounces, takes: sends.takes }
        });
        if device == self.told {
            return;
        }
        program.devices.set(index, device);
        for vlan in &self.interface.vlans {
            if let Err(error) = program.devices.set_vlan(index, vlan, device) {
                let name = &vlan.name;
                warn!(interface = name, "what enters here takes the TUN device: {error}");
            }
        }
        self.told = device;
    }
}

/// Keeps the ports, which are here or with its thread.
pub(super) struct Attacher {
    here: Option<Ports>,
    /// None when it ends.
    there: Option<SyncSender<Ports>>,
    back: Receiver<Ports>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Attacher {
    /// # Errors
    /// There can be no more threads.
    pub(super) fn start(ports: Ports) -> io::Result<Self> {
        let (there, asked) = sync_channel::<Ports>(1);
        let (looked, back) = sync_channel(1);
        let work = move || {
            while let Ok(mut ports) = asked.recv() {
                // Each has said why not when that was new.
                let _ = ports.look();
                if looked.send(ports).is_err() {
                    break;
                }
            }
        };
        let thread = thread::Builder::new().name("pias-xdp".to_owned()).spawn(work)?;
        Ok(Self { here: Some(ports), there: Some(there), back, thread: Some(thread) })
    }

    /// Has the thread look, unless it does.
    pub(super) fn look(&mut self) {
        if let (Some(ports), Some(there)) = (self.here.take(), &self.there) {
            self.here = there.send(ports).err().map(|refused| refused.0);
        }
    }

    /// Whether the thread has looked since this was asked last.
    pub(super) fn has_looked(&mut self) -> bool {
        match self.back.try_recv() {
            Ok(ports) => {
                self.here = Some(ports);
                true
            }
            Err(_) => false,
        }
    }

    /// Whether the thread is at rest.
    pub(super) const fn rests(&self) -> bool {
        self.here.is_some()
    }

    /// The ports; waits while the thread has them. None if it panicked: what was attached is not any more.
    pub(super) fn here(&mut self) -> Option<&mut Ports> {
        if self.here.is_none() {
            self.here = self.back.recv().ok();
        }
        self.here.as_mut()
    }
}

/// Nothing is attached any more afterwards.
impl Drop for Attacher {
    fn drop(&mut self) {
        self.there = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been written to stderr.
            let _ = thread.join();
        }
    }
}
