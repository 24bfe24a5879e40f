//! The engine with XDP in front, on real kernels' packets. The near proxy is the ingress, the far one
//! delivers; see `support/bed.rs`.

#[allow(dead_code, reason = "some of it is for the tests of the engine alone")]
mod support;

use std::{
    io::{BufRead, BufReader},
    net::{TcpStream, UdpSocket},
    os::fd::AsRawFd,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use etherparse::PacketBuilder;
use nix::{
    ifaddrs::getifaddrs,
    mount::{MsFlags, mount},
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, sendto, socket as open,
    },
};
use pias_datapath::{
    counters::Path,
    engine::{self, EngineConfig, FastConfig},
    limits::engine::{GRACE, TICK},
    xdp::{
        Interface, Vlan,
        kept::{self, Kept},
        layout::Mode,
    },
};
use support::{
    bed::{
        BPF_DIRECTORY, Bed, FAR, GROUPS, NEAR, Proxy, TARGETS, engine_config, key, route, socket,
        try_start,
    },
    hosts::{End, Host, privileged, wait_for},
    traffic::{assert_echo, assert_spoken, echo_service, tcp_there_and_back, udp_client},
};

/// Endpoints of the near and of the far proxy.
const TUNNELS: [[&str; 2]; 2] = [["10.2.0.1", "10.2.0.2"], ["2001:db8:2::1", "2001:db8:2::2"]];
const BULK: usize = 8 << 20;
/// Packets that the kernel sends into any new device: solicitations and reports.
const KERNELS_OWN: u64 = 10;
/// Of the near host's interfaces.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// XDP for what enters the near host by its two interfaces, and leaves by them. What their other ends send
/// has its checksums, and they listen, as they must for XDP to send to them.
fn fast(bed: &Bed) -> FastConfig {
    for (name, other) in [("client", &bed.client), (FAR, &bed.far)] {
        other.command("ethtool", "-K near tx off gro on");
        bed.near.ip(&format!("link set {name} address 02:00:00:00:00:01"));
    }
    let interfaces = bed.near.run(|| ["client", FAR].map(interface).to_vec());
    FastConfig { interfaces, required: true }
}

/// An interface of the host whose thread this is.
fn interface(name: &str) -> Interface {
    let (index, vlans) = (if_nametoindex(name).unwrap(), Vec::new());
    Interface { index, name: name.to_owned(), mac: Some(MAC), is_veth: true, vlans }
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
    let far = far_proxy(&bed, [near_unicast, far_unicast]);
    tell(&near, far_unicast);
    (bed, config, near, far)
}

/// The proxy that delivers, and its targets.
fn far_proxy(bed: &Bed, [near_unicast, far_unicast]: [&str; 2]) -> Proxy {
    let far = Proxy::start(&bed.far, FAR, &[far_unicast]);
    far.peer(NEAR, near_unicast);
    for (groups, target) in GROUPS.iter().zip(TARGETS) {
        echo_service(&bed.target, target.parse().unwrap());
        for group in groups {
            far.target(group, target);
        }
    }
    far
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
        let output = Command::new("ip").args(words).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (_, sent) = text.split_once("\"tx\":").unwrap();
        let (_, packets) = sent.split_once("\"packets\":").unwrap();
        packets.split(',').next().unwrap().parse().unwrap()
    })
}

/// Whether a program is attached to an interface.
fn is_attached(host: &Host, name: &'static str) -> bool {
    host.run(move || {
        let output = Command::new("ip").args(["link", "show", name]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().contains("xdp")
    })
}

/// Waits until the program is attached to both interfaces natively.
fn wait_attached(proxy: &Proxy) {
    wait_for("the program to be attached", || {
        (modes(proxy) == [Ok(Mode::Native), Ok(Mode::Native)]).then_some(())
    });
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
    let legacy = near.handle.hand_over(None).unwrap().unwrap();
    let tables = legacy.tables.clone();
    let paused = direct(&near);
    wait_for("XDP to go on meanwhile", || (direct(&near) > paused + 10).then_some(()));
    let unicast = [TUNNELS[0][0]];
    let next = Proxy::take_over(&bed.near, NEAR, &unicast, Some(config), legacy).unwrap();
    tell(&next, TUNNELS[0][1]);
    next.handle.adopt(tables).unwrap();
    next.handle.resume().unwrap();
    near.engine.stop();
    wait_attached(&next);
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
    let legacy = near.handle.hand_over(None).unwrap().unwrap();
    assert!(modes(&near).iter().all(Result::is_err), "{:?}", modes(&near));
    let unicast = [TUNNELS[0][0]];
    let next = Proxy::take_over(&bed.near, NEAR, &unicast, Some(config), legacy).unwrap();
    tell(&next, TUNNELS[0][1]);
    next.handle.resume().unwrap();
    wait_attached(&next);
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
    let legacy = near.handle.hand_over(None).unwrap().unwrap();
    let next = Proxy::take_over(&bed.near, NEAR, &[TUNNELS[0][0]], None, legacy).unwrap();
    tell(&next, TUNNELS[0][1]);
    next.handle.resume().unwrap();
    assert!(modes(&next).is_empty());
    near.engine.stop();
    assert!(!is_attached(&bed.near, "client") && !is_attached(&bed.near, FAR));
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
    drop(near.handle.hand_over(None).unwrap().unwrap());
    near.handle.resume().unwrap();
    assert_eq!(modes(&near), [Ok(Mode::Native), Ok(Mode::Native)]);
    let (sent, heard) = steady.end();
    assert_eq!(heard, sent, "all that was sent came back");
}

/// What the process is asked to be by which the tests start the near proxy in one of its own.
const NEAR_ALONE: &str = "PIAS_TEST_NEAR_ALONE";

/// The near proxy in a process of its own.
struct Alone(Child);

impl Alone {
    /// On its host, told of the far proxy, with XDP.
    fn start(bed: &Bed) -> Self {
        let mut child = bed.near.run(|| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "the_near_proxy_alone", "--nocapture"])
                .env(NEAR_ALONE, "1")
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("it serves")), "it did not start");
        route(&bed.near, NEAR, "pias0");
        Self(child)
    }

    /// As by `kill -9`.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn the_near_proxy_alone() {
    if std::env::var_os(NEAR_ALONE).is_none() {
        return;
    }
    let fast = FastConfig { interfaces: ["client", FAR].map(interface).to_vec(), required: true };
    let mut config = engine_config(NEAR, &[TUNNELS[0][0]], "pias0", Some(fast));
    // As of a process of its own.
    config.pipeline.seed = 99;
    let near = Proxy::start_here(config, engine::start).unwrap();
    tell(&near, TUNNELS[0][1]);
    near.handle.counters().unwrap();
    println!("it serves");
    // Until it is killed.
    let _ = near.ended.recv();
}

/// A near proxy of its own whose XDP forwards, and a far one.
fn with_near_alone() -> (Bed, FastConfig, Alone, Proxy) {
    let bed = Bed::new();
    mount_bpf(&bed.near);
    let config = fast(&bed);
    let near = Alone::start(&bed);
    let far = far_proxy(&bed, TUNNELS[0]);
    (bed, config, near, far)
}

/// Whether what is sent comes back at once, of three tries.
fn is_echoed(client: &UdpSocket) -> bool {
    let mut buffer = [0; 64];
    // A packet that the kernel has no route for is answered with an error.
    (0..3).any(|_| client.send(b"?").is_ok() && client.recv(&mut buffer).is_ok())
}

#[test]
fn after_a_crash_flows_go_on_for_a_time_of_grace_and_no_longer() {
    if !privileged() {
        return;
    }
    let (bed, config, near, _far) = with_near_alone();
    let client = udp_client(&bed.client, socket(GROUPS[0][0]));
    assert_echo(&client, b"before");
    near.kill();
    let killed = Instant::now();
    assert!(bed.near.run(|| if_nametoindex("pias0").is_err()), "its device and routes are gone");
    for _ in 0..20 {
        assert!(is_echoed(&client), "{:?} after", killed.elapsed());
    }
    wait_for("XDP to give up", || (!is_echoed(&client)).then_some(()));
    let passed = killed.elapsed();
    assert!(passed + TICK >= GRACE && passed < GRACE * 2, "{passed:?}");

    // Who comes too late begins anew.
    let near = Proxy::start_with(&bed.near, NEAR, &[TUNNELS[0][0]], Some(config));
    assert_eq!(modes(&near), [Ok(Mode::Native), Ok(Mode::Native)]);
    assert!(near.handle.flows(Vec::new(), 10).unwrap().is_empty());
    tell(&near, TUNNELS[0][1]);
    assert_echo(&client, b"after");
}

#[test]
fn an_engine_that_starts_soon_after_a_crash_goes_on_with_its_flows() {
    if !privileged() {
        return;
    }
    let (bed, config, near, _far) = with_near_alone();
    let steady = Steady::start(&bed.client, GROUPS[0][0]);
    near.kill();
    let near = Proxy::start_with(&bed.near, NEAR, &[TUNNELS[0][0]], Some(config));
    assert_eq!(modes(&near), [Ok(Mode::Native), Ok(Mode::Native)]);
    let direct = || near.handle.counters().unwrap().path(Path::IngressDirect);
    let flows = near.handle.flows(Vec::new(), 10).unwrap();
    assert_eq!(flows.len(), 1, "nobody has told it of the far proxy: {flows:?}");
    wait_for("its XDP to work", || (direct() > 100).then_some(()));
    tell(&near, TUNNELS[0][1]);
    let (sent, heard) = steady.end();
    assert_eq!(heard, sent, "all that was sent came back");
    let passed_up = through_tun(&bed.near);
    assert!(passed_up <= KERNELS_OWN, "{passed_up} packets of {sent} were passed up");
    let again = near.handle.flows(Vec::new(), 10).unwrap();
    assert_eq!(again[0].client, flows[0].client);
}

#[test]
fn a_proxy_that_only_the_process_before_knew_is_forgotten() {
    if !privileged() {
        return;
    }
    let (bed, config, near, _far) = with_near_alone();
    let client = udp_client(&bed.client, socket(GROUPS[0][0]));
    assert_echo(&client, b"before");
    near.kill();
    let near = Proxy::start_with(&bed.near, NEAR, &[TUNNELS[0][0]], Some(config));
    let flows = || near.handle.flows(Vec::new(), 10).unwrap();
    assert_eq!(flows().len(), 1);
    wait_for("the far proxy to be forgotten", || flows().is_empty().then_some(()));
    assert!(!is_echoed(&client));
}

#[test]
fn tables_of_another_configuration_are_not_gone_on_with() {
    if !privileged() {
        return;
    }
    let (bed, _, near, _far) = with_near_alone();
    near.kill();
    bed.near.run(|| {
        let EngineConfig { pins, pipeline, .. } =
            engine_config(NEAR, &[TUNNELS[0][0]], "pias0", None);
        let kept = Kept::find(&pins, &pipeline).unwrap();
        assert_eq!(kept.seed, 99);
        let mut smaller = pipeline.clone();
        smaller.limits.ingress_flows /= 2;
        assert!(Kept::find(&pins, &smaller).is_none(), "a table of another size");
        let mut other = pipeline.clone();
        other.anycast.pop();
        assert!(Kept::find(&pins, &other).is_none(), "other prefixes");
        kept::forget(&pins, &["PINS".to_owned(), "PEERS".to_owned()]);
        assert!(Kept::find(&pins, &pipeline).is_none(), "all of them or none");
    });
}

#[test]
fn an_engine_that_ends_leaves_nothing_behind() {
    if !privileged() {
        return;
    }
    let (bed, _, near, _far) = with_xdp(TUNNELS[0]);
    let files = || {
        let read = || std::fs::read_dir(format!("{BPF_DIRECTORY}/pias0")).map(Iterator::count);
        bed.near.run(read).unwrap_or(0)
    };
    assert_eq!(files(), 2 + kept::TABLES.len(), "two attachments, and the tables");
    near.engine.stop();
    assert_eq!(files(), 0);
    assert!(!is_attached(&bed.near, "client") && !is_attached(&bed.near, FAR));
}

/// Sends a frame by the host's interface `name`.
fn send_frame(host: &Host, name: &'static str, frame: Vec<u8>) {
    host.run(move || {
        let raw =
            open(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None::<SockProtocol>)
                .unwrap();
        let addresses = getifaddrs().unwrap().filter(|entry| entry.interface_name == name);
        let to = addresses.filter_map(|entry| entry.address?.as_link_addr().copied()).next();
        sendto(raw.as_raw_fd(), &frame, &to.unwrap(), MsgFlags::empty()).unwrap();
    });
}

#[test]
fn a_frame_of_a_vlan_is_forwarded_and_one_without_is_not() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    mount_bpf(&bed.near);
    let mut config = fast(&bed);
    // Anything that has an index does for the VLAN's device: what enters there is not sent back by it.
    bed.near.ip("link add stand-in type veth peer name other-end");
    let index = bed.near.run(|| if_nametoindex("stand-in").unwrap());
    let vlan = Vlan { index, name: "stand-in".to_owned(), mac: MAC, tag: 7 };
    config.interfaces[0].vlans.push(vlan);
    config.interfaces[0].mac = None;
    let near = Proxy::start_with(&bed.near, NEAR, &[TUNNELS[0][0]], Some(config));
    let _far = far_proxy(&bed, TUNNELS[0]);
    tell(&near, TUNNELS[0][1]);
    let client = udp_client(&bed.client, socket(GROUPS[0][0]));
    assert_echo(&client, b"by the TUN device");
    let direct = || near.handle.counters().unwrap().path(Path::IngressDirect);
    let passed_up = through_tun(&bed.near);

    let port = client.local_addr().unwrap().port();
    let (from, to) = ([10, 1, 0, 2], [203, 0, 113, 10]);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], MAC)
        .single_vlan(7.try_into().unwrap())
        .ipv4(from, to, 64)
        .udp(port, 7)
        .write(&mut frame, b"in a VLAN")
        .unwrap();
    let heard = || {
        send_frame(&bed.client, NEAR, frame.clone());
        let mut buffer = [0; 64];
        client.recv(&mut buffer).is_ok_and(|length| &buffer[..length] == b"in a VLAN")
    };
    let before = direct();
    wait_for("an echo of what was sent in a VLAN", || heard().then_some(()));
    (0..50).for_each(|_| assert!(heard()));
    assert!(direct() > before + 50);
    let more = through_tun(&bed.near) - passed_up;
    assert!(more <= KERNELS_OWN, "{more} packets were passed up");
}

/// Whether the kernel has devices of VLANs, which are a module of their own.
fn has_vlans(host: &Host) -> bool {
    let words = ["link", "add", "link", "lo", "name", "lo.7", "type", "vlan", "id", "7"];
    host.run(move || Command::new("ip").args(words).output().unwrap().status.success())
}

/// Puts both links of the near host into VLANs, whose tags their other ends see to.
fn into_vlans(bed: &Bed) {
    let default = ["0.0.0.0/0", "::/0"];
    let client = End { addresses: &["10.1.0.2", "2001:db8:1::2"], routes: &default };
    let near = End { addresses: &["10.1.0.1", "2001:db8:1::1"], routes: &[] };
    into_vlan((&bed.client, NEAR, &client), (&bed.near, "client", &near), 7);
    let near = End {
        addresses: &["10.2.0.1", "2001:db8:2::1"],
        routes: &["10.3.0.0/24", "192.0.2.2", "2001:db8:3::/64", "2001:db8:f2::1"],
    };
    let far = End {
        addresses: &["10.2.0.2", "2001:db8:2::2"],
        routes: &["10.1.0.0/24", "192.0.2.1", "2001:db8:1::/64", "2001:db8:f1::1"],
    };
    into_vlan((&bed.near, FAR, &near), (&bed.far, NEAR, &far), 9);
}

type Place<'a> = (&'a Host, &'a str, &'a End<'a>);

fn into_vlan(one: Place<'_>, other: Place<'_>, tag: u16) {
    for ((host, device, end), (_, _, far)) in [(one, other), (other, one)] {
        host.ip(&format!("address flush dev {device}"));
        // Tags stand in frames, and not beside them where XDP does not see them.
        host.command("ethtool", &format!("-K {device} txvlan off rxvlan off"));
        host.ip(&format!("link add link {device} name {device}.{tag} type vlan id {tag}"));
        host.attach(&format!("{device}.{tag}"), end, far);
    }
}

#[test]
fn frames_come_and_go_in_vlans() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    mount_bpf(&bed.near);
    if !has_vlans(&bed.client) {
        eprintln!("skipped: this kernel has no VLANs");
        return;
    }
    let mut config = fast(&bed);
    into_vlans(&bed);
    for (interface, tag) in config.interfaces.iter_mut().zip([7, 9]) {
        let name = format!("{}.{tag}", interface.name);
        let index = {
            let name = name.clone();
            bed.near.run(move || if_nametoindex(&name[..]).unwrap())
        };
        interface.vlans.push(Vlan { index, name, mac: MAC, tag });
        // Of what has no tag nothing is XDP's.
        interface.mac = None;
    }
    let near = Proxy::start_with(&bed.near, NEAR, &[TUNNELS[0][0]], Some(config));
    let _far = far_proxy(&bed, TUNNELS[0]);
    tell(&near, TUNNELS[0][1]);
    for [datagrams, stream] in GROUPS {
        assert_echo(&udp_client(&bed.client, socket(datagrams)), &[7; 1200]);
        let (sent, received) = tcp_there_and_back(&bed.client, socket(stream), BULK);
        assert_eq!(sent, received, "{stream}");
    }
    let entered = near.handle.counters().unwrap().path(Path::IngressDirect);
    let passed_up = through_tun(&bed.near);
    assert!(
        entered > (2 * BULK / 1460) as u64 && passed_up < entered / 50,
        "{passed_up} of {entered}"
    );
}

#[test]
fn echo_requests_do_not_reach_the_device() {
    if !privileged() {
        return;
    }
    let (bed, _, near, _far) = with_xdp(TUNNELS[0]);
    for (router, anycast) in [("10.1.0.1", "203.0.113.10"), ("2001:db8:1::1", "2001:db8:a::10")] {
        // So that the client's neighbours know each other.
        bed.client.command("ping", &format!("-n -c 1 -W 2 {router}"));
        bed.client.command("ping", &format!("-n -c 50 -i 0.01 -W 2 {anycast}"));
    }
    assert_eq!(near.handle.counters().unwrap().path(Path::Echo), 100);
    let passed_up = through_tun(&bed.near);
    assert!(passed_up <= KERNELS_OWN, "{passed_up} packets of 100 were passed up");
}
