//! Where records end: the journal, or a stream of text or JSON lines.

use std::fmt::Write as _;
use std::io::{self, Write};

use owo_colors::{OwoColorize, Style};
use tracing::{Level, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::SubscriberExt;

use super::record::Record;
use crate::text;

/// What `journalctl -t` and `SYSLOG_IDENTIFIER` call us.
const IDENTIFIER: &str = "portward";

/// Fields that a text line does not repeat: its message says them in words.
const SAID_IN_WORDS: [&str; 6] = ["message", "tunnel", "tunnel_hash", "port", "state", "event"];

/// The place where records are written. A line that cannot be written is lost: there is nowhere left to say so.
pub(super) trait Sink {
    /// Writes one record; waits as long as the reader takes.
    fn write(&mut self, record: &Record);
}

/// The journal, by its native protocol: each field of a record becomes a field of the entry.
pub(super) struct JournalSink(Box<dyn Subscriber>);

impl JournalSink {
    /// Connects to the journal.
    pub(super) fn open() -> io::Result<Self> {
        let priorities = PriorityMappings {
            error: Priority::Error,
            warn: Priority::Warning,
            info: Priority::Informational,
            debug: Priority::Debug,
            trace: Priority::Debug,
        };
        let journal = tracing_journald::layer()?
            .with_field_prefix(None)
            .with_syslog_identifier(IDENTIFIER.to_owned())
            .with_priority_mappings(priorities);
        Ok(Self(Box::new(tracing_subscriber::registry().with(journal))))
    }
}

impl Sink for JournalSink {
    fn write(&mut self, record: &Record) {
        record.replay(|event| self.0.event(event));
    }
}

/// How a record looks as a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// `TIMESTAMP LEVEL tunnel: message field=value`, the level in its colour.
    Text { colored: bool },
    /// One flat object.
    Json,
}

/// A stream of lines.
pub(super) struct StreamSink<W> {
    stream: W,
    format: Format,
}

impl<W: Write + 'static> StreamSink<W> {
    /// Lines of `format` on `stream`.
    pub(super) fn boxed(stream: W, format: Format) -> Box<dyn Sink> {
        Box::new(Self { stream, format })
    }
}

impl<W: Write> Sink for StreamSink<W> {
    fn write(&mut self, record: &Record) {
        let mut line = match self.format {
            Format::Text { colored } => text_line(record, colored),
            Format::Json => text::json(&serde_json::to_string(record).unwrap_or_default()),
        };
        line.push('\n');
        // In one piece, so that lines of other writers do not get in between.
        let _ = self.stream.write_all(line.as_bytes());
    }
}

fn text_line(record: &Record, colored: bool) -> String {
    let level = record.level();
    let style = if colored { style(level) } else { Style::new() };
    let mut line = format!("{:.3} {:>5} ", record.at, level.as_str().style(style));
    // Writing to a string does not fail.
    if let Some(tunnel) = record.text("tunnel") {
        let _ = write!(line, "{}: ", text::line(tunnel));
    }
    for (index, part) in record.message().split('\n').enumerate() {
        // Indented, so that no text can pass for a line of its own.
        let _ = write!(line, "{}{}", if index > 0 { "\n    " } else { "" }, text::line(part));
    }
    for (name, value) in record.fields().filter(|(name, _)| !SAID_IN_WORDS.contains(name)) {
        let _ = write!(line, " {name}={value}");
    }
    line
}

fn style(level: Level) -> Style {
    match level {
        Level::ERROR => Style::new().red().bold(),
        Level::WARN => Style::new().yellow(),
        Level::INFO => Style::new().green(),
        Level::DEBUG | Level::TRACE => Style::new().dimmed(),
    }
}
