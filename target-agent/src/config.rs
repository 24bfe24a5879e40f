//! The configuration file of `pias-join`: several groups, each with its own check.
//!
//! ```toml
//! ca = "/etc/pias/ca.pem"
//!
//! [[group]]
//! address  = "203.0.113.10:53"           # both protocols; or .../tcp, .../udp
//! to       = "10.0.0.2:53"               # optional: ADDRESS:PORT, ADDRESS or :PORT
//! weight   = 1                           # optional
//! check    = "http://127.0.0.1:8080/up"  # optional
//! interval = "1s"                        # of the check, as the four below
//! timeout  = "1s"
//! rise     = 2
//! fall     = 3
//! ```

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};
use std::str::FromStr;

use crate::{
    check::{Check, CheckTiming},
    group::Group,
    target::Target,
};

/// What the file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The operator's certificate authority (PEM).
    pub ca: Option<PathBuf>,
    #[serde(default, rename = "group", deserialize_with = "groups")]
    groups: Vec<Group>,
}

/// Why a file is no configuration; the text shows the line.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ConfigError(#[from] toml::de::Error);

impl Config {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// Names the line, and what is wrong in it.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Ok(toml::from_str(text)?)
    }

    /// The groups, in the file's order.
    #[must_use]
    pub fn into_groups(self) -> Vec<Group> {
        self.groups
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(deserialize_with = "parsed")]
    address: Group,
    #[serde(default, deserialize_with = "parsed")]
    to: Target,
    weight: Option<u32>,
    #[serde(default, deserialize_with = "maybe_parsed")]
    check: Option<Check>,
    #[serde(default, with = "humantime_serde::option")]
    interval: Option<Duration>,
    #[serde(default, with = "humantime_serde::option")]
    timeout: Option<Duration>,
    rise: Option<u32>,
    fall: Option<u32>,
}

impl Entry {
    fn into_group(self) -> Group {
        let default = CheckTiming::default();
        let timing = CheckTiming {
            interval: self.interval.unwrap_or(default.interval),
            timeout: self.timeout.unwrap_or(default.timeout),
            rise: self.rise.unwrap_or(default.rise),
            fall: self.fall.unwrap_or(default.fall),
        };
        let group = self.address.to(self.to).weight(self.weight.unwrap_or(1)).timing(timing);
        match self.check {
            Some(check) => group.check(check),
            None => group,
        }
    }
}

/// Validates each group while its place in the file is still known.
fn groups<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Group>, D::Error> {
    struct Valid(Group);
    impl<'de> Deserialize<'de> for Valid {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let group = Entry::deserialize(deserializer)?.into_group();
            group.validate().map_err(D::Error::custom)?;
            Ok(Self(group))
        }
    }
    let valid = Vec::<Valid>::deserialize(deserializer)?;
    Ok(valid.into_iter().map(|Valid(group)| group).collect())
}

fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: std::fmt::Display>,
{
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

fn maybe_parsed<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: std::fmt::Display>,
{
    parsed(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_groups_with_their_checks() {
        let text = r#"
            ca = "/etc/pias/ca.pem"
            [[group]]
            address = "203.0.113.10:53"
            [[group]]
            address = "203.0.113.10:80/tcp"
            to = ":8080"
            weight = 10
            check = "http://127.0.0.1:8080/up"
            interval = "500ms"
            fall = 1
        "#;
        let config = Config::parse(text).unwrap();
        assert_eq!(config.ca.as_deref(), Some(std::path::Path::new("/etc/pias/ca.pem")));
        let timing =
            CheckTiming { interval: Duration::from_millis(500), fall: 1, ..CheckTiming::default() };
        let plain: Group = "203.0.113.10:53".parse().unwrap();
        let full = "203.0.113.10:80/tcp".parse::<Group>().unwrap();
        let full = full.to(":8080".parse::<Target>().unwrap()).weight(10).timing(timing);
        let full = full.check("http://127.0.0.1:8080/up".parse().unwrap());
        assert_eq!(config.into_groups(), [plain, full]);
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        let cases = [
            ("port = 1", "line 2", "unknown field `port`"),
            ("to = \"10.0.0.2:0\"", "line 2", "not a target"),
            ("check = \"ping\"", "line 2", "not a check"),
            ("interval = \"soon\"", "line 2", ""),
            ("weight = -1", "line 2", ""),
            ("address = \"203.0.113.10:53\"", "line 2", "duplicate key"),
            ("weight = 0", "line 0", "weight 0"),
            ("to = \"2001:db8::1\"", "line 0", "different address families"),
        ];
        for (line, place, what) in cases {
            let place = place.replace("line 2", "line 4").replace("line 0", "line 2");
            let text = format!("# the file\n[[group]]\naddress = \"203.0.113.10:53\"\n{line}\n");
            let error = Config::parse(&text).unwrap_err().to_string();
            assert!(error.contains(&place) && error.contains(what), "{line}: {error}");
        }
    }
}
