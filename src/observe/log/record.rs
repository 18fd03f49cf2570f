//! A `tracing` event that owns its values, so that the writer's thread can use it later.

use std::fmt;

use jiff::Timestamp;
use serde::ser::{Serialize, SerializeMap, Serializer};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use crate::text;

/// The `event` of a line that a tunnel's process wrote. All other lines are portward's own.
pub(crate) const OUTPUT: &str = "output";

/// Longer texts are truncated. The longest is the list of errors of a configuration.
const LONGEST_TEXT: usize = 64 * 1024;

/// Approximate size of a record in bytes, without its texts.
const RECORD_SIZE: usize = 512;

/// One log line with its fields.
#[derive(Debug)]
pub(super) struct Record {
    /// When it was logged.
    pub(super) at: Timestamp,
    /// Its severity.
    pub(super) level: Level,
    /// The module that logged it, unless the event names another target.
    pub(super) target: &'static str,
    /// File and line in the source.
    pub(super) location: Option<(&'static str, u32)>,
    /// The fields that have a value, the message included.
    pub(super) values: Vec<(&'static str, Value)>,
}

/// The value of a field.
#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Boolean(bool),
}

/// The tunnel that a line is about; empty for a line about no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct About {
    hash: String,
    name: String,
}

impl Record {
    /// Copies the values of `event`.
    pub(super) fn of(event: &Event<'_>, at: Timestamp) -> Self {
        let mut values = Values(Vec::new());
        event.record(&mut values);
        let metadata = event.metadata();
        Self {
            at,
            level: *metadata.level(),
            target: metadata.target(),
            location: metadata.file().zip(metadata.line()),
            values: values.0,
        }
    }

    /// The message.
    pub(super) fn message(&self) -> &str {
        self.text("message").unwrap_or_default()
    }

    /// The text in the field `name`.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.values.iter().find_map(|(field, value)| match value {
            Value::Text(text) if *field == name => Some(text.as_str()),
            _ => None,
        })
    }

    /// Its approximate size in memory, in bytes.
    pub(super) fn size(&self) -> usize {
        let texts =
            self.values.iter().map(|(_, value)| if let Value::Text(text) = value { text.len() } else { 0 });
        RECORD_SIZE + texts.sum::<usize>()
    }

    /// The hash of the tunnel whose process wrote this line; `None` for portward's own lines.
    pub(super) fn output_of(&self) -> Option<&str> {
        self.text("tunnel_hash").filter(|_| self.text("event") == Some(OUTPUT))
    }

    /// The tunnel that this is about.
    pub(super) fn about(&self) -> About {
        let text = |name| self.text(name).unwrap_or_default().to_owned();
        About { hash: text("tunnel_hash"), name: text("tunnel") }
    }
}

/// The line that says that `count` lines about this tunnel are missing.
pub(super) fn lines_dropped(about: &About, count: u64) -> Record {
    let message = format!("{count} log lines were dropped: the log was not read fast enough");
    let of_tunnel = |text: &str| (!text.is_empty()).then(|| Value::Text(text.to_owned()));
    let values = [
        ("message", Some(Value::Text(message))),
        ("tunnel", of_tunnel(&about.name)),
        ("tunnel_hash", of_tunnel(&about.hash)),
        ("event", Some(Value::Text("log_dropped".to_owned()))),
        ("dropped", Some(Value::Unsigned(count))),
    ];
    let values = values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    Record {
        at: Timestamp::now(),
        level: Level::WARN,
        target: "portward::observe::log",
        location: None,
        values,
    }
}

impl Serialize for Record {
    /// A flat object: `timestamp`, `level`, `target`, then the event's own fields.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("timestamp", &format!("{:.6}", self.at))?;
        object.serialize_entry("level", self.level.as_str())?;
        object.serialize_entry("target", self.target)?;
        for (name, value) in &self.values {
            object.serialize_entry(name, value)?;
        }
        object.end()
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Signed(number) => serializer.serialize_i64(*number),
            Self::Unsigned(number) => serializer.serialize_u64(*number),
            Self::Float(number) => serializer.serialize_f64(*number),
            Self::Boolean(truth) => serializer.serialize_bool(*truth),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => text::line(text).fmt(formatter),
            Self::Signed(number) => number.fmt(formatter),
            Self::Unsigned(number) => number.fmt(formatter),
            // 12.0 stays 12.0, as in JSON.
            Self::Float(number) => write!(formatter, "{number:?}"),
            Self::Boolean(truth) => truth.fmt(formatter),
        }
    }
}

/// Collects the values of an event.
struct Values(Vec<(&'static str, Value)>);

impl Values {
    fn add(&mut self, field: &Field, value: Value) {
        self.0.push((field.name(), value));
    }
}

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Value::Text(text::cut(format!("{value:?}"), LONGEST_TEXT)));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::Text(text::cut(value.to_owned(), LONGEST_TEXT)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::Unsigned(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Value::Float(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::Boolean(value));
    }
}
