//! A `tracing` event that owns its values, so that another thread can write it later.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use serde::ser::{Serialize, SerializeMap, Serializer};
use tracing::callsite::{DefaultCallsite, Identifier};
use tracing::field::{Field, FieldSet, Visit};
use tracing::metadata::Kind;
use tracing::{Event, Level, Metadata};

use crate::text;

/// The `event` of a line that the process of a tunnel has said; all other lines are portward's own.
pub(crate) const OUTPUT: &str = "output";

/// `tracing`'s macros take no more fields than this.
const MAX_FIELDS: usize = 32;

/// A longer text is cut here. The longest is the list of a configuration's errors.
const LONGEST_TEXT: usize = 64 * 1024;

/// Bytes that a record takes beside its texts, roughly.
const RECORD_SIZE: usize = 512;

/// One log line with its fields.
#[derive(Debug)]
pub(super) struct Record {
    /// When it was logged.
    pub(super) at: Timestamp,
    metadata: &'static Metadata<'static>,
    values: Vec<(Field, Value)>,
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct About {
    hash: String,
    name: String,
}

impl Record {
    /// Takes over what `event` says.
    pub(super) fn of(event: &Event<'_>, at: Timestamp) -> Self {
        let mut values = Values(Vec::new());
        event.record(&mut values);
        Self { at, metadata: event.metadata(), values: values.0 }
    }

    /// How bad it is.
    pub(super) fn level(&self) -> Level {
        *self.metadata.level()
    }

    /// The text for people.
    pub(super) fn message(&self) -> &str {
        self.text("message").unwrap_or_default()
    }

    /// The text in the field `name`.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.fields().find_map(|(field, value)| match value {
            Value::Text(text) if field == name => Some(text.as_str()),
            _ => None,
        })
    }

    /// All fields that have a value, the message included.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.values.iter().map(|(field, value)| (field.name(), value))
    }

    /// The bytes that it takes in memory, roughly.
    pub(super) fn size(&self) -> usize {
        let texts =
            self.fields().map(|(_, value)| if let Value::Text(text) = value { text.len() } else { 0 });
        RECORD_SIZE + texts.sum::<usize>()
    }

    /// The hash of the tunnel whose process has said this; `None` for a line of portward's own.
    pub(super) fn output_of(&self) -> Option<&str> {
        self.text("tunnel_hash").filter(|_| self.text("event") == Some(OUTPUT))
    }

    /// The tunnel that this is about.
    pub(super) fn about(&self) -> About {
        let text = |name| self.text(name).unwrap_or_default().to_owned();
        About { hash: text("tunnel_hash"), name: text("tunnel") }
    }

    /// Hands the same event to `each` again, its texts made safe and its message beginning with the name of its tunnel: in the
    /// journal lines of all tunnels stand together.
    pub(super) fn replay(&self, each: impl FnOnce(&Event<'_>)) {
        let Some((first, _)) = self.values.first() else { return };
        let texts: Vec<Option<Cow<'_, str>>> = self
            .values
            .iter()
            .map(|(field, value)| {
                let Value::Text(told) = value else { return None };
                Some(match (field.name(), self.text("tunnel")) {
                    ("message", Some(tunnel)) => {
                        format!("{}: {}", text::line(tunnel), text::lines(told)).into()
                    }
                    ("message", None) => text::lines(told),
                    _ => text::line(told),
                })
            })
            .collect();
        let texts: Vec<Option<&str>> = texts.iter().map(Option::as_deref).collect();
        // The length of this array is part of its type: the rest of it stays without values.
        let mut values: [(&Field, Option<&dyn tracing::Value>); MAX_FIELDS] = [(first, None); MAX_FIELDS];
        for ((slot, (field, value)), text) in values.iter_mut().zip(&self.values).zip(&texts) {
            *slot = match text {
                Some(text) => (field, Some(text)),
                None => (field, Some(value.as_tracing())),
            };
        }
        let values = self.metadata.fields().value_set(&values);
        each(&Event::new(self.metadata, &values));
    }
}

/// The line that says that `count` lines about this tunnel are missing.
pub(super) fn lines_dropped(about: About, count: u64) -> Record {
    static CALLSITE: DefaultCallsite = DefaultCallsite::new(&METADATA);
    static METADATA: Metadata<'static> = Metadata::new(
        "lines dropped",
        "portward::observe::log",
        Level::WARN,
        None,
        None,
        None,
        FieldSet::new(&["message", "tunnel", "tunnel_hash", "event", "dropped"], Identifier(&CALLSITE)),
        Kind::EVENT,
    );
    let message = format!("{count} log lines were dropped: the log was not read fast enough");
    let of_tunnel = |text: String| (!text.is_empty()).then_some(Value::Text(text));
    let told = [
        ("message", Some(Value::Text(message))),
        ("tunnel", of_tunnel(about.name)),
        ("tunnel_hash", of_tunnel(about.hash)),
        ("event", Some(Value::Text("log_dropped".to_owned()))),
        ("dropped", Some(Value::Unsigned(count))),
    ];
    let values = told.into_iter().filter_map(|(name, value)| Some((METADATA.fields().field(name)?, value?)));
    Record { at: Timestamp::now(), metadata: &METADATA, values: values.collect() }
}

impl Serialize for Record {
    /// A flat object: `timestamp`, `level`, `target`, then the event's own fields.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("timestamp", &format!("{:.6}", self.at))?;
        object.serialize_entry("level", self.level().as_str())?;
        object.serialize_entry("target", self.metadata.target())?;
        for (name, value) in self.fields() {
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
            Self::Float(number) => number.fmt(formatter),
            Self::Boolean(truth) => truth.fmt(formatter),
        }
    }
}

impl Value {
    fn as_tracing(&self) -> &dyn tracing::Value {
        match self {
            Self::Text(text) => text,
            Self::Signed(number) => number,
            Self::Unsigned(number) => number,
            Self::Float(number) => number,
            Self::Boolean(truth) => truth,
        }
    }
}

/// Collects the values of an event.
struct Values(Vec<(Field, Value)>);

impl Values {
    fn add(&mut self, field: &Field, value: Value) {
        self.0.push((field.clone(), value));
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
