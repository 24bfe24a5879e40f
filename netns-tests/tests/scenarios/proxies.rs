//! Proxies die, stop and start, under their clients' eyes.

use std::time::Duration;

use pias_lab::{Heard, Host, Lab, Signal, clock, wait_for, wait_until};

use crate::machine::scenario;
use crate::stage::{Stage, anycast, join, join_both, leave, mate, service, since};

/// Time for routing to notice what happened to a proxy.
const ROUTING_LIMIT: Duration = Duration::from_secs(5);

/// To how many proxies a POP's router spreads the IPv4 anycast prefix.
fn announced(lab: &Lab, pop: &str) -> usize {
    let words = ["ip", "-4", "route", "show", "203.0.113.0/24"];
    lab.host(pop).ok(&words).expect("ip").matches(" via ").count()
}

/// Starts piasd again, and waits until it is announced; how long that took.
fn start_again(lab: &Lab, proxy: &str) -> Duration {
    lab.host(proxy).restart("piasd").expect("piasd starts again");
    lab.wait_proxies().expect("it is announced again")
}

#[test]
fn the_targets_of_a_killed_join_proxy_are_back_through_another_within_two_seconds() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let [address, _] = anycast(50);
        let join = join(&lab, "fra-t1", &address, "53/udp");
        let jap = join.joins().pop().expect("a join").proxy;
        // From afar, so that no client of the dead proxy is among them.
        let stream = lab.host("c-nyc").ask_steadily(&service(&address, 53), &[]).expect("a client");

        let event = clock();
        lab.host(&jap).kill("piasd", Signal::SIGKILL).expect("piasd runs");
        let joins = join.wait_rejoined(Duration::from_secs(5), 1).expect("it joins again");
        println!("join proxy {jap} killed: joined again after about {:.0?}", since(event));
        assert_eq!(joins[1].proxy, mate(&jap));
        let lost: Vec<_> =
            join.events().into_iter().filter(|event| event["event"] == "lost").collect();
        let reason = lost.first().map(|event| event["reason"].to_string()).unwrap_or_default();
        assert!(reason.contains("reset"), "lost by stateless reset: {lost:?}");

        stream.watch_until(event + Duration::from_secs(4)).expect("the client goes on");
        let after = stream.stop().expect("the client ends").since(event);
        println!(
            "  the last failed flow began after {:.0?}; {:?}",
            after.outage(event),
            after.failures()
        );
        assert!(after.outage(event) < Duration::from_secs(2), "{:?}", after.failures());

        println!("  piasd started again: announced after {:.1?}", start_again(&lab, &jap));
        leave([join]);
    });
}

/// The proxy that a client's connection to `service` enters at.
fn ingress_of(lab: &Lab, pop: &str, client: &str, group: &str) -> String {
    let address = lab.host(client).status().expect("a host").addresses[0].clone();
    let client = address.split('/').next().unwrap_or_default().to_owned() + ":";
    let enters_at = |proxy: &String| {
        let flows = lab.host(proxy).piasctl(&["flows", group]).expect("piasctl");
        flows["flows"].as_array().into_iter().flatten().any(|flow| {
            flow["role"] == "ingress"
                && flow["client"].as_str().is_some_and(|from| from.starts_with(&client))
        })
    };
    let look = || [format!("{pop}1"), format!("{pop}2")].into_iter().find(enters_at);
    wait_for(Duration::from_secs(5), format!("an ingress of {group}"), look).expect("a flow").0
}

/// What a conversation has heard since a moment.
fn heard(host: &Host<'_>, process: &str, since: Duration) -> Vec<Heard> {
    let log = host.log(process);
    let words = log.lines().filter_map(|line| serde_json::from_str::<Heard>(line).ok());
    words.filter(|word| word.said_ms + word.took_ms >= since.as_secs_f64() * 1e3).collect()
}

/// Keeps a TCP connection from Frankfurt to New York busy, breaks its ingress
/// proxy, and asserts that it goes on; mends it then.
fn converse_while(
    number: u8,
    what: &str,
    break_it: impl FnOnce(&Lab, &str),
    mend_it: impl FnOnce(&Lab, &str),
) {
    let Some(lab) = Stage::shared() else { return };
    let [address, _] = anycast(number);
    let group = format!("{address}:7000/tcp");
    let echo = format!("echo-{number}");
    lab.host("nyc-t1").spawn(&echo, &["pias-lab", "tool", "echo", "7000"]).expect("a server");
    let join = join(&lab, "nyc-t1", &address, "7000/tcp");
    let client = lab.host("c-fra");
    let talk = format!("talk-{number}");
    let words = ["pias-lab", "tool", "converse", &service(&address, 7000)];
    client.spawn(&talk, &words).expect("a client");
    wait_until(Duration::from_secs(5), "the first words", || {
        heard(&client, &talk, Duration::ZERO).len() >= 3
    })
    .expect("the service answers");

    let ingress = ingress_of(&lab, "fra", "c-fra", &group);
    let event = clock();
    break_it(&lab, &ingress);
    let goes_on = wait_until(Duration::from_secs(15), "ten words more", || {
        heard(&client, &talk, event).len() >= 10
    });
    assert!(goes_on.is_ok(), "{what}: {}", client.log(&talk).lines().last().unwrap_or_default());
    let longest = heard(&client, &talk, event).iter().map(|word| word.took_ms).fold(0.0, f64::max);
    println!("{what} ({ingress}): the connection goes on, its longest pause was {longest:.0} ms");
    assert!(client.runs(&talk));
    // Routing takes about a second; the rest is TCP's own backoff.
    assert!(longest < 5000.0, "{longest} ms");

    client.kill(&talk, Signal::SIGKILL).expect("the conversation runs");
    mend_it(&lab, &ingress);
    leave([join]);
    lab.host("nyc-t1").kill(&echo, Signal::SIGKILL).expect("the server runs");
}

#[test]
fn a_tcp_connection_survives_the_death_of_its_ingress_proxys_daemon() {
    scenario(|| {
        converse_while(
            51,
            "ingress proxy's daemon killed",
            |lab, ingress| lab.host(ingress).kill("piasd", Signal::SIGKILL).expect("piasd runs"),
            |lab, ingress| {
                start_again(lab, ingress);
            },
        );
    });
}

#[test]
fn a_tcp_connection_survives_the_loss_of_its_ingress_proxys_host() {
    scenario(|| {
        converse_while(
            52,
            "ingress proxy's host unplugged",
            |lab, ingress| lab.cut_link(ingress).expect("a link"),
            |lab, ingress| {
                lab.restore_link(ingress).expect("a link");
                lab.wait_proxies().expect("it is announced again");
            },
        );
    });
}

#[test]
fn a_drained_proxy_moves_its_targets_and_stops_without_a_lost_query() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let [address, _] = anycast(53);
        let join = join(&lab, "fra-t1", &address, "53/udp");
        let jap = join.joins().pop().expect("a join").proxy;
        let streams = ["c-fra", "c-nyc"].map(|client| {
            lab.host(client).ask_steadily(&service(&address, 53), &[]).expect("a client")
        });

        let event = clock();
        lab.host(&jap).kill("piasd", Signal::SIGTERM).expect("piasd runs");
        let withdrawn =
            wait_until(ROUTING_LIMIT, "the route to be withdrawn", || announced(&lab, "fra") == 1);
        let withdrawn = withdrawn.expect("the route is withdrawn");
        let joins = join.wait_rejoined(Duration::from_secs(5), 1).expect("the target moves");
        assert_eq!(joins[1].proxy, mate(&jap));
        let moved = since(event);
        assert!(lab.host(&jap).runs("piasd"), "the target moves before the proxy stops");
        wait_until(Duration::from_secs(15), "piasd to stop", || !lab.host(&jap).runs("piasd"))
            .expect("it stops");
        let stopped = clock();
        let ended = lab.host(&jap).process("piasd").expect("a host").and_then(|piasd| piasd.ended);
        assert_eq!(ended.as_deref(), Some("exit status: 0"));
        for stream in streams {
            stream.watch_until(stopped + Duration::from_secs(1)).expect("the client goes on");
            let questions = stream.stop().expect("the client ends").since(event);
            println!(
                "drain of {jap}: {} queries, failed: {:?}; withdrawn after {withdrawn:.0?}, target \
             moved after {moved:.0?}, stopped after {:.1?}",
                questions.asked(),
                questions.failures(),
                stopped.saturating_sub(event),
            );
            assert_eq!(questions.answered(), questions.asked(), "{:?}", questions.failures());
        }
        start_again(&lab, &jap);
        leave([join]);
    });
}

#[test]
fn a_proxy_is_announced_while_it_is_ready_and_not_otherwise() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let proxy = lab.host("sin2");
        let routed = || {
            proxy
                .ok(&["ip", "route", "show", "203.0.113.0/24", "dev", "pias0"])
                .is_ok_and(|routes| !routes.is_empty())
        };
        assert_eq!(announced(&lab, "sin"), 2);
        assert!(routed());

        proxy.kill("piasd", Signal::SIGKILL).expect("piasd runs");
        let gone =
            wait_until(ROUTING_LIMIT, "the route to be withdrawn", || announced(&lab, "sin") == 1);
        println!("piasd killed: withdrawn after {:.0?}", gone.expect("the route is withdrawn"));

        proxy.restart("piasd").expect("piasd starts again");
        let (mut early, mut ready) = (0, false);
        let started = clock();
        wait_until(Duration::from_secs(10), "piasd to be ready", || {
            // The route is looked at first: readiness comes before it and stays.
            let route = routed();
            ready = proxy.piasctl(&["status"]).is_ok_and(|status| status["ready"] == true);
            early += usize::from(route && !ready);
            ready
        })
        .expect("it is ready");
        assert_eq!(early, 0, "never a route before it is ready");
        println!("piasd started again: ready after {:.0?}", since(started));
        lab.wait_proxies().expect("it is announced again");
        println!("  and announced after {:.0?}", since(started));

        let joins = join_both(&lab, "sin-t1", 54, "53/udp");
        for address in anycast(54) {
            let answer =
                lab.host("c-sin").ask_dns(&address, pias_lab::Transport::Udp).expect("dig");
            assert_eq!(answer.map(|answer| answer.target).as_deref(), Some("sin-t1"));
        }
        leave(joins);
    });
}
