//! Namespaces: the lab's own (mount, PID, network), and those of each host.
//!
//! ```text
//! machine
//!  └─ boot        unshare(mount, PID, network), waits
//!      └─ init    PID 1 of the lab: its end is the end of everything below
//!          └─ keeper   makes the hosts, keeps their processes
//!              ├─ fra1:   network, mount and UTS namespace of its own
//!              └─ ...
//! ```
//!
//! Nothing has a name outside: namespaces live by the keeper's descriptors
//! and by the processes in them, so when init dies, however, the kernel ends
//! the processes, drops the descriptors, and namespaces, interfaces and mounts
//! go with them.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getegid, geteuid, sethostname};

use crate::plan::host_directory;

/// Why a namespace could not be made or entered.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// Neither root nor unprivileged user namespaces.
    #[error(
        "the lab needs root, or a kernel that lets users make namespaces \
         (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces>0): {0}"
    )]
    NotAllowed(nix::Error),
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    Failed {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
}

fn failed<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> NamespaceError {
    let what = what.into();
    |source| NamespaceError::Failed { what, source: source.into() }
}

/// Gives the calling process (which must have one thread) mount and network
/// namespaces of its own, and its future children a PID namespace. Without
/// root it enters a user namespace first, in which it is root.
pub fn separate() -> Result<(), NamespaceError> {
    let (uid, gid) = (geteuid(), getegid());
    let spaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    if uid.is_root() {
        return unshare(spaces).map_err(NamespaceError::NotAllowed);
    }
    unshare(CloneFlags::CLONE_NEWUSER | spaces).map_err(NamespaceError::NotAllowed)?;
    fs::write("/proc/self/setgroups", "deny").map_err(failed("deny setgroups"))?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(failed("map the user"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(failed("map the group"))
}

/// As PID 1 of the lab: detaches its mounts from the machine's, mounts a /proc
/// of its own, and makes room for per-host directories in `/etc`, `/run` and
/// `/var/lib` without touching the machine's.
pub fn furnish(state: &Path) -> Result<(), NamespaceError> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(failed("make the lab's mounts private"))?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)
        .map_err(failed("mount the lab's /proc"))?;
    shadow(state, Path::new("/etc"), &["pias"], &["resolv.conf"])?;
    shadow(state, Path::new("/run"), &["pias", "bird"], &[])?;
    shadow(state, Path::new("/var/lib"), &["pias"], &[])
}

/// Covers `target` with a directory of the lab's own that links to all of
/// `target`'s entries, except for the named ones, which are empty.
fn shadow(
    state: &Path,
    target: &Path,
    directories: &[&str],
    files: &[&str],
) -> Result<(), NamespaceError> {
    let label = target.display().to_string().replace('/', "-");
    let base = state.join("base").join(&label);
    let cover = state.join("cover").join(&label);
    make_directory(&base)?;
    make_directory(&cover)?;
    bind(target, &base)?;
    let none: Option<&str> = None;
    mount(Some("tmpfs"), &cover, Some("tmpfs"), MsFlags::empty(), none)
        .map_err(failed(format!("mount a tmpfs at {}", cover.display())))?;
    for name in directories {
        make_directory(&cover.join(name))?;
    }
    for name in files {
        fs::write(cover.join(name), "").map_err(failed(format!("make {name}")))?;
    }
    for entry in fs::read_dir(target).map_err(failed(format!("read {}", target.display())))? {
        let entry = entry.map_err(failed(format!("read {}", target.display())))?;
        let stand_in = cover.join(entry.file_name());
        if stand_in.exists() {
            continue;
        }
        if state.starts_with(entry.path()) {
            // A link through the state directory into itself would never end.
            make_directory(&stand_in)?;
            bind(&entry.path(), &stand_in)?;
        } else {
            symlink(base.join(entry.file_name()), &stand_in)
                .map_err(failed(format!("link {}", stand_in.display())))?;
        }
    }
    bind(&cover, target)
}

fn bind(from: &Path, to: &Path) -> Result<(), NamespaceError> {
    let none: Option<&str> = None;
    mount(Some(from), to, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).map_err(failed(format!(
        "bind {} to {}",
        from.display(),
        to.display()
    )))
}

fn make_directory(path: &Path) -> Result<(), NamespaceError> {
    fs::create_dir_all(path).map_err(failed(format!("make {}", path.display())))
}

/// Directories that every host has for itself: name in the host's directory,
/// and where its processes see it.
const PRIVATE: [(&str, &str); 4] = [
    ("etc-pias", "/etc/pias"),
    ("run-pias", "/run/pias"),
    ("run-bird", "/run/bird"),
    ("var-lib-pias", "/var/lib/pias"),
];

/// A host's namespaces, held by descriptors.
#[derive(Debug)]
pub struct HostSpace {
    net: File,
    mnt: File,
    uts: File,
}

impl HostSpace {
    /// Makes a host's namespaces and mounts; `forwards` turns routing on.
    pub fn create(state: &Path, name: &str, forwards: bool) -> Result<Self, NamespaceError> {
        let directory = host_directory(state, name);
        for (private, _) in PRIVATE {
            make_directory(&directory.join(private))?;
        }
        make_directory(&directory.join("www"))?;
        fs::write(directory.join("resolv.conf"), "").map_err(failed("make resolv.conf"))?;
        in_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS)
                .map_err(failed(format!("make namespaces for {name}")))?;
            furnish_host(&directory)?;
            sethostname(name).map_err(failed(format!("name the host {name}")))?;
            for (key, value) in settings(forwards) {
                write_setting(key, value)?;
            }
            Ok(Self { net: own("net")?, mnt: own("mnt")?, uts: own("uts")? })
        })
    }

    /// Runs `work` in the host's namespaces, on a thread of its own. A process
    /// that it starts stays there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        in_a_thread(|| {
            // Entering a mount namespace takes a root directory of one's own.
            unshare(CloneFlags::CLONE_FS).map_err(failed("leave the shared root directory"))?;
            for (space, kind) in [
                (&self.uts, CloneFlags::CLONE_NEWUTS),
                (&self.net, CloneFlags::CLONE_NEWNET),
                (&self.mnt, CloneFlags::CLONE_NEWNS),
            ] {
                setns(space, kind).map_err(failed("enter a host's namespace"))?;
            }
            Ok(work())
        })
    }

    /// The keeper's descriptors of the network, mount and UTS namespaces, for
    /// those who enter through `/proc/KEEPER/fd/N`.
    pub fn descriptors(&self) -> [i32; 3] {
        [self.net.as_raw_fd(), self.mnt.as_raw_fd(), self.uts.as_raw_fd()]
    }

    /// A path to the network namespace that programs started by the keeper can
    /// open.
    pub fn net_path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd()).into()
    }
}

/// Namespaces belong to threads; a thread of its own keeps the caller's as
/// they are.
fn in_a_thread<T: Send>(
    work: impl FnOnce() -> Result<T, NamespaceError> + Send,
) -> Result<T, NamespaceError> {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|_| {
        Err(NamespaceError::Failed {
            what: "finish the work in a host".to_owned(),
            source: io::Error::other("its thread panicked"),
        })
    })
}

fn furnish_host(directory: &Path) -> Result<(), NamespaceError> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(failed("make a host's mounts private"))?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)
        .map_err(failed("mount a host's /sys"))?;
    // Only root may, and only XDP needs it.
    let _ = mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none);
    mount(Some("tmpfs"), &directory.join("www"), Some("tmpfs"), MsFlags::empty(), none)
        .map_err(failed("mount a host's www directory"))?;
    for (private, seen_at) in PRIVATE {
        bind(&directory.join(private), Path::new(seen_at))?;
    }
    bind(&directory.join("resolv.conf"), Path::new("/etc/resolv.conf"))
}

fn own(kind: &str) -> Result<File, NamespaceError> {
    File::open(format!("/proc/thread-self/ns/{kind}"))
        .map_err(failed(format!("hold the {kind} namespace")))
}

fn write_setting(key: &str, value: &str) -> Result<(), NamespaceError> {
    fs::write(format!("/proc/sys/{key}"), value).map_err(failed(format!("set {key} = {value}")))
}

/// Kernel settings of every host, and of those that forward.
fn settings(forwards: bool) -> Vec<(&'static str, &'static str)> {
    let mut settings = vec![
        // Paths are asymmetric by design: answers leave from another proxy.
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        // Addresses are usable at once: nobody else can have them.
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
        // A link that was cut comes back with its addresses.
        ("net/ipv6/conf/all/keep_addr_on_down", "1"),
        ("net/ipv6/conf/default/keep_addr_on_down", "1"),
    ];
    if forwards {
        settings.extend([
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            // Equal-cost paths by flow, ports included.
            ("net/ipv4/fib_multipath_hash_policy", "1"),
            ("net/ipv6/fib_multipath_hash_policy", "1"),
        ]);
    }
    settings
}
