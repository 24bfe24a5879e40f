//! The keeper: makes the lab's network, starts its processes, and answers the
//! control socket until the lab ends.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::env;
use std::fs;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::boot::Stage;
use crate::control::{self, Answer, HostStatus, LabStatus, LinkStatus, Request, SOCKET};
use crate::limits::MAX_CONTROL_CONNECTIONS;
use crate::linkemu::{EmulatedLink, Shape};
use crate::network::{self, NetworkError, Spaces};
use crate::plan::{Plan, PlanOptions, Wire};
use crate::process::{ProcessError, ProcessTable};
use crate::programs::ENGINE_VARIABLE;
use crate::topology::{Topology, TopologyError};

/// The file in the state directory that holds the lab's topology.
pub const TOPOLOGY: &str = "topology.toml";

/// Why the lab did not come up, or ended.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The topology.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A process that belongs to the topology.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The state directory or the control socket.
    #[error("the lab's state directory or control socket: {0}")]
    Io(#[from] io::Error),
}

/// A running lab, from the inside.
#[derive(Debug)]
struct Keeper {
    name: String,
    user_namespace: bool,
    plan: Plan,
    spaces: Spaces,
    emulated: BTreeMap<String, EmulatedLink>,
    changing: Mutex<Changing>,
}

/// What requests change.
#[derive(Debug)]
struct Changing {
    processes: ProcessTable,
    /// Cut links; for an emulated one the shape to go back to.
    cut: BTreeMap<String, Option<Shape>>,
    /// Plain links that lose frames.
    lossy: BTreeMap<String, Shape>,
}

/// Makes the lab and serves its control socket. Returns only with an error:
/// the lab ends when its init does.
pub fn keep(stage: &Stage) -> Result<Infallible, KeeperError> {
    let topology = Topology::parse(&fs::read_to_string(stage.state.join(TOPOLOGY))?)?;
    let (state, programs) = (stage.state.clone(), stage.programs.clone());
    let xdp = env::var_os(ENGINE_VARIABLE).is_some_and(|engine| engine == "xdp");
    let options = PlanOptions { state, programs, xdp };
    let plan = Plan::new(&topology, &options);
    let spaces = network::make_hosts(&plan, &stage.state)?;
    let emulated = network::make_wires(&plan, topology.seed, &spaces)?;
    for host in &plan.hosts {
        network::configure_host(host, &plan.wires, &spaces[&host.name])?;
    }
    if xdp {
        network::make_ready_for_xdp(&plan, &spaces)?;
    }
    let mut processes = ProcessTable::new(&stage.state, stage.programs.as_deref());
    for host in &plan.hosts {
        for process in &host.processes {
            let command = Some(process.command.clone());
            processes.start(&host.name, &spaces[&host.name], &process.name, command)?;
        }
    }
    let user_namespace = fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| !map.split_whitespace().eq(["0", "0", "4294967295"]));
    let changing = Mutex::new(Changing { processes, cut: BTreeMap::new(), lossy: BTreeMap::new() });
    let keeper =
        Arc::new(Keeper { name: topology.name, user_namespace, plan, spaces, emulated, changing });
    serve(&keeper, &UnixListener::bind(stage.state.join(SOCKET))?)
}

/// Accepts connections, a bounded number at once.
fn serve(keeper: &Arc<Keeper>, listener: &UnixListener) -> Result<Infallible, KeeperError> {
    let busy = Arc::new(AtomicUsize::new(0));
    loop {
        let (stream, _) = listener.accept()?;
        let turn = Turn::take(&busy);
        if busy.load(Ordering::Relaxed) >= MAX_CONTROL_CONNECTIONS {
            keeper.converse(stream);
            continue;
        }
        let keeper = Arc::clone(keeper);
        thread::Builder::new().name("control".to_owned()).spawn(move || {
            keeper.converse(stream);
            drop(turn);
        })?;
    }
}

/// Counts a connection for as long as it lives.
struct Turn(Arc<AtomicUsize>);

impl Turn {
    fn take(busy: &Arc<AtomicUsize>) -> Self {
        busy.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(busy))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Keeper {
    /// Reads one request and answers it. A connection that breaks off is its
    /// own business.
    fn converse(&self, mut stream: UnixStream) {
        let answer = match control::receive(&stream) {
            Ok(request) => self.answer(request),
            Err(error) => Answer::Refused { reason: format!("unreadable request: {error}") },
        };
        let _gone = control::send(&mut stream, &answer);
    }

    fn answer(&self, request: Request) -> Answer {
        let result = match request {
            Request::Status => Ok(Answer::Status(self.status())),
            Request::Start { host, process, command } => self.start(&host, &process, command),
            Request::Kill { host, process, signal } => self
                .changing()
                .processes
                .kill(&host, &process, signal)
                .map(|()| Answer::Done)
                .map_err(|error| error.to_string()),
            Request::SetLink { link, settings } => self.set_link(&link, &settings),
            Request::CutLink { link, cut } => self.cut_link(&link, cut),
        };
        result.unwrap_or_else(|reason| Answer::Refused { reason })
    }

    fn changing(&self) -> MutexGuard<'_, Changing> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(
        &self,
        host: &str,
        process: &str,
        command: Option<Vec<String>>,
    ) -> Result<Answer, String> {
        let space = self.spaces.get(host).ok_or_else(|| format!("there is no host {host:?}"))?;
        let started = self.changing().processes.start(host, space, process, command);
        started.map(|pid| Answer::Started { pid }).map_err(|error| error.to_string())
    }

    fn set_link(&self, link: &str, settings: &[String]) -> Result<Answer, String> {
        let Some(emulated) = self.emulated.get(link) else {
            return self.set_plain_link(link, settings);
        };
        let mut changing = self.changing();
        // A cut link keeps the change for the time when it is whole again.
        if let Some(Some(shape)) = changing.cut.get_mut(link) {
            *shape = shape.with_settings(settings).map_err(|error| error.to_string())?;
        } else {
            let shape = emulated.shape().with_settings(settings);
            emulated.set_shape(&shape.map_err(|error| error.to_string())?);
        }
        Ok(Answer::Done)
    }

    /// A plain link can lose frames, and that is all it can.
    fn set_plain_link(&self, link: &str, settings: &[String]) -> Result<Answer, String> {
        let wire = self.wire(link)?;
        let mut changing = self.changing();
        let before = changing.lossy.get(link).cloned().unwrap_or_default();
        let shape = before.with_settings(settings).map_err(|error| error.to_string())?;
        if (Shape { loss: 0.0, ..shape.clone() }) != Shape::default() {
            let known: Vec<_> = self.emulated.keys().map(String::as_str).collect();
            return Err(format!(
                "{link:?} is no emulated link and takes loss alone; emulated are: {}",
                known.join(", ")
            ));
        }
        network::set_veth_loss(wire, shape.loss, &self.spaces)
            .map_err(|error| error.to_string())?;
        if shape.loss > 0.0 {
            changing.lossy.insert(link.to_owned(), shape);
        } else {
            changing.lossy.remove(link);
        }
        Ok(Answer::Done)
    }

    fn wire(&self, link: &str) -> Result<&Wire, String> {
        let wire = self.plan.wires.iter().find(|wire| wire.name == link);
        wire.ok_or_else(|| format!("there is no link {link:?}: see `pias-lab status`"))
    }

    fn cut_link(&self, link: &str, cut: bool) -> Result<Answer, String> {
        let wire = self.wire(link)?;
        let mut changing = self.changing();
        if changing.cut.contains_key(link) == cut {
            return Ok(Answer::Done);
        }
        match self.emulated.get(link) {
            Some(emulated) if cut => {
                let before = emulated.shape();
                emulated.set_shape(&Shape { loss: 100.0, ..before.clone() });
                changing.cut.insert(link.to_owned(), Some(before));
            }
            Some(emulated) => {
                if let Some(Some(before)) = changing.cut.remove(link) {
                    emulated.set_shape(&before);
                }
            }
            None => {
                network::set_veth(wire, cut, &self.spaces).map_err(|error| error.to_string())?;
                if cut {
                    changing.cut.insert(link.to_owned(), None);
                } else {
                    changing.cut.remove(link);
                }
            }
        }
        Ok(Answer::Done)
    }

    fn status(&self) -> LabStatus {
        let mut changing = self.changing();
        let hosts = self.plan.hosts.iter().map(|host| HostStatus {
            name: host.name.clone(),
            role: host.role,
            addresses: host
                .interfaces
                .iter()
                .flat_map(|interface| &interface.addresses)
                .map(ToString::to_string)
                .collect(),
            descriptors: self.spaces[&host.name].descriptors(),
            processes: changing.processes.of(&host.name),
        });
        let hosts = hosts.collect();
        let (cut, lossy) = (&changing.cut, &changing.lossy);
        let links = self.plan.wires.iter().map(|wire| {
            let emulated = self.emulated.get(&wire.name);
            LinkStatus {
                name: wire.name.clone(),
                ends: wire.ends.clone().map(|(host, interface)| format!("{host}:{interface}")),
                cut: cut.contains_key(&wire.name),
                shape: emulated.map(EmulatedLink::shape).or_else(|| lossy.get(&wire.name).cloned()),
                counters: emulated.map(EmulatedLink::counters),
            }
        });
        LabStatus {
            name: self.name.clone(),
            user_namespace: self.user_namespace,
            hosts,
            links: links.collect(),
        }
    }
}
