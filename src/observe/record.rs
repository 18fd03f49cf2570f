//! A log line on its way from where it is said to where it is written.

use std::fmt;

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// One log line, with the fields that the journal knows (there in upper case).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    pub(super) at: Timestamp,
    pub(super) level: Level,
    pub(super) fields: Fields,
}

/// The fields of a log line. A field that is not listed here is not written.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Fields {
    pub(super) message: String,
    pub(super) tunnel: Option<String>,
    pub(super) tunnel_hash: Option<String>,
    pub(super) port: Option<u64>,
    pub(super) state: Option<String>,
    pub(super) event: Option<String>,
    pub(super) error_kind: Option<String>,
    pub(super) holder_pid: Option<u64>,
    pub(super) duration_ms: Option<f64>,
}

impl Record {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut fields = Fields::default();
        event.record(&mut fields);
        Self { at: Timestamp::now(), level: *event.metadata().level(), fields }
    }

    /// `TIMESTAMP LEVEL message`.
    pub(super) fn line(&self) -> String {
        format!("{:.3} {:5} {}", self.at, self.level, self.fields.message)
    }
}

impl Fields {
    fn put_text(&mut self, field: &Field, text: String) {
        match field.name() {
            "message" => self.message = text,
            "tunnel" => self.tunnel = Some(text),
            "tunnel_hash" => self.tunnel_hash = Some(text),
            "state" => self.state = Some(text),
            "event" => self.event = Some(text),
            "error_kind" => self.error_kind = Some(text),
            _ => {}
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "duration_ms" {
            self.duration_ms = Some(value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "port" => self.port = Some(value),
            "holder_pid" => self.holder_pid = Some(value),
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_text(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_text(field, format!("{value:?}"));
    }
}
