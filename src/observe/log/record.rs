//! A `tracing` event that owns its values, so that another thread can write it later.

use std::fmt;

use jiff::Timestamp;
use serde::ser::{Serialize, SerializeMap, Serializer};
use tracing::callsite::{DefaultCallsite, Identifier};
use tracing::field::{Field, FieldSet, Visit};
use tracing::metadata::Kind;
use tracing::{Event, Level, Metadata};

/// `tracing`'s macros take no more fields than this.
const MAX_FIELDS: usize = 32;

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

    /// Hands the same event to `each` again, its message beginning with the name of its tunnel: in the journal lines of all
    /// tunnels stand together.
    pub(super) fn replay(&self, each: impl FnOnce(&Event<'_>)) {
        let Some((first, _)) = self.values.first() else { return };
        // The length of this array is part of its type: the rest of it stays without values.
        let mut values: [(&Field, Option<&dyn tracing::Value>); MAX_FIELDS] = [(first, None); MAX_FIELDS];
        let named = self.text("tunnel").map(|tunnel| format!("{tunnel}: {}", self.message()));
        for (slot, (field, value)) in values.iter_mut().zip(&self.values) {
            *slot = match &named {
                Some(named) if field.name() == "message" => (field, Some(named)),
                _ => (field, Some(value.as_tracing())),
            };
        }
        let values = self.metadata.fields().value_set(&values);
        each(&Event::new(self.metadata, &values));
    }
}

/// The line that says that `count` lines are missing.
pub(super) fn lines_dropped(count: u64) -> Record {
    static CALLSITE: DefaultCallsite = DefaultCallsite::new(&METADATA);
    static METADATA: Metadata<'static> = Metadata::new(
        "lines dropped",
        "portward::observe::log",
        Level::WARN,
        None,
        None,
        None,
        FieldSet::new(&["message"], Identifier(&CALLSITE)),
        Kind::EVENT,
    );
    let message = format!("{count} log lines were dropped: the log was not read fast enough");
    let values = METADATA.fields().field("message").map(|field| (field, Value::Text(message)));
    Record { at: Timestamp::now(), metadata: &METADATA, values: values.into_iter().collect() }
}

/// Text that is safe on a terminal and stays on its line: what comes from servers and programs may hold anything.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for character in self.0.chars() {
            if character.is_control() {
                write!(formatter, "{}", character.escape_default())?;
            } else {
                formatter.write_char(character)?;
            }
        }
        Ok(())
    }
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
            Self::Text(text) => Escaped(text).fmt(formatter),
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
        self.add(field, Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::Text(value.to_owned()));
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
