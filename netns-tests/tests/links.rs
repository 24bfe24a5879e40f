//! Emulated links and plain ones, measured from inside a lab of two hosts.

use std::time::Duration;

use pias_lab::{Lab, Options, Topology, testing, wait_until};

const TWO_HOSTS: &str = r#"
    name = "two-hosts"
    seed = 1

    [[host]]
    name = "left"
    role = "client"

    [[host]]
    name = "right"
    role = "target"

    [[link]]
    name = "wire"
    a = "left"
    b = "right"
    ipv4 = "10.0.0.0/30"
    ipv6 = "2001:db8::/64"
    shape = { delay = "20ms" }
"#;

fn two_hosts(text: &str) -> Lab {
    let topology = Topology::parse(text).expect("a valid topology");
    let options = Options { without_proxies: true, ..Options::default() };
    Lab::up(&topology, &options).expect("the lab boots")
}

/// Round-trip times of a burst of pings from left to right, in milliseconds.
fn ping(lab: &Lab, address: &str, count: u32) -> Vec<f64> {
    let count = count.to_string();
    let words = ["ping", "-n", "-i", "0.01", "-W", "1", "-c", &count, address];
    let output = lab.host("left").run(&words).expect("ping runs").stdout;
    let times = output.split("time=").skip(1).filter_map(|rest| rest.split(' ').next());
    times.map(|time| time.parse().expect("a number of milliseconds")).collect()
}

#[test]
fn a_delay_of_20_ms_each_way_is_a_round_trip_of_40_in_both_families() {
    if testing::skip() {
        return;
    }
    let lab = two_hosts(TWO_HOSTS);
    for address in ["10.0.0.2", "2001:db8::2"] {
        ping(&lab, address, 1);
        let times = ping(&lab, address, 20);
        assert_eq!(times.len(), 20);
        let fastest = times.iter().copied().fold(f64::MAX, f64::min);
        assert!((40.0..44.0).contains(&fastest), "{address}: {times:?}");
    }
}

#[test]
fn thirty_percent_loss_each_way_lets_about_half_the_pings_through() {
    if testing::skip() {
        return;
    }
    let lab = two_hosts(TWO_HOSTS);
    ping(&lab, "10.0.0.2", 1);
    lab.set_link("wire", &["delay=0ms", "loss=30"]).expect("an emulated link");
    let through = ping(&lab, "10.0.0.2", 200).len();
    assert!((70..130).contains(&through), "{through} of 200");
}

#[test]
fn a_cut_link_passes_nothing_until_it_is_restored() {
    if testing::skip() {
        return;
    }
    for text in [TWO_HOSTS.to_owned(), TWO_HOSTS.replace("shape = { delay = \"20ms\" }", "")] {
        let lab = two_hosts(&text);
        let reaches = |address| !ping(&lab, address, 1).is_empty();
        assert!(reaches("10.0.0.2"));
        lab.cut_link("wire").expect("a link");
        assert!(!reaches("10.0.0.2"));
        assert!(!reaches("2001:db8::2"));
        lab.restore_link("wire").expect("a link");
        for address in ["10.0.0.2", "2001:db8::2"] {
            wait_until(Duration::from_secs(5), format!("{address} is back"), || reaches(address))
                .expect("the link is whole again");
        }
    }
}

#[test]
fn a_path_with_a_smaller_mtu_says_so() {
    if testing::skip() {
        return;
    }
    let lab = two_hosts(&TWO_HOSTS.replace("shape", "mtu = 1400\nshape"));
    let words = ["ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", "1400", "10.0.0.2"];
    let refused = lab.host("left").run(&words).expect("ping runs");
    assert!(!refused.success());
    assert!(format!("{}{}", refused.stdout, refused.stderr).contains("mtu"), "{refused:?}");
}

#[test]
fn super_packets_cross_an_emulated_link_whole_and_intact() {
    if testing::skip() {
        return;
    }
    let lab = two_hosts(&TWO_HOSTS.replace("20ms", "1ms"));
    let file = lab.state().join("hosts/right/www/file").display().to_string();
    let make = format!("yes 0123456789abcdef | head -c 50000000 > {file} && sha256sum < {file}");
    let expected = lab.host("right").ok(&["sh", "-c", &make]).expect("a file");
    let capture = lab.host("right").capture("eth0", "tcp src port 80").expect("tcpdump");
    let fetch = "curl -s http://10.0.0.2/files/file | sha256sum";
    let got = lab.host("left").ok(&["sh", "-c", fetch]).expect("curl");
    assert_eq!(got, expected);
    let packets = capture.stop().expect("a capture").len();
    assert!(packets < 50_000_000 / 1448, "{packets} packets were not super-packets");
}
