use super::*;
use crate::testing::Operator;

/// A configuration that is right, for the proxy `fra1` of this operator.
fn right(operator: &Operator) -> String {
    let dir = operator.path().display();
    format!(
        r#"name    = "fra1"
cluster = "fra"

[anycast]
prefixes = ["203.0.113.0/24", "2001:db8:a::/48"]

[proxy]
unicast = ["198.51.100.11", "2001:db8:1::11"]
nat     = ["192.0.2.11", "2001:db8:2::11"]

[overlay]
heartbeat = "200ms"
seeds = [ {{ name = "fra1", address = "198.51.100.11" }}, {{ name = "nyc1", address = "198.51.100.21" }} ]

[tls]
certificate-authority = "{dir}/ca.pem"
certificate = "{dir}/fra1.pem"
key = "{dir}/fra1.key"
reset-key = "{dir}/reset.key"

[[group]]
address = "203.0.113.10:53"
policy = "balanced"
"#
    )
}

/// The single fault of the right configuration with `from` replaced by `to`.
fn fault_of(operator: &Operator, from: &str, to: &str) -> Fault {
    let text = right(operator);
    assert!(text.contains(from), "the test replaces what is not there: {from}");
    let Err(mut faults) = parse(&text.replace(from, to)) else { panic!("no fault in `{to}`") };
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults.remove(0)
}

#[test]
fn a_right_configuration_is_taken_with_its_defaults() {
    let operator = Operator::new(&["fra1"]);
    let Ok(config) = parse(&right(&operator)) else { panic!("refused") };
    assert_eq!((config.name.as_str(), config.cluster.as_str()), ("fra1", "fra"));
    assert_eq!(config.seeds.len(), 1, "its own seed is left out");
    assert_eq!((config.overlay_port, config.mtu, config.device.as_str()), (7427, 1500, "pias0"));
    assert_eq!((config.engine, config.interfaces.len()), (Engine::Auto, 0));
    assert_eq!(config.drain_wait, Duration::from_secs(5));
    assert_eq!(config.metrics, "127.0.0.1:9427".parse().unwrap());
    assert_eq!(config.groups, [("203.0.113.10:53".parse().unwrap(), Policy::Balanced)]);
}

#[test]
fn each_fault_is_told_with_its_line() {
    let operator = Operator::new(&["fra1", "nyc1"]);
    let cases: &[(&str, &str, usize, &str)] = &[
        ("name    = \"fra1\"", "nane = \"fra1\"", 1, "unknown field `nane`"),
        ("\"fra\"", "\"Fra 1\"", 2, "cluster `Fra 1`: write 1 to 63 of a-z, 0-9 and -"),
        ("203.0.113.0/24", "203.0.113.1/24", 5, "has host bits: write 203.0.113.0/24"),
        ("2001:db8:a::/48", "203.0.113.0/25", 5, "overlaps 203.0.113.0/24"),
        ("\"2001:db8:1::11\"]", "\"198.51.100.12\"]", 8, "a second unicast address of one family"),
        (
            "\"192.0.2.11\", \"2001",
            "\"203.0.113.7\", \"2001",
            9,
            "NAT address 203.0.113.7 is in the anycast prefix 203.0.113.0/24",
        ),
        ("\"192.0.2.11\", \"2001", "\"198.51.100.11\", \"2001", 9, "is the unicast address too"),
        (", \"2001:db8:2::11\"]", "]", 9, "no IPv6 NAT address"),
        ("\"200ms\"", "\"1ms\"", 12, "heartbeat: from 20ms to 10s"),
        ("\"200ms\"", "\"soon\"", 12, ""),
        (
            "name = \"nyc1\", address = \"198.51.100.21\"",
            "name = \"nyc1\", address = \"198.51.100.11\"",
            13,
            "is this proxy's own address",
        ),
        (
            "name = \"nyc1\", address = \"198.51.100.21\"",
            "name = \"fra1\", address = \"198.51.100.11\"",
            13,
            "seed fra1 twice",
        ),
        ("ca.pem", "none.pem", 16, "cannot read a certificate from"),
        ("fra1.pem", "nyc1.pem", 18, "the key is not that of the certificate"),
        ("reset.key", "fra1.key", 19, "is no reset key"),
        ("203.0.113.10:53", "203.0.114.10:53", 22, "is in no anycast prefix"),
        ("203.0.113.10:53", "203.0.113.10:7427", 22, "port 7427 is the proxies' own"),
        ("\"balanced\"", "\"fastest\"", 23, "unknown variant `fastest`"),
        (
            "[[group]]",
            "[admin]\nmetrics = \"198.51.100.11:9427\"\n[[group]]",
            22,
            "is no loopback address",
        ),
        ("[[group]]", "[tunnel]\nmtu = 1280\n[[group]]", 22, "mtu: at least 1380"),
        ("[[group]]", "[datapath]\nengine = \"fast\"\n[[group]]", 22, "unknown variant `fast`"),
        (
            "[[group]]",
            "[datapath]\ninterfaces = [\"eth0\", \"eth0\"]\n[[group]]",
            22,
            "interface eth0 twice",
        ),
        (
            "[[group]]",
            "[datapath]\ninterfaces = [\"eth/0\"]\n[[group]]",
            22,
            "`eth/0` cannot name a network device",
        ),
    ];
    for (from, to, line, message) in cases {
        let fault = fault_of(&operator, from, to);
        assert_eq!(fault.line, *line, "{to}: {fault:?}");
        assert!(fault.message.contains(message), "{to}: {}", fault.message);
    }
}

#[test]
fn a_certificate_of_another_proxy_is_a_fault_of_the_certificate() {
    let operator = Operator::new(&["fra1", "nyc1"]);
    let text = right(&operator).replace("fra1.pem", "nyc1.pem").replace("fra1.key", "nyc1.key");
    let Err(faults) = parse(&text) else { panic!("taken") };
    assert_eq!(faults[0].line, 17);
    assert!(faults[0].message.contains("does not carry the name `fra1`"), "{faults:?}");
}

#[test]
fn all_faults_are_told_at_once_with_their_places() {
    let operator = Operator::new(&["fra1"]);
    let text =
        right(&operator).replace("\"fra\"", "\"FRA\"").replace("203.0.113.10:53", "10.0.0.1:53");
    let Err(faults) = parse(&text) else { panic!("taken") };
    let error = ConfigError::Faults { path: "piasd.toml".into(), faults };
    assert_eq!(
        error.to_string(),
        "piasd.toml:2:11: cluster `FRA`: write 1 to 63 of a-z, 0-9 and -, with no - at the ends\n  \
         2 | cluster = \"FRA\"\n\
         piasd.toml:22:11: group 10.0.0.1:53 is in no anycast prefix\n  \
         22 | address = \"10.0.0.1:53\""
    );
}
