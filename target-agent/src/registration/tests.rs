//! A registration from its first connection to its end, without a network.

use pias_protocol::{
    agent::{Draining, Joined, Refused, Welcome},
    ids::TargetId,
};

use super::*;
use crate::{health::CheckState, target::Target};

const START: Time = Time::ZERO;

fn ms(milliseconds: u64) -> Time {
    START + Duration::from_millis(milliseconds)
}

fn route() -> IpAddr {
    "10.0.0.2".parse().unwrap()
}

fn registration(groups: &[&str]) -> Registration {
    let member = |group: &&str| {
        let spec =
            MemberSpec { group: group.parse().unwrap(), target: Target::default(), weight: 1 };
        (spec, Health { application: true, check: CheckState::Absent })
    };
    Registration::new(groups.iter().map(member).collect(), false, 1, START)
}

fn one() -> Registration {
    registration(&["203.0.113.10:53/udp"])
}

fn commands(registration: &mut Registration) -> Vec<Command> {
    std::iter::from_fn(|| registration.poll_command()).collect()
}

fn kinds(registration: &mut Registration) -> Vec<EventKind> {
    std::iter::from_fn(|| registration.poll_event()).map(|event| event.kind).collect()
}

fn welcome(proxy: &str) -> JapMessage {
    Welcome { proxy: proxy.into(), cluster: "fra".into() }.into()
}

fn granted() -> JapMessage {
    Joined { request: 0, lease: TargetId(1), keep_alive_ms: 60_000, lease_ms: 5_000 }.into()
}

/// Brings connection `id` up to a membership through `proxy`.
fn join(registration: &mut Registration, id: ConnectionId, proxy: &str, now: Time) {
    registration.handle_connected(id, route(), now);
    registration.handle_message(id, welcome(proxy), now);
    registration.handle_message(id, granted(), now);
}

fn rejoins(registration: &mut Registration) -> Vec<Duration> {
    let kinds = kinds(registration).into_iter();
    let after = kinds.filter_map(|kind| match kind {
        EventKind::Rejoining { after, .. } => Some(after),
        _ => None,
    });
    after.collect()
}

#[test]
fn the_first_loss_is_answered_at_once_and_a_flapping_proxy_is_not() {
    let mut registration = one();
    join(&mut registration, 1, "fra1", ms(10));
    registration.handle_lost(1, "reset", ms(20));
    assert_eq!(rejoins(&mut registration), [Duration::ZERO]);
    let connect = Command::Connect { id: 2, within: REJOIN_TIMEOUT };
    assert_eq!(commands(&mut registration).last(), Some(&connect));
    join(&mut registration, 2, "fra2", ms(30));
    registration.handle_lost(2, "reset", ms(40));
    let wait = rejoins(&mut registration)[0];
    assert!(wait >= BACKOFF_MIN / 2, "{wait:?}");
    assert_eq!(registration.deadline(), Some(ms(40) + wait));
    registration.handle_timeout(ms(40) + wait);
    // After a while of peace, a loss is worth an immediate answer again.
    join(&mut registration, 3, "fra2", ms(1_000));
    registration.handle_lost(3, "reset", ms(1_000) + STABLE_AFTER);
    assert_eq!(rejoins(&mut registration), [Duration::ZERO]);
}

#[test]
fn an_agent_that_is_reset_joins_anew_within_half_a_second_but_not_with_all_others() {
    let mut registration = one();
    join(&mut registration, 1, "fra1", ms(10));
    commands(&mut registration);
    registration.handle_reset(1, "reset", ms(20));
    let due = registration.deadline().expect("an attempt is due");
    assert!(due > ms(20) && due < ms(20) + RESET_SPREAD, "{due:?}");
    registration.handle_timeout(due);
    let again = [Command::Connect { id: 2, within: REJOIN_TIMEOUT }];
    assert_eq!(commands(&mut registration), again);
}

#[test]
fn attempts_go_on_for_ever_with_longer_waits() {
    let mut registration = one();
    let mut now = START;
    for id in 1..100 {
        registration.handle_lost(id, "no answer", now);
        now = registration.deadline().expect("another attempt");
        registration.handle_timeout(now);
        assert_eq!(registration.end(), None);
    }
    let last = *rejoins(&mut registration).last().unwrap();
    assert!(last >= BACKOFF_MAX / 2 && last <= BACKOFF_MAX, "{last:?}");
}

#[test]
fn nothing_is_due_while_a_connection_is_being_made() {
    let mut registration = one();
    assert_eq!(registration.deadline(), None);
    join(&mut registration, 1, "fra1", ms(10));
    let refused = |registration: &mut Registration, now| {
        let (code, reason) = (RefusalCode::Full, String::new());
        registration.handle_message(1, Refused { request: 0, code, reason }.into(), now);
    };
    registration.handle_lost(1, "reset", ms(20));
    refused(&mut registration, ms(21));
    assert_eq!(registration.deadline(), None, "a lost connection's words are not heard");
}

#[test]
fn a_member_that_was_welcome_once_is_asked_for_again_whatever_the_refusal() {
    let mut registration = one();
    join(&mut registration, 1, "fra1", ms(10));
    registration.handle_lost(1, "reset", ms(20));
    registration.handle_connected(2, route(), ms(30));
    registration.handle_message(2, welcome("fra2"), ms(30));
    let (code, reason) = (RefusalCode::NotAnycast, "no".to_owned());
    registration.handle_message(2, Refused { request: 0, code, reason }.into(), ms(31));
    assert_eq!(registration.end(), None);
    commands(&mut registration);
    let due = registration.deadline().unwrap();
    registration.handle_timeout(due);
    let asked = commands(&mut registration);
    assert!(matches!(asked[..], [Command::Send(2, AgentMessage::Join(_))]), "{asked:?}");
}

#[test]
fn a_handover_that_fails_leaves_the_membership_with_the_draining_proxy() {
    let mut registration = one();
    join(&mut registration, 1, "fra1", ms(10));
    registration.handle_message(1, Draining { closes_in_ms: 5_000 }.into(), ms(20));
    // The next proxy is lost before it has granted anything.
    registration.handle_connected(2, route(), ms(30));
    registration.handle_lost(2, "reset", ms(40));
    let seen = kinds(&mut registration);
    assert!(!seen.iter().any(|kind| matches!(kind, EventKind::Lost { .. })), "{seen:?}");
    registration.handle_timeout(registration.deadline().unwrap());
    join(&mut registration, 3, "fra2", ms(600));
    let done = commands(&mut registration);
    let left = Command::Send(1, pias_protocol::agent::Leave { lease: TargetId(1) }.into());
    assert!(done.ends_with(&[left, Command::Close(1)]), "{done:?}");
    registration.handle_lost(1, "closed", ms(700));
    let seen = kinds(&mut registration);
    assert!(!seen.iter().any(|kind| matches!(kind, EventKind::Lost { .. })), "{seen:?}");
}

#[test]
fn a_check_without_a_result_joins_as_down_and_says_nothing() {
    let spec = MemberSpec {
        group: "203.0.113.10:53/udp".parse().unwrap(),
        target: Target::default(),
        weight: 1,
    };
    let health = |check| Health { application: true, check };
    let members = vec![(spec, health(CheckState::Unknown))];
    let mut registration = Registration::new(members, false, 1, START);
    registration.handle_connected(1, route(), ms(10));
    let asked = commands(&mut registration);
    let Some(Command::Send(1, AgentMessage::Join(join))) = asked.last() else { panic!() };
    assert!(!join.healthy);
    assert_eq!(kinds(&mut registration), []);
    registration.set_health(0, health(CheckState::Up), ms(20));
    let up = EventKind::TargetUp { by: Observer::Agent };
    assert_eq!(kinds(&mut registration), std::slice::from_ref(&up));
    registration.set_health(0, health(CheckState::Up), ms(30));
    assert_eq!(kinds(&mut registration), [], "told once");
}

#[test]
fn leaving_ends_every_membership_and_connection() {
    let mut registration = one();
    join(&mut registration, 1, "fra1", ms(10));
    kinds(&mut registration);
    commands(&mut registration);
    registration.leave();
    assert_eq!(registration.end(), Some(End::Left));
    assert_eq!(kinds(&mut registration), [EventKind::Left]);
    let done = commands(&mut registration);
    assert!(matches!(done[..], [Command::Send(1, AgentMessage::Leave(_)), Command::Close(1)]));
}
