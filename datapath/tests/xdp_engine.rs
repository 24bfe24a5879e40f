//! The engine with XDP in front, on real kernels' packets. The near proxy is the ingress, the far one
//! delivers; see `support/bed.rs`.

#[allow(dead_code, reason = "some of it is for the tests of the engine alone")]
mod support;

use std::{
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    mount::{MsFlags, mount},
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};
use pias_datapath::{
    counters::Path,
    engine::FastConfig,
    xdp::{Interface, layout::Mode},
};
use support::{
    bed::{BPF_DIRECTORY, Bed, FAR, GROUPS, NEAR, Proxy, TARGETS, key, socket, try_start},
    hosts::{Host, privileged, wait_for},
    traffic::{assert_echo, assert_spoken, echo_service, tcp_there_and_back, udp_client},
};

/// Endpoints of the near and of the far proxy.
const TUNNELS: [[&str; 2]; 2] = [["10.2.0.1", "10.2.0.2"], ["2001:db8:2::1", "2001:db8:2::2"]];
const BULK: usize = 8 << 20;

/// XDP for what enters the near host by its two interfaces, and leaves by them. What their other ends send
/// has its checksums, and they listen, as they must for XDP to send to them.
fn fast(bed: &Bed) -> FastConfig {
    let interface = |(name, other): (&'static str, &Host)| {
        other.command("ethtool", "-K near tx off gro on");
        bed.near.ip(&format!("link set {name} address 02:00:00:00:00:01"));
        let index = bed.near.run(move || if_nametoindex(name).unwrap());
        Interface { index, name: name.to_owned(), mac: [2, 0, 0, 0, 0, 1], is_veth: true }
    };
    let interfaces = [("client", &bed.client), (FAR, &bed.far)].map(interface).to_vec();
    FastConfig { interfaces, required: true }
}

/// Gives a host a BPF file system that only it sees, and that vanishes with it.
fn mount_bpf(host: &Host) {
    host.run(|| {
        std::fs::create_dir_all(BPF_DIRECTORY).unwrap();
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        mount(Some("bpf"), BPF_DIRECTORY, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
    });
}

/// Two proxies, the near one with XDP.
fn with_xdp(tunnel: [&str; 2]) -> (Bed, FastConfig, Proxy, Proxy) {
    let bed = Bed::new();
    mount_bpf(&bed.near);
    with_xdp_on(bed, tunnel)
}

fn with_xdp_on(
    bed: Bed,
    [near_unicast, far_unicast]: [&str; 2],
) -> (Bed, FastConfig, Proxy, Proxy) {
    let config = fast(&bed);
    let near = Proxy::start_with(&bed.near, NEAR, &[near_unicast], Some(config.clone()));
    let far = Proxy::start(&bed.far, FAR, &[far_unicast]);
    far.peer(NEAR, near_unicast);
    for (groups, target) in GROUPS.iter().zip(TARGETS) {
        echo_service(&bed.target, target.parse().unwrap());
        for group in groups {
            far.target(group, target);
        }
    }
    tell(&near, far_unicast);
    (bed, config, near, far)
}

/// Tells the near proxy that the far one delivers.
fn tell(near: &Proxy, far_unicast: &str) {
    near.peer(FAR, far_unicast);
    for group in GROUPS.as_flattened() {
        near.ingress(group, FAR);
    }
}

/// Packets that the kernel put into the host's TUN device.
fn through_tun(host: &Host) -> u64 {
    host.run(|| {
        let words = ["-s", "-j", "link", "show", "pias0"];
        let output = std::process::Command::new("ip").args(words).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (_, sent) = text.split_once("\"tx\":").unwrap();
        let (_, packets) = sent.split_once("\"packets\":").unwrap();
        packets.split(',').next().unwrap().parse().unwrap()
    })
}

fn modes(proxy: &Proxy) -> Vec<Result<Mode, String>> {
    let view = proxy.handle.fast().unwrap();
    view.interfaces.into_iter().map(|(_, mode)| mode).collect()
}

#[test]
fn datagrams_and_streams_pass_the_kernel() {
    if !privileged() {
        return;
    }
    for tunnel in TUNNELS {
        let (bed, _, near, far) = with_xdp(tunnel);
        assert_eq!(modes(&near), [Ok(Mode::Native), Ok(Mode::Native)]);
        for [datagrams, stream] in GROUPS {
            let client = udp_client(&bed.client, socket(datagrams));
            for payload in [&b"x"[..], &[7; 1200], &[]] {
                assert_echo(&client, payload);
            }
            let (sent, received) = tcp_there_and_back(&bed.client, socket(stream), BULK);
            assert_eq!(sent, received, "{stream} over {tunnel:?}");
        }
        let entered = near.handle.counters().unwrap().path(Path::IngressDirect);
        let segments = (2 * BULK / 1460) as u64;
        assert!(entered > segments, "{entered} packets of {segments} over {tunnel:?}");
        let passed_up = through_tun(&bed.near);
        assert!(passed_up < entered / 50, "{passed_up} of {entered} over {tunnel:?}");
        assert!(far.handle.counters().unwrap().path(Path::JoinDeliver) > 0);
        let flows = near.handle.flows(vec![key(GROUPS[0][1])], 10).unwrap();
        assert_eq!(flows.len(), 1, "what XDP pinned is seen: {flows:?}");
    }
}

#[test]
fn what_a_driver_does_not_take_is_attached_in_generic_mode() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let config = fast(&bed);
    // More than a page, which veth does not hand to XDP.
    bed.client.ip("link set near mtu 9000");
    bed.near.ip("link set client mtu 9000");
    let [near_unicast, far_unicast] = TUNNELS[0];
    let near = Proxy::start_with(&bed.near, NEAR, &[near_unicast], Some(config));
    assert_eq!(modes(&near), [Ok(Mode::Generic), Ok(Mode::Native)]);
    let far = Proxy::start(&bed.far, FAR, &[far_unicast]);
    far.peer(NEAR, near_unicast);
    echo_service(&bed.target, TARGETS[0].parse().unwrap());
    far.target(GROUPS[0][0], TARGETS[0]);
    tell(&near, far_unicast);
    let client = udp_client(&bed.client, socket(GROUPS[0][0]));
    wait_for("answers to what did not pass the TUN device", || {
        let before = through_tun(&bed.near);
        assert_echo(&client, b"x");
        (through_tun(&bed.near) == before).then_some(())
    });
    assert!(near.handle.counters().unwrap().path(Path::IngressDirect) > 0);
}

#[test]
fn without_an_interface_the_engine_forwards_alone_unless_xdp_is_required() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let nothing = |required| Some(FastConfig { interfaces: Vec::new(), required });
    let error = try_start(&bed.near, NEAR, &["10.2.0.1"], "pias0", nothing(true)).err().unwrap();
    assert!(error.to_string().contains("there is no network card"), "{error}");
    let near = Proxy::start_with(&bed.near, NEAR, &["10.2.0.1"], nothing(false));
    assert!(modes(&near).is_empty());
}

#[test]
fn an_interface_that_another_program_has_is_taken_when_it_is_free() {
    if !privileged() {
        return;
    }
    let (bed, config, near, _far) = with_xdp(TUNNELS[0]);
    let required = try_start(&bed.near, "other", &[TUNNELS[1][0]], "pias1", Some(config.clone()));
    let error = required.err().unwrap().to_string();
    assert!(error.contains("another XDP program is attached to client"), "{error}");
    let wanted = FastConfig { required: false, ..config };
    // Commands that other tests start may hold its socket for a moment more.
    let other = wait_for("a second engine", || {
        let wanted = Some(wanted.clone());
        try_start(&bed.near, "other", &[TUNNELS[1][0]], "pias2", wanted).ok()
    });
    assert!(modes(&other).iter().all(Result::is_err), "{:?}", modes(&other));
    near.engine.stop();
    wait_for("the program to be attached", || {
        modes(&other).iter().all(Result::is_ok).then_some(())
    });
}

/// A client that sends datagrams to an echo service, one a millisecond, and counts what comes back.
struct Steady {
    stop: Arc<AtomicBool>,
    sender: thread::JoinHandle<u32>,
    receiver: thread::JoinHandle<u32>,
}

impl Steady {
    fn start(client: &Host, group: &str) -> Self {
        let socket = udp_client(client, self::socket(group));
        assert_echo(&socket, b"first");
        let stop = Arc::new(AtomicBool::new(false));
        let (out, over) = (socket.try_clone().unwrap(), Arc::clone(&stop));
        let sender = thread::spawn(move || {
            let mut sent = 0_u32;
            while !over.load(Ordering::Relaxed) {
                out.send(&sent.to_be_bytes()).unwrap();
                sent += 1;
                thread::sleep(Duration::from_millis(1));
            }
            sent
        });
        let over = Arc::clone(&stop);
        let receiver = thread::spawn(move || {
            let (mut buffer, mut heard) = ([0; 64], 0);
            loop {
                match socket.recv(&mut buffer) {
                    Ok(4) => heard += 1,
                    Ok(_) => {}
                    // Nothing for so long that nothing is under way any more.
                    Err(_) if over.load(Ordering::Relaxed) => return heard,
                    Err(_) => {}
                }
            }
        });
        Self { stop, sender, receiver }
    }

    /// How many were sent, and how many came back.
    fn end(self) -> (u32, u32) {
        self.stop.store(true, Ordering::Relaxed);
        (self.sender.join().unwrap(), self.receiver.join().unwrap())
    }
}

#[test]
fn the_next_engine_takes_the_program_s_place_and_nothing_is_lost() {
    if !privileged() {
        return;
    }
    let (bed, config, near, _far) = with_xdp(TUNNELS[0]);
    let [[datagrams, stream], _] = GROUPS;
    let mut talk = bed.client.run(|| TcpStream::connect(socket(GROUPS[0][1])).unwrap());
    talk.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_spoken(&mut talk, b"before");
    let steady = Steady::start(&bed.client, datagrams);
    let direct = |proxy: &Proxy| proxy.handle.counters().unwrap().path(Path::IngressDirect);

    near.handle.pause().unwrap();
    let legacy = near.handle.hand_over().unwrap().unwrap();
    let tables = legacy.tables.clone();
    let paused = direct(&near);
    wait_for("XDP to go on meanwhile", || (direct(&near) > paused + 10).then_some(()));
    let unicast = [TUNNELS[0][0]];
    let next = Proxy::take_over(&bed.near, NEAR, &unicast, Some(config), legacy).unwrap();
    tell(&next, TUNNELS[0][1]);
    next.handle.adopt(tables).unwrap();
    next.handle.resume().unwrap();
    near.engine.stop();
    assert_eq!(modes(&next), [Ok(Mode::Native), Ok(Mode::Native)]);
    wait_for("the next one's XDP to work", || (direct(&next) > 100).then_some(()));

    let (sent, heard) = steady.end();
    assert_eq!(heard, sent, "all that was sent came back");
    assert_spoken(&mut talk, b"after");
    let (sent, received) = tcp_there_and_back(&bed.client, socket(stream), BULK);
    assert_eq!(sent, received);
}

#[test]
fn without_a_bpf_file_system_the_next_engine_attaches_its_program_anew() {
    if !privileged() {
        return;
    }
    let (bed, config, near, _far) = with_xdp_on(Bed::new(), TUNNELS[0]);
    near.handle.pause().unwrap();
    let legacy = near.handle.hand_over().unwrap().unwrap();
    assert!(modes(&near).iter().all(Result::is_err), "{:?}", modes(&near));
    let unicast = [TUNNELS[0][0]];
    let next = Proxy::take_over(&bed.near, NEAR, &unicast, Some(config), legacy).unwrap();
    tell(&next, TUNNELS[0][1]);
    next.handle.resume().unwrap();
    assert_eq!(modes(&next), [Ok(Mode::Native), Ok(Mode::Native)]);
    near.engine.stop();
    assert_echo(&udp_client(&bed.client, socket(GROUPS[0][0])), b"after");
}

#[test]
fn a_next_engine_without_xdp_leaves_nothing_attached() {
    if !privileged() {
        return;
    }
    let (bed, _, near, _far) = with_xdp(TUNNELS[0]);
    near.handle.pause().unwrap();
    let legacy = near.handle.hand_over().unwrap().unwrap();
    let next = Proxy::take_over(&bed.near, NEAR, &[TUNNELS[0][0]], None, legacy).unwrap();
    tell(&next, TUNNELS[0][1]);
    next.handle.resume().unwrap();
    assert!(modes(&next).is_empty());
    near.engine.stop();
    let attached = |name: &'static str| {
        let words = ["link", "show", name];
        let output = std::process::Command::new("ip").args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap().contains("xdp")
    };
    assert!(!bed.near.run(move || attached("client") || attached(FAR)));
    assert_echo(&udp_client(&bed.client, socket(GROUPS[0][0])), b"through the TUN device");
}

#[test]
fn an_engine_that_nobody_took_over_keeps_its_program() {
    if !privileged() {
        return;
    }
    let (bed, _, near, _far) = with_xdp(TUNNELS[0]);
    let steady = Steady::start(&bed.client, GROUPS[0][0]);
    near.handle.pause().unwrap();
    drop(near.handle.hand_over().unwrap().unwrap());
    near.handle.resume().unwrap();
    assert_eq!(modes(&near), [Ok(Mode::Native), Ok(Mode::Native)]);
    let (sent, heard) = steady.end();
    assert_eq!(heard, sent, "all that was sent came back");
}
