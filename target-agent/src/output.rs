//! How `pias-join` prints events: a line for people, or an object for programs.

use std::time::Duration;

use pias_protocol::agent::RefusalCode;
use serde_json::{Value, json};

use crate::event::{Event, EventKind, Observer};

/// Where a line belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// The event as a line for people. Refusals belong to standard error.
#[must_use]
pub fn text(event: &Event) -> (Stream, String) {
    let group = event.group;
    let line = match &event.kind {
        EventKind::Joined { proxy, cluster, rtt, lease } => format!(
            "joined {group} through {proxy} (cluster {cluster}), rtt {:.1} ms, lease {}",
            milliseconds(*rtt),
            seconds(*lease)
        ),
        EventKind::Refused { code, reason, retry_in } => {
            let next = retry_in
                .map_or_else(String::new, |wait| format!(", asking again in {}", seconds(wait)));
            return (
                Stream::Err,
                format!("refused {group}: {reason} ({}){next}", code_name(*code)),
            );
        }
        EventKind::Lost { reason } => format!("lost {group}: {reason}"),
        EventKind::Rejoining { after, reason } if after.is_zero() => {
            format!("rejoining {group} at once: {reason}")
        }
        EventKind::Rejoining { after, reason } => {
            format!("rejoining {group} in {}: {reason}", seconds(*after))
        }
        EventKind::TargetDown { by, reason } => {
            format!("target down {}, seen by the {}: {reason}", target_of(event), observer(*by))
        }
        EventKind::TargetUp { by } => {
            format!("target up {}, seen by the {}", target_of(event), observer(*by))
        }
        EventKind::Draining { closes_in } => {
            format!("draining {group}: the proxy closes in {}", seconds(*closes_in))
        }
        EventKind::Left => format!("left {group}"),
    };
    (Stream::Out, line)
}

/// The event as one JSON object, all events with `event`, `group` and `target`.
#[must_use]
pub fn json(event: &Event) -> String {
    let (name, fields) = match &event.kind {
        EventKind::Joined { proxy, cluster, rtt, lease } => (
            "joined",
            json!({
                "proxy": proxy, "cluster": cluster, "rtt_ms": milliseconds(*rtt),
                "lease_ms": whole(*lease),
            }),
        ),
        EventKind::Refused { code, reason, retry_in } => (
            "refused",
            json!({
                "code": code_name(*code), "reason": reason, "retry_ms": retry_in.map(whole),
            }),
        ),
        EventKind::Lost { reason } => ("lost", json!({ "reason": reason })),
        EventKind::Rejoining { after, reason } => {
            ("rejoining", json!({ "after_ms": whole(*after), "reason": reason }))
        }
        EventKind::TargetDown { by, reason } => {
            ("target-down", json!({ "by": observer(*by), "reason": reason }))
        }
        EventKind::TargetUp { by } => ("target-up", json!({ "by": observer(*by) })),
        EventKind::Draining { closes_in } => {
            ("draining", json!({ "closes_in_ms": whole(*closes_in) }))
        }
        EventKind::Left => ("left", json!({})),
    };
    let mut object =
        json!({ "event": name, "group": event.group.to_string(), "target": event.target });
    if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
        object.extend(fields);
    }
    object.to_string()
}

/// The name of a refusal's code, for programs.
#[must_use]
pub const fn code_name(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::NotAnycast => "not-anycast",
        RefusalCode::Family => "family",
        RefusalCode::TargetAddress => "target-address",
        RefusalCode::ReservedPort => "reserved-port",
        RefusalCode::Full => "full",
    }
}

const fn observer(by: Observer) -> &'static str {
    match by {
        Observer::Agent => "agent",
        Observer::Proxy => "proxy",
    }
}

fn target_of(event: &Event) -> String {
    match event.target {
        Some(target) => format!("{target} of {}", event.group),
        None => format!("of {}", event.group),
    }
}

fn seconds(duration: Duration) -> String {
    let text = format!("{:.2}", duration.as_secs_f64());
    format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Milliseconds with microsecond precision.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

fn whole(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind) -> Event {
        let group = "203.0.113.10:53/udp".parse().unwrap();
        Event { group, target: Some("10.0.0.2:53".parse().unwrap()), kind }
    }

    fn joined() -> Event {
        event(EventKind::Joined {
            proxy: "fra1".into(),
            cluster: "fra".into(),
            rtt: Duration::from_micros(800),
            lease: Duration::from_secs(5),
        })
    }

    #[test]
    fn a_join_is_one_line() {
        let line = "joined 203.0.113.10:53/udp through fra1 (cluster fra), rtt 0.8 ms, lease 5 s";
        assert_eq!(text(&joined()), (Stream::Out, line.to_owned()));
    }

    #[test]
    fn a_join_is_one_object() {
        let object: Value = serde_json::from_str(&json(&joined())).unwrap();
        let expected = json!({
            "event": "joined", "group": "203.0.113.10:53/udp", "target": "10.0.0.2:53",
            "proxy": "fra1", "cluster": "fra", "rtt_ms": 0.8, "lease_ms": 5000,
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn a_refusal_goes_to_standard_error_and_says_when_it_asks_again() {
        let (code, reason) = (RefusalCode::Full, "256 targets".to_owned());
        let retry_in = Some(Duration::from_millis(150));
        let (stream, line) = text(&event(EventKind::Refused { code, reason, retry_in }));
        assert_eq!(stream, Stream::Err);
        assert_eq!(line, "refused 203.0.113.10:53/udp: 256 targets (full), asking again in 0.15 s");
    }

    #[test]
    fn every_event_names_itself_and_its_group() {
        let (by, reason) = (Observer::Agent, "x".to_owned());
        let kinds = [
            EventKind::Lost { reason: reason.clone() },
            EventKind::Rejoining { after: Duration::ZERO, reason: reason.clone() },
            EventKind::Rejoining { after: Duration::from_secs(1), reason: reason.clone() },
            EventKind::TargetDown { by, reason },
            EventKind::TargetUp { by },
            EventKind::Draining { closes_in: Duration::from_secs(3) },
            EventKind::Left,
        ];
        for kind in kinds {
            let event = event(kind);
            let object: Value = serde_json::from_str(&json(&event)).unwrap();
            let name = object["event"].as_str().unwrap().replace('-', " ");
            let (_, line) = text(&event);
            assert!(line.starts_with(&name) && line.contains("203.0.113.10:53/udp"), "{line}");
        }
    }
}
