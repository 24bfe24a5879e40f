//! Table 1, a target dies: new flows go to another target within a second, and
//! established flows are reset, so that their clients know at once.
//!
//! What new flows see is in `targets`; here are the established ones.

use std::time::Duration;

use pias_lab::{Lab, Signal};

use crate::machine::scenario;
use crate::stage::{Stage, anycast, join, leave};
use crate::watch::{ECHO_PORT, Seen, Watch, kill_echo, serve, start_echo, watch_while};

const SECOND: Duration = Duration::from_secs(1);

const MILLISECOND: Duration = Duration::from_millis(1);

const CONNECTIONS: usize = 50;

/// Two targets in Frankfurt; something happens to `fra-t1`, and is mended.
fn target(
    number: u8,
    fault: &str,
    after: Duration,
    break_it: impl FnOnce(&Lab),
    mend_it: impl FnOnce(&Lab),
) -> Option<Seen> {
    let lab = Stage::shared()?;
    let joins = ["fra-t1", "fra-t2"].map(|target| serve(&lab, target, number));
    let watch = Watch::start(&lab, "c-fra", number, CONNECTIONS);
    let seen = watch_while([watch], after, || break_it(&lab)).remove(0);
    seen.print("target", fault);
    mend_it(&lab);
    joins.into_iter().for_each(leave);
    Some(seen)
}

#[test]
fn clients_of_a_killed_server_know_at_once() {
    scenario(|| {
        let seen = target(170, "server killed", 3 * SECOND, |lab| kill_echo(lab, "fra-t1"), |_| {});
        let Some(seen) = seen else { return };
        seen.told_within(SECOND);
        seen.served_after(SECOND);
    });
}

#[test]
fn connections_of_an_unplugged_target_are_reset_as_soon_as_its_silence_is_noticed() {
    scenario(|| {
        let seen = target(
            171,
            "link cut",
            6 * SECOND,
            |lab| lab.cut_link("fra-t1").expect("a link"),
            |lab| lab.restore_link("fra-t1").expect("a link"),
        );
        let Some(seen) = seen else { return };
        seen.told_within(4 * SECOND);
        seen.served_after(SECOND);
    });
}

#[test]
fn a_server_that_hangs_loses_its_new_flows_to_the_other_target_and_keeps_its_connections() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let [address, _] = anycast(172);
        // A datagram that nobody refuses says nothing of a hung service, so the agent
        // asks it a question, as an operator would let it.
        let ask = "exec:timeout 0.25 dig +tries=1 @10.1.11.2 whoami TXT";
        let pace = ["--check", ask, "--check-interval", "250ms", "--fall", "2", "--rise", "1"];
        let checked = lab.host("fra-t1").join(&format!("{address}:53/udp"), &pace).expect("a join");
        checked.wait_resolvable().expect("the RAPs are told");
        let other = serve(&lab, "fra-t2", 172);
        start_echo(&lab, "fra-t1");
        let echo = join(&lab, "fra-t1", &address, &format!("{ECHO_PORT}/tcp"));
        let watch = Watch::start(&lab, "c-fra", 172, CONNECTIONS);
        let seen = watch_while([watch], 7 * SECOND, || {
            lab.host("fra-t1").freeze(&["nsd", "echo-all"], 5 * SECOND).expect("both run");
        })
        .remove(0);
        seen.print("target", "SIGSTOP 5 s of its servers");
        leave([checked, echo]);
        leave(other);
        seen.survived(6 * SECOND);
        seen.served_after(1500 * MILLISECOND);
    });
}

#[test]
fn connections_outlive_a_target_link_that_loses_30_percent_or_are_reset() {
    scenario(|| {
        let seen = target(
            173,
            "link with 30 % loss for 5 s",
            8 * SECOND,
            |lab| lab.lose_frames("fra-t1", 30, 5 * SECOND).expect("a link"),
            |_| {},
        );
        let Some(seen) = seen else { return };
        // Two unanswered pings in a row are an agent's death, and at this loss they may happen.
        seen.survived_or_told();
        seen.served_after(7 * SECOND);
    });
}

#[test]
fn connections_of_a_killed_agent_are_reset_when_its_lease_ends() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let joins = ["fra-t1", "fra-t2"].map(|target| serve(&lab, target, 174));
        let watch = Watch::start(&lab, "c-fra", 174, CONNECTIONS);
        let seen = watch_while([watch], 8 * SECOND, || {
            for join in &joins[0] {
                lab.host("fra-t1").kill(join.process(), Signal::SIGKILL).expect("the agent runs");
            }
        })
        .remove(0);
        seen.print("target", "agent killed");
        let [_, others] = joins;
        leave(others);
        seen.told_within(4 * SECOND);
        seen.served_after(SECOND);
    });
}
