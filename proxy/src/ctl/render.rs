//! The daemon's answers for people.

use serde_json::Value;

use super::table::{cell, pairs, table};

pub(super) fn status(answer: &Value) -> String {
    let at = |field: &str| cell(&answer[field]);
    let mut out = pairs(&[
        ("proxy", format!("{} (cluster {})", at("name"), at("cluster"))),
        ("state", format!("{}, ready: {}", at("state"), at("ready"))),
        ("version", at("version")),
        ("up for", duration(answer["uptime_s"].as_u64().unwrap_or(0))),
        (
            "proxies",
            format!(
                "{} alive of {}, in {} clusters",
                at("proxies_alive"),
                at("proxies_known"),
                at("clusters")
            ),
        ),
        (
            "connections",
            format!("{} with proxies, {} with agents", at("connections"), at("agents")),
        ),
        (
            "groups",
            format!("{} as ingress, {} as RAP", at("ingress_groups"), at("rendezvous_groups")),
        ),
        ("targets", at("targets")),
        (
            "flows",
            format!(
                "{} as ingress, {} as JAP, {} held for mates",
                cell(&answer["engine"]["tables"]["ingress_flows"]),
                cell(&answer["engine"]["tables"]["nat_flows"]),
                cell(&answer["engine"]["tables"]["standby_flows"])
            ),
        ),
        ("engine", engine(&answer["engine"])),
        ("dropped", format!("{} packets (`piasctl drops`)", cell(&answer["engine"]["dropped"]))),
    ]);
    let paths: Vec<Value> = answer["engine"]["paths"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, packets)| packets.as_u64() != Some(0))
        .map(|(path, packets)| serde_json::json!({ "path": path, "packets": packets }))
        .collect();
    out.push('\n');
    out += &table(&paths, &[("PATH", "path"), ("PACKETS", "packets")], "no packets yet");
    out
}

/// What forwards, and where: `xdp (eth0 native, eth1 generic)`.
fn engine(engine: &Value) -> String {
    let interfaces = engine["interfaces"].as_array().into_iter().flatten();
    let how = |interface: &Value| {
        let mode = interface["mode"].as_str().unwrap_or("not attached");
        format!("{} {mode}", cell(&interface["name"]))
    };
    let interfaces: Vec<_> = interfaces.map(how).collect();
    match &interfaces[..] {
        [] => cell(&engine["kind"]),
        some => format!("{} ({})", cell(&engine["kind"]), some.join(", ")),
    }
}

pub(super) fn proxies(answer: &Value) -> String {
    let columns = [
        ("NAME", "name"),
        ("CLUSTER", "cluster"),
        ("STATE", "state"),
        ("RTT ms", "rtt_ms"),
        ("HEARD ms", "heard_ms"),
        ("UNICAST", "unicast"),
        ("SELF", "own"),
    ];
    table(rows(&answer["proxies"]), &columns, "no proxies")
}

pub(super) fn groups(answer: &Value) -> String {
    let shown: Vec<Value> = rows(&answer["groups"])
        .iter()
        .map(|group| {
            let mut group = group.clone();
            group["candidates"] = Value::String(candidates(&group["candidates"]));
            group
        })
        .collect();
    let columns = [
        ("GROUP", "group"),
        ("INGRESS", "ingress"),
        ("RAP", "rendezvous"),
        ("TARGETS", "targets"),
        ("CANDIDATES", "candidates"),
    ];
    table(&shown, &columns, "no groups")
}

pub(super) fn group(answer: &Value) -> String {
    rows(&answer["groups"]).iter().map(one_group).collect::<Vec<_>>().join("\n")
}

fn one_group(group: &Value) -> String {
    let at = |field: &str| cell(&group[field]);
    let mut out = pairs(&[
        ("group", at("group")),
        ("policy", at("policy")),
        ("RAPs", at("raps")),
        ("ingress", format!("{}, asks {}", at("ingress"), at("asks"))),
        ("candidates", candidates(&group["candidates"])),
    ]);
    if group["rendezvous"] == true {
        let columns = [("JAP", "proxy"), ("COUNT", "count"), ("EXPIRES ms", "expires_ms")];
        out += "\nreported here, as a RAP:\n";
        out += &table(rows(&group["counts"]), &columns, "nothing");
    }
    if !rows(&group["local"]).is_empty() {
        out += "\ntargets here, as a JAP:\n";
        out += &target_table(rows(&group["local"]));
    }
    out
}

pub(super) fn targets(answer: &Value) -> String {
    target_table(rows(&answer["targets"]))
}

fn target_table(targets: &[Value]) -> String {
    let columns = [
        ("LEASE", "id"),
        ("GROUP", "group"),
        ("ADDRESS", "address"),
        ("STATE", "state"),
        ("WHY", "why"),
        ("WEIGHT", "weight"),
        ("AGENT", "agent"),
        ("LEASE ms", "lease_ms"),
        ("HEARD ms", "heard_ms"),
    ];
    table(targets, &columns, "no targets")
}

pub(super) fn flows(answer: &Value) -> String {
    let shown: Vec<Value> = rows(&answer["flows"])
        .iter()
        .map(|flow| {
            let mut flow = flow.clone();
            let to = if flow["target"].is_null() {
                flow["proxy"].clone()
            } else {
                flow["target"].clone()
            };
            flow["to"] = to;
            flow
        })
        .collect();
    let columns = [
        ("CLIENT", "client"),
        ("GROUP", "group"),
        ("ROLE", "role"),
        ("TO", "to"),
        ("NAT", "nat"),
        ("STATE", "state"),
        ("AGE s", "age_s"),
        ("IDLE s", "idle_s"),
    ];
    table(&shown, &columns, "no flows")
}

pub(super) fn drops(answer: &Value) -> String {
    let happened: Vec<Value> = rows(&answer["drops"])
        .iter()
        .filter(|drop| drop["packets"].as_u64() != Some(0))
        .cloned()
        .collect();
    table(&happened, &[("REASON", "reason"), ("PACKETS", "packets")], "nothing dropped")
}

pub(super) fn all_drops(answer: &Value) -> String {
    table(
        rows(&answer["drops"]),
        &[("REASON", "reason"), ("PACKETS", "packets")],
        "nothing dropped",
    )
}

pub(super) fn explain(answer: &Value) -> String {
    let mut out = pairs(&[
        ("client", cell(&answer["client"])),
        ("group", cell(&answer["group"])),
        ("policy", cell(&answer["policy"])),
        ("RAPs", cell(&answer["raps"])),
        ("order", candidates(&answer["order"])),
    ]);
    for (title, field) in [("overlay", "steps"), ("datapath", "datapath")] {
        out += &format!("\n{title}:\n");
        for (number, step) in rows(&answer[field]).iter().enumerate() {
            out += &format!("  {}. {}\n", number + 1, cell(step));
        }
    }
    out
}

pub(super) fn upgrade(answer: &Value) -> String {
    let paused = answer["paused_ms"].as_f64().unwrap_or_default();
    format!("upgraded: process {} serves; packets waited {paused:.0} ms\n", cell(&answer["pid"]))
}

pub(super) fn drain(_: &Value) -> String {
    "draining: routes withdrawn, agents sent elsewhere; stop piasd when its flows have ended\n"
        .to_owned()
}

/// `fra1 (tier 0, weight 3), ...`
fn candidates(list: &Value) -> String {
    let shown: Vec<String> = rows(list)
        .iter()
        .map(|c| {
            format!(
                "{} (tier {}, weight {})",
                cell(&c["proxy"]),
                cell(&c["tier"]),
                cell(&c["weight"])
            )
        })
        .collect();
    if shown.is_empty() { "-".to_owned() } else { shown.join(", ") }
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn duration(seconds: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn candidates_read_with_tier_and_weight() {
        let answer = json!({ "groups": [{
            "group": "203.0.113.10:53/udp", "ingress": "candidates", "rendezvous": true, "targets": 0,
            "candidates": [{ "proxy": "fra1", "cluster": "fra", "tier": 0, "weight": 3 }],
        }] });
        assert_eq!(
            groups(&answer),
            "GROUP                INGRESS     RAP  TARGETS  CANDIDATES\n\
             203.0.113.10:53/udp  candidates  yes        0  fra1 (tier 0, weight 3)\n"
        );
    }

    #[test]
    fn reasons_that_never_happened_are_left_out_unless_asked_for() {
        let answer = json!({ "drops": [
            { "reason": "malformed", "packets": 0 }, { "reason": "hop_limit", "packets": 12 },
        ] });
        assert_eq!(drops(&answer), "REASON     PACKETS\nhop_limit       12\n");
        assert!(all_drops(&answer).contains("malformed"));
    }

    #[test]
    fn a_flow_goes_to_its_target_or_its_proxy() {
        let flow = |key: &str, to: &str| json!({ "client": "198.51.100.7:4", "group": "g", "role": "r", key: to });
        let answer = json!({ "flows": [flow("proxy", "fra2"), flow("target", "10.0.0.2:53")] });
        let shown = flows(&answer);
        assert!(shown.contains("fra2") && shown.contains("10.0.0.2:53"), "{shown}");
    }
}
