//! XDP in front of the engine: what it is attached to, and keeping its tables true.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    time::Duration,
};

use pias_protocol::{forwarding::ForwardingEvent, ids::ProxyId, time::Time};
use tracing::{error, info};

use super::{
    hand_over::TablesId,
    outbox::Outbox,
    ports::{Attacher, Ports},
    route_watch::RouteWatch,
};
use crate::{
    counters::{Counters, Path},
    drop_reason::DropReason,
    limits::engine::{BATCH, FORMER_PEERS_FOR, GRACE, LOOK_EVERY},
    pipeline::{Pipeline, PipelineConfig, Shared},
    slots::Handle,
    xdp::{
        AttachError, Interface, LoadError, News, Program, Setup, Tables, Touched,
        kept::{self, FormerTarget, Kept},
        layout::Mode,
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
    /// There is no thread that attaches.
    #[error("cannot start a thread for XDP: {0}")]
    Thread(#[source] io::Error),
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
    /// Before the tables, which what is attached reads.
    attacher: Attacher,
    tables: Tables,
    watch: RouteWatch,
    /// Where the engine's clock begins.
    began: Duration,
    /// Whether the tables are those of another process.
    is_kept: bool,
    /// Peers of the process before, of which nothing was heard yet.
    former: Vec<ProxyId>,
    /// Targets of the process before, until this one reads packets.
    former_targets: Vec<FormerTarget>,
    next_look: Time,
    /// Peers whose path had an MTU of its own when this was last looked at.
    narrow: Vec<Handle>,
    view: FastView,
    /// Whether the tables could not be kept true: nothing is attached any more.
    given_up: bool,
}

impl Fast {
    /// Loads the program, with the tables of the process before, if there are; it is attached to
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
        let ports = Ports::new(program, &config.interfaces, pins);
        let fast = Self {
            view: ports.view(),
            attacher: Attacher::start(ports).map_err(FastError::Thread)?,
            tables,
            watch,
            began: kept.map_or(Duration::ZERO, |kept| kept.now),
            is_kept: kept.is_some(),
            former: Vec::new(),
            former_targets: Vec::new(),
            next_look: Time::ZERO,
            narrow: Vec::new(),
            given_up: false,
        };
        Ok((fast, shared))
    }

    /// Gives the pipeline the handles that flows of the process before have in the tables. That process stands
    /// still by now, or is gone.
    pub(super) fn recall(&mut self, pipeline: &mut Pipeline) {
        let (peers, targets) = self.tables.former();
        pipeline.recall(&peers, &targets);
        let live = peers.iter().filter(|peer| peer.tunnel.is_some());
        self.former = live.map(|peer| peer.id).collect();
        self.former_targets = targets;
    }

    /// Targets of the process before that are not registered by now are gone.
    pub(super) fn go_on(&mut self, pipeline: &Pipeline) {
        let former = std::mem::take(&mut self.former_targets);
        self.tables.end_former(&former, pipeline.table());
    }

    /// Whether the tables are those of another process.
    pub(super) const fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Which tables they are.
    pub(super) fn tables_id(&self) -> TablesId {
        TablesId::of(self.tables.seed())
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

    /// Attaches the program where it is not yet, and waits for that.
    ///
    /// # Errors
    /// Why it is not attached to the first interface that it is not attached to; it is to the others.
    pub(super) fn attach(&mut self, now: Time) -> Result<(), AttachError> {
        self.live(now);
        self.next_look = now + LOOK_EVERY;
        let Some(ports) = self.attacher.here() else { return Ok(()) };
        let outcome = ports.look();
        self.view = ports.view();
        outcome
    }

    /// Has the program attached where it is not yet. Packets do not wait for it: see `ports`.
    pub(super) fn look(&mut self, now: Time) {
        self.live(now);
        self.next_look = now + LOOK_EVERY;
        if !self.given_up {
            self.attacher.look();
        }
    }

    /// Whether nobody looks, nor will before this is asked again soon: then nothing has to wait for it.
    pub(super) fn rests(&mut self, now: Time) -> bool {
        self.next_look = now + LOOK_EVERY;
        self.has_looked();
        self.attacher.rests()
    }

    /// Whether the program has been attached, where that can be, since this was asked last.
    pub(super) fn has_looked(&mut self) -> bool {
        let looked = self.attacher.has_looked();
        if looked && let Some(ports) = self.attacher.here() {
            self.view = ports.view();
        }
        looked
    }

    /// Leaves what is attached to the next process.
    pub(super) fn leave(&mut self) {
        if let Some(ports) = self.attacher.here() {
            ports.leave();
            self.view = ports.view();
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
        let followed = self.tables.follow(touched, pipeline);
        if let Err(error) = followed {
            error!(%error, "XDP is taken off: all packets take the TUN device from now on");
            self.given_up = true;
            if let Some(ports) = self.attacher.here() {
                ports.detach(&error.to_string());
                self.view = ports.view();
            }
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
            self.look(now);
        }
        self.tables.used().into_iter().map(ForwardingEvent::IngressUsed)
    }

    /// Translated flows that the pipeline should look at.
    pub(super) fn news(&mut self) -> Vec<News> {
        self.tables.news()
    }

    /// Adds what the program counted.
    pub(super) fn count(&self, counters: &mut Counters) {
        for &path in Path::ALL {
            counters.count_many(path, self.tables.path(path));
        }
        for &reason in DropReason::ALL {
            counters.count_drops(reason, self.tables.drops(reason));
        }
    }

    pub(super) fn view(&self) -> FastView {
        self.view.clone()
    }
}

/// Becomes readable when routes have changed.
impl AsFd for Fast {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}
