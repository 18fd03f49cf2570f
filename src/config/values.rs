//! Values of the configuration with a syntax of their own: ports, durations, ssh's options.

use std::fmt;
use std::time::Duration;

use jiff::fmt::friendly::SpanParser;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::diagnose::{Refusal, quote};
use super::located::{Field, Located};

/// Maximum of a duration. Longer ones are typing errors.
const LONGEST_PERIOD: Duration = Duration::from_secs(24 * 60 * 60);

/// A port or a range of ports, alone or after an address, or the path of a unix socket; kept as written, because the hash of
/// autossh-tunnel is computed from it.
#[derive(Debug, Clone, serde::Deserialize)]
pub(super) struct Port(pub(super) String);

impl JsonSchema for Port {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Port".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "port, range of ports or path of a unix socket", "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 65535 },
            { "type": "string", "pattern": "^((.+:)?[0-9]{1,5}(-[0-9]{1,5})?|~?/.+)$" },
        ] })
    }
}

/// The permission bits of a unix socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct SocketMode(pub(super) u32);

/// Connecting to a socket takes the permission to write to it.
const OWNER: u32 = 0o600;

impl<'de> Deserialize<'de> for SocketMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let is_octal =
            (3..=4).contains(&text.len()) && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
        let refusal = match mode {
            Some(mode) if mode & OWNER == OWNER => return Ok(Self(mode)),
            Some(_) => Refusal::new(format!("{} keeps the owner out", quote(&text))).hint(
                "portward's user must be able to read and write: write an octal string such as \"0600\" or \"0660\"",
            ),
            None => Refusal::new(format!("{} is not the mode of a socket", quote(&text))).hint(
                "write an octal string from \"0600\" to \"0777\", such as \"0660\" to let the group connect",
            ),
        };
        Err(D::Error::custom(refusal))
    }
}

impl JsonSchema for SocketMode {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SocketMode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^0?[67][0-7][0-7]$" })
    }
}

/// A duration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Period(pub(super) Duration);

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_period(&String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}

impl JsonSchema for Period {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Period".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": "duration",
            "type": "string",
            "pattern": "[0-9] *[a-zµ]",
            "examples": ["250ms", "10s", "5m", "1h"],
        })
    }
}

fn parse_period(text: &str) -> Result<Duration, Refusal> {
    if !text.is_empty() && text.bytes().all(|letter| letter.is_ascii_digit()) {
        return Err(
            Refusal::new(format!("{} has no unit", quote(text))).hint(format!("write {text}s for seconds"))
        );
    }
    let duration = SpanParser::new().parse_unsigned_duration(text).map_err(|_| {
        Refusal::new(format!("{} is not a duration", quote(text))).hint("write it as 250ms, 10s, 5m or 1h")
    })?;
    if duration > LONGEST_PERIOD {
        return Err(Refusal::new(format!("{} is too long", quote(text))).hint("24h is the most"));
    }
    Ok(duration)
}

/// How many times, from 1 on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count(pub(super) u32);

/// Maximum of a count. Larger ones are typing errors.
const LARGEST_COUNT: u32 = 1000;

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse() {
            Ok(count @ 1..=LARGEST_COUNT) => Ok(Self(count)),
            Ok(_) | Err(_) => Err(D::Error::custom(
                Refusal::new(format!("{} is not a number of times", quote(&text)))
                    .hint(format!("write a number from 1 to {LARGEST_COUNT}")),
            )),
        }
    }
}

impl JsonSchema for Count {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": LARGEST_COUNT })
    }
}

/// The value of a key that may also stand alone as a word: `health: connect` is `health: {connect: true}`. The word is yes, too.
#[derive(Debug, Clone, Copy)]
pub(super) struct Yes(pub(super) bool);

impl<'de> Deserialize<'de> for Yes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "true" | "True" | "TRUE" | "connect" => Ok(Self(true)),
            "false" | "False" | "FALSE" => Ok(Self(false)),
            _ => Err(D::Error::custom(
                Refusal::new(format!("expected true, found {}", quote(&text))).hint("write `connect: true`"),
            )),
        }
    }
}

impl JsonSchema for Yes {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Yes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "const": true })
    }
}

/// The entries of a mapping whose keys are the user's, in the order of the file.
pub(super) type Pairs = Vec<(Located<String>, Field<String>)>;

/// Reads a mapping whose keys are the user's.
pub(super) fn pairs<'de, D: Deserializer<'de>>(
    deserializer: D,
    expected: &'static str,
) -> Result<Pairs, D::Error> {
    struct PairsVisitor(&'static str);

    impl<'de> Visitor<'de> for PairsVisitor {
        type Value = Pairs;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(self.0)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }

    deserializer.deserialize_map(PairsVisitor(expected))
}

/// `ssh.options`, in the order of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Options(pub(super) Pairs);

impl<'de> Deserialize<'de> for Options {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        pairs(deserializer, "a mapping of option names to values").map(Self)
    }
}

impl JsonSchema for Options {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Options".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": { "pattern": "^[A-Za-z0-9]+$" },
            "additionalProperties": { "type": ["string", "integer", "boolean"] },
        })
    }
}
