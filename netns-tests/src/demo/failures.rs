//! The steps that break something and measure how long it hurts.

use std::time::Duration;

use anyhow::{Context, ensure};
use pias_lab::{
    Host, Join, Lab, Questions, Signal, Transport, bracketed, clock, wait_for, wait_until,
};

use super::DNS;

/// How long new flows are watched after something broke.
const WATCH: Duration = Duration::from_secs(3);

/// Breaks something while a client asks the DNS service 50 times a second,
/// each time as a new flow; returns for how long new flows failed, and those
/// asked since.
fn outage(
    client: &Host<'_>,
    break_it: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<(Duration, Questions)> {
    let stream = client.ask_steadily(&format!("{}:53", DNS[0]), &[])?;
    let broken = clock();
    break_it()?;
    stream.watch_until(broken + WATCH)?;
    let questions = stream.stop()?.since(broken);
    Ok((questions.outage(broken), questions))
}

/// "4 of 150 questions unanswered, the last new flow failed after 60 ms; ...".
fn describe(outage: Duration, questions: &Questions) -> String {
    format!(
        "new flows failed for {} ms; {} of {} questions unanswered {:?}; answers by {:?}",
        outage.as_millis(),
        questions.asked() - questions.answered(),
        questions.asked(),
        questions.failures(),
        questions.by_target()
    )
}

/// Frankfurt's server dies; Frankfurt's client is answered by another POP.
pub(super) fn kill_server(lab: &Lab, lines: &mut Vec<String>) -> anyhow::Result<()> {
    let server = lab.host("fra-t1");
    let (outage, questions) =
        outage(&lab.host("c-fra"), || Ok(server.kill("nsd", Signal::SIGKILL)?))?;
    lines.push(describe(outage, &questions));
    ensure!(outage < Duration::from_secs(1), "new flows failed for more than a second");
    server.restart("nsd")?;
    Ok(())
}

/// Singapore's JAP dies; its target is taken by another proxy, and Singapore's
/// client is answered.
pub(super) fn kill_join_proxy(
    lab: &Lab,
    joins: &[Join<'_>],
    lines: &mut Vec<String>,
) -> anyhow::Result<()> {
    let join = joins.iter().find(|join| join.host().name() == "sin-t1");
    let join = join.context("sin-t1 has joined")?;
    let before = join.joins();
    let proxy = before.last().context("a join")?.proxy.clone();
    let mut again = (Duration::ZERO, String::new());
    let (outage, questions) = outage(&lab.host("c-sin"), || {
        let killed = clock();
        lab.host(&proxy).kill("piasd", Signal::SIGKILL)?;
        let joined = join.wait_rejoined(Duration::from_secs(10), before.len())?;
        let through = joined.last().context("a join")?.proxy.clone();
        again = (clock().saturating_sub(killed), through);
        Ok(())
    })?;
    lines.push(format!(
        "{proxy} killed; joined through {} {} ms later",
        again.1,
        again.0.as_millis()
    ));
    lines.push(describe(outage, &questions));
    ensure!(outage < Duration::from_secs(2), "new flows failed for more than two seconds");
    restart_proxy(lab, &proxy)
}

/// Starts a killed proxy again and waits until it serves.
fn restart_proxy(lab: &Lab, proxy: &str) -> anyhow::Result<()> {
    let host = lab.host(proxy);
    host.restart("piasd")?;
    wait_until(Duration::from_secs(20), format!("{proxy} to be ready again"), || {
        host.piasctl(&["status"]).is_ok_and(|status| status["ready"] == true)
    })?;
    Ok(())
}

/// A download from Singapore to Frankfurt, whose ingress in Frankfurt dies.
pub(super) fn kill_ingress(lab: &Lab, lines: &mut Vec<String>) -> anyhow::Result<()> {
    let (server, client) = (lab.host("sin-t2"), lab.host("c-fra"));
    let file = lab.state().join("hosts/sin-t2/www/file").display().to_string();
    let make = format!("head -c 8000000 /dev/urandom > {file} && sha256sum {file} | cut -c1-64");
    let expected = server.ok(&["sh", "-c", &make])?;
    let address = bracketed("203.0.113.81");
    let join = server.join(&format!("{address}:80/tcp"), &[])?;
    join.wait_resolvable()?;
    let fetch = format!(
        "curl -sS --limit-rate 1M --max-time 40 http://{address}/files/file | sha256sum | cut -c1-64"
    );
    let process = format!("download-{}", clock().as_millis());
    client.spawn(&process, &["sh", "-c", &fetch])?;
    let (ingress, _) = wait_for(Duration::from_secs(5), "the download's ingress", || {
        ["fra1", "fra2"].into_iter().find(|proxy| has_ingress_flow(lab, proxy, "203.0.113.81:80"))
    })?;
    lab.host(ingress).kill("piasd", Signal::SIGKILL)?;
    wait_until(Duration::from_secs(45), "the download to end", || !client.runs(&process))?;
    let got = client.log(&process);
    ensure!(got == expected, "the download's hash is {got:?}, not {expected:?}");
    lines.push(format!(
        "{ingress} killed during a download of 8 MB; it ended whole, sha256 {}",
        got.trim()
    ));
    join.leave()?;
    restart_proxy(lab, ingress)?;
    let answer = client.ask_dns(DNS[0], Transport::Udp)?;
    answer.context("no answer after the restart").map(|_| ())
}

/// Whether a proxy says that it is the ingress of a flow of this group.
fn has_ingress_flow(lab: &Lab, proxy: &str, group: &str) -> bool {
    let flows = lab.host(proxy).piasctl(&["flows", group]).unwrap_or_default();
    let rows = flows["flows"].as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter().any(|flow| flow["role"].as_str() == Some("ingress"))
}
