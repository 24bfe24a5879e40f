//! The steps that show the service at work.

use std::time::Duration;

use anyhow::{Context, ensure};
use pias_lab::{Join, Lab, Transport, bracketed, wait_for};

use super::{DNS, POPS};

/// Time in which a distance that was just learnt steers every question.
const NEAREST_LIMIT: Duration = Duration::from_secs(10);

/// The DNS server of the first target at each POP joins the service in both
/// families.
pub(super) fn join<'lab>(
    lab: &'lab Lab,
    lines: &mut Vec<String>,
) -> anyhow::Result<Vec<Join<'lab>>> {
    let mut joins = Vec::new();
    for pop in POPS {
        let host = lab.host(&format!("{pop}-t1"));
        for address in DNS {
            let join = host.join(&format!("{}:53", bracketed(address)), &[])?;
            for joined in join.joins() {
                lines.push(format!(
                    "{}: joined {} through {} (cluster {}), rtt {:.1} ms",
                    host.name(),
                    joined.group,
                    joined.proxy,
                    joined.cluster,
                    joined.rtt_ms
                ));
                ensure!(
                    joined.cluster == pop,
                    "{} joined at {}, not at its own POP",
                    host.name(),
                    joined.cluster
                );
            }
            joins.push(join);
        }
    }
    Ok(joins)
}

/// Every client is answered by the target of its own POP.
pub(super) fn ask_from_everywhere(lab: &Lab, lines: &mut Vec<String>) -> anyhow::Result<()> {
    for pop in POPS {
        let client = lab.host(&format!("c-{pop}"));
        for address in DNS {
            for transport in [Transport::Udp, Transport::Tcp] {
                let nearest = format!("{pop}-t1");
                let look = || {
                    let answer = client.ask_dns(address, transport).ok().flatten()?;
                    (answer.target == nearest).then_some(answer)
                };
                let what = format!("{nearest} to answer {} at {address}", client.name());
                let (answer, _) = wait_for(NEAREST_LIMIT, what, look)?;
                lines.push(format!(
                    "{} -> {address} {transport:?}: {} in {} ms",
                    client.name(),
                    answer.target,
                    answer.took.as_millis()
                ));
            }
        }
    }
    Ok(())
}

/// The counters of a POP's proxies together.
fn path_at(lab: &Lab, pop: &str, path: &str) -> anyhow::Result<u64> {
    let mut sum = 0;
    for number in [1, 2] {
        let paths = lab.host(&format!("{pop}{number}")).paths()?;
        sum += *paths.get(path).with_context(|| format!("no counter {path:?}"))?;
    }
    Ok(sum)
}

/// A target in Singapore only, a client in Frankfurt. Hashes decide which
/// proxies keep a group's list and at which of its POP's proxies a flow enters,
/// so groups and source ports are tried until a flow enters where the list is
/// not, and there is a way through a RAP to see.
pub(super) fn first_packet_then_direct(lab: &Lab, lines: &mut Vec<String>) -> anyhow::Result<()> {
    for number in 20..32 {
        let address = format!("203.0.113.{number}");
        let join = lab.host("sin-t1").join(&format!("{address}:53/udp"), &[])?;
        join.wait_resolvable()?;
        for port in 40053..40059 {
            if let Some(line) = resolved_once(lab, &address, port)? {
                lines.push(line);
                return Ok(join.leave()?);
            }
        }
        join.leave()?;
    }
    anyhow::bail!("no flow's first packet went through a RAP")
}

/// Two questions of one flow: the first must go through a RAP and the second
/// must not. None if the first one had no need to.
fn resolved_once(lab: &Lab, address: &str, port: u16) -> anyhow::Result<Option<String>> {
    let from = format!("10.1.1.2#{port}");
    let ask = || -> anyhow::Result<u128> {
        let client = lab.host("c-fra");
        let answer = client.ask_dns_with(address, Transport::Udp, &["-b", &from])?;
        Ok(answer.context("no answer")?.took.as_millis())
    };
    let before = path_at(lab, "fra", "ingress_rendezvous")?;
    let first = ask()?;
    let resolved = path_at(lab, "fra", "ingress_rendezvous")?;
    if resolved == before {
        return Ok(None);
    }
    let direct_before = path_at(lab, "fra", "ingress_direct")?;
    let second = ask()?;
    let again = path_at(lab, "fra", "ingress_rendezvous")? - resolved;
    let direct = path_at(lab, "fra", "ingress_direct")? - direct_before;
    ensure!(again == 0, "the second packet to {address} went through a RAP as well");
    ensure!(direct > 0, "the second packet to {address} did not go straight to the JAP");
    Ok(Some(format!(
        "c-fra -> {address} -> sin-t1: first packet in {first} ms (ingress_rendezvous +{}), second \
         in {second} ms (ingress_rendezvous +{again}, ingress_direct +{direct})",
        resolved - before,
    )))
}

/// A web server in New York, asked from everywhere.
pub(super) fn fetch_pages(lab: &Lab, lines: &mut Vec<String>) -> anyhow::Result<()> {
    for address in ["203.0.113.80", "2001:db8:a::80"] {
        let address = bracketed(address);
        let join = lab.host("nyc-t2").join(&format!("{address}:80/tcp"), &[])?;
        join.wait_resolvable()?;
        for pop in POPS {
            let client = lab.host(&format!("c-{pop}"));
            let page = client.fetch(&format!("http://{address}/"))?;
            let page = page.with_context(|| format!("no page at {}", client.name()))?;
            lines.push(format!("{} -> http://{address}/: {}", client.name(), page.trim()));
            ensure!(page == "nyc-t2\n", "the page is not nyc-t2's");
        }
        join.leave()?;
    }
    Ok(())
}

/// The ingress itself answers echo requests.
pub(super) fn ping(lab: &Lab, lines: &mut Vec<String>) -> anyhow::Result<()> {
    for pop in POPS {
        for address in DNS {
            let time = lab.host(&format!("c-{pop}")).ping(address)?;
            let time = time.with_context(|| format!("{address} does not answer c-{pop}"))?;
            lines.push(format!("c-{pop} -> {address}: {:.1} ms", time.as_secs_f64() * 1000.0));
        }
    }
    Ok(())
}

/// A reset and a port-unreachable instead of silence.
pub(super) fn empty_group(lab: &Lab, lines: &mut Vec<String>) -> anyhow::Result<()> {
    let client = lab.host("c-nyc");
    for (what, words) in [
        ("TCP", ["curl", "-sS", "--max-time", "2", "http://203.0.113.99/"].as_slice()),
        ("UDP", &["dig", "+tries=1", "+time=2", "@203.0.113.99", "whoami", "TXT"]),
    ] {
        let output = client.run(words)?;
        let text = format!("{}{}", output.stdout, output.stderr).to_lowercase();
        lines.push(format!("{what}: refused after {} ms", output.took.as_millis()));
        ensure!(
            text.contains("refused") || text.contains("couldn't connect"),
            "{what} to an empty group was not refused: {text}"
        );
        ensure!(output.took < Duration::from_secs(2), "the refusal of {what} came too late");
    }
    Ok(())
}
