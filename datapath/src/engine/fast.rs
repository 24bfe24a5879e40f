//! XDP in front of the engine: what it is attached to, and keeping its tables true.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{self, PathBuf},
    time::Duration,
};

use pias_protocol::{forwarding::ForwardingEvent, ids::ProxyId, time::Time};
use tracing::{error, info, warn};

use super::{outbox::Outbox, route_watch::RouteWatch};
use crate::{
    counters::{Counters, Path},
    drop_reason::DropReason,
    limits::engine::{BATCH, FORMER_PEERS_FOR, GRACE, LOOK_EVERY},
    pipeline::{Pipeline, PipelineConfig, Shared},
    slots::Handle,
    xdp::{
        AttachError, Attached, Features, Interface, LoadError, Program, Setup, Tables, Touched,
        Vlan,
        kept::{self, Kept},
        layout::{Device, Mode},
    },
};

/// Where XDP shall work.
#[derive(Clone, Debug)]
pub struct FastConfig {
    /// What enters by these interfaces, and leaves by one of them, is XDP's.
    pub interfaces: Vec<Interface>,
    /// Whether an engine without XDP shall not start.
    pub required: bool,
}

/// Why an engine has no XDP.
#[derive(Debug, thiserror::Error)]
pub enum FastError {
    /// Not loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Not attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Changes of routes would not be heard.
    #[error("cannot listen for changes of routes: {0}")]
    Watch(#[source] io::Error),
    /// The flows' memory is not what it should be.
    #[error(transparent)]
    Memory(#[from] crate::flow::buckets::Misshapen),
    /// No interface is named, and none is found.
    #[error(
        "there is no network card; name the interfaces that packets enter by in `datapath.interfaces`"
    )]
    NoInterface,
}

/// What XDP does for an engine, as an operator sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FastView {
    /// Each interface with the mode that the program is attached in, or why it is not.
    pub interfaces: Vec<(String, Result<Mode, String>)>,
}

/// XDP in front of one engine.
pub(super) struct Fast {
    /// Before the program, which it keeps attached.
    ports: Vec<Port>,
    program: Program,
    tables: Tables,
    features: Features,
    watch: RouteWatch,
    pins: PathBuf,
    /// Whether what is in `pins` is this engine's: it goes with it.
    owns_pins: bool,
    /// Where the engine's clock begins.
    began: Duration,
    /// Peers of a process that was killed, of which nothing was heard yet.
    former: Vec<ProxyId>,
    next_look: Time,
    /// Peers whose path had an MTU of its own when this was last looked at.
    narrow: Vec<Handle>,
    /// Whether the tables could not be kept true: nothing is attached any more.
    given_up: bool,
}

struct Port {
    interface: Interface,
    attached: Result<Attached, String>,
    told: Option<Device>,
}

impl Fast {
    /// Loads the program, with the tables of a process that was killed, if there are; it is attached to
    /// nothing yet. With the memory for the pipeline.
    pub(super) fn load(
        config: &FastConfig,
        pins: PathBuf,
        kept: Option<&Kept>,
        pipeline: &PipelineConfig,
        outbox: &Outbox,
    ) -> Result<(Self, Shared), FastError> {
        if config.interfaces.is_empty() {
            return Err(FastError::NoInterface);
        }
        if let Err(error) = kept::make(&pins) {
            let pins = pins.display();
            info!(
                "XDP ends with this process, without a time of grace, and is not handed over: no {pins} \
                 ({error}); mount bpffs at /sys/fs/bpf"
            );
        }
        let watch = RouteWatch::open().map_err(FastError::Watch)?;
        let setup = Setup { pipeline, source_ports: outbox.source_ports() };
        let (program, mut tables) = match kept {
            Some(kept) => Program::load_kept(&setup, kept)?,
            None => Program::load(&setup)?,
        };
        let shared = tables.take_shared().ok_or(LoadError::Table("of shared memory"))?;
        let port = |interface: &Interface| Port {
            interface: interface.clone(),
            attached: Err(String::new()),
            told: None,
        };
        let live = shared.peers.iter().filter(|peer| peer.tunnel.is_some());
        let fast = Self {
            ports: config.interfaces.iter().map(port).collect(),
            program,
            tables,
            features: Features::open(),
            watch,
            pins,
            owns_pins: false,
            began: kept.map_or(Duration::ZERO, |kept| kept.now),
            former: live.map(|peer| peer.id).collect(),
            next_look: Time::ZERO,
            narrow: Vec::new(),
            given_up: false,
        };
        Ok((fast, shared))
    }

    /// Where the engine's clock begins: not at nothing where tables of another engine are gone on with.
    pub(super) const fn began(&self) -> Duration {
        self.began
    }

    /// Proxies that the process before knew, and the overlay has not told of in time.
    pub(super) fn unconfirmed(&mut self, now: Time) -> Vec<ProxyId> {
        if now < Time::ZERO + self.began + FORMER_PEERS_FOR {
            return Vec::new();
        }
        std::mem::take(&mut self.former)
    }

    /// Tells the program that this engine lives.
    pub(super) fn live(&self, now: Time) {
        self.tables.set_now(now.into());
        self.tables.vouch(GRACE);
    }

    /// The files that are this engine's.
    pub(super) fn files(&self) -> Vec<String> {
        let links =
            self.ports.iter().filter_map(|port| port.attached.as_ref().ok()?.file(&port.interface));
        let links: Vec<_> = links.collect();
        let tables = kept::TABLES.iter().filter(|_| !links.is_empty());
        tables.map(|&table| table.to_owned()).chain(links.iter().cloned()).collect()
    }

    /// Attaches the program where it is not yet, and tells it what its interfaces can do.
    ///
    /// # Errors
    /// Why it is not attached to the first interface that it is not attached to; it is to the others.
    pub(super) fn attach(&mut self, now: Time) -> Result<(), AttachError> {
        self.live(now);
        self.next_look = now + LOOK_EVERY;
        let mut outcome = Ok(());
        // What takes another program's place is in the midst of packets at once.
        for port in &mut self.ports {
            port.take_back();
            if port.is_new() && !self.given_up {
                port.tell(Some(Mode::Native), &self.features, &mut self.tables);
            }
        }
        for port in &mut self.ports {
            if !self.given_up && port.attached.is_err() {
                outcome = outcome.and(port.attach(&mut self.program, &self.pins));
            }
            port.tell(port.mode(), &self.features, &mut self.tables);
        }
        if !self.owns_pins && !self.files().is_empty() {
            self.owns_pins = true;
            if let Err(error) = self.program.keep(&self.pins) {
                warn!("XDP ends with this process, without a time of grace: {error}");
            }
        }
        outcome
    }

    /// Takes the program off all interfaces.
    fn detach(&mut self, why: &str) {
        for port in &mut self.ports {
            port.attached = Err(why.to_owned());
            port.tell(None, &self.features, &mut self.tables);
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

    /// The forwarding table has changed.
    pub(super) fn follow(&mut self, touched: Touched, pipeline: &Pipeline) {
        if let Touched::Peer(id) = touched {
            self.former.retain(|&former| former != id);
        }
        if self.given_up {
            return;
        }
        let followed = self.tables.follow(touched, pipeline.table(), pipeline.underlay_mtu());
        if let Err(error) = followed {
            error!(%error, "XDP is taken off: all packets take the TUN device from now on");
            self.detach(&error.to_string());
            self.given_up = true;
        }
    }

    /// A change of routes can be heard.
    pub(super) fn routes_changed(&self) {
        if self.watch.changed(BATCH) {
            self.tables.routes_changed();
        }
    }

    /// What the program is told, and tells, from time to time.
    pub(super) fn tick(
        &mut self,
        now: Time,
        pipeline: &Pipeline,
    ) -> impl Iterator<Item = ForwardingEvent> {
        self.live(now);
        let narrow = pipeline.narrow_peers();
        for &peer in self.narrow.iter().chain(narrow) {
            self.tables.set_peer(peer, pipeline.table(), pipeline.underlay_mtu());
        }
        narrow.clone_into(&mut self.narrow);
        if now >= self.next_look {
            // What the kernel learnt of paths' MTUs it tells nobody: all is asked anew.
            self.tables.routes_changed();
            // Each has said why not when that was new.
            let _ = self.attach(now);
        }
        self.tables.used().into_iter().map(ForwardingEvent::IngressUsed)
    }

    /// Translated flows that the pipeline should look at.
    pub(super) fn flows(&mut self) -> Vec<Handle> {
        self.tables.flows()
    }

    /// Adds what the program counted.
    pub(super) fn count(&self, counters: &mut Counters) {
        for &path in Path::ALL {
            counters.count_many(path, self.program.path(path));
        }
        for &reason in DropReason::ALL {
            counters.count_drops(reason, self.program.drops(reason));
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

impl Port {
    fn attach(&mut self, program: &mut Program, pins: &path::Path) -> Result<(), AttachError> {
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
    fn tell(&mut self, mode: Option<Mode>, features: &Features, tables: &mut Tables) {
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
        tables.set_device(index, device);
        for vlan in &self.interface.vlans {
            if let Err(error) = tables.set_vlan(index, vlan, device) {
                let name = &vlan.name;
                warn!(interface = name, "what enters here takes the TUN device: {error}");
            }
        }
        self.told = device;
    }
}

impl Drop for Fast {
    fn drop(&mut self) {
        if self.owns_pins {
            self.ports.clear();
            kept::forget(&self.pins, &[]);
        }
    }
}

/// Becomes readable when routes have changed.
impl AsFd for Fast {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}
