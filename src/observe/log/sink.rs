//! Where records are written, and the stream of text or JSON lines.

use std::fmt::Write as _;
use std::io::{self, Write};

use owo_colors::{OwoColorize, Style};
use tracing::Level;

use super::record::Record;
use crate::text;

/// Fields that a text line does not repeat, because its message contains them.
const IN_MESSAGE: [&str; 6] = ["message", "tunnel", "tunnel_hash", "port", "state", "event"];

/// A destination of records.
pub(super) trait Sink: Send {
    /// Writes one record. Blocks until the reader has room for it. On an error the record is lost.
    fn write(&mut self, record: &Record) -> io::Result<()>;
}

/// The format of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// `TIMESTAMP LEVEL tunnel: message field=value`, with the level in colour if `colored`.
    Text { colored: bool },
    /// One flat object.
    Json,
}

/// A stream of lines.
pub(super) struct StreamSink<W> {
    stream: W,
    format: Format,
}

impl<W: Write + Send + 'static> StreamSink<W> {
    /// Lines of `format` on `stream`.
    pub(super) fn boxed(stream: W, format: Format) -> Box<dyn Sink> {
        Box::new(Self { stream, format })
    }
}

impl<W: Write + Send> Sink for StreamSink<W> {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        let mut line = match self.format {
            Format::Text { colored } => text_line(record, colored),
            Format::Json => text::json(&serde_json::to_string(record).unwrap_or_default()),
        };
        line.push('\n');
        // In one piece, so that lines of other writers are not mixed with it.
        self.stream.write_all(line.as_bytes())
    }
}

fn text_line(record: &Record, colored: bool) -> String {
    let level = record.level;
    let style = if colored { style(level) } else { Style::new() };
    let mut line = format!("{:.3} {:>5} ", record.at, level.as_str().style(style));
    // Writing to a string does not fail.
    if let Some(tunnel) = record.text("tunnel") {
        let _ = write!(line, "{}: ", text::line(tunnel));
    }
    for (index, part) in record.message().split('\n').enumerate() {
        // Indented, so that no text can be mistaken for a line of its own.
        let _ = write!(line, "{}{}", if index > 0 { "\n    " } else { "" }, text::line(part));
    }
    for (name, value) in record.values.iter().filter(|(name, _)| !IN_MESSAGE.contains(name)) {
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
