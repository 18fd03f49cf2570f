//! Where log lines go: the recent lines of each tunnel, and, through a bounded queue, the journal or standard error.
//!
//! Whoever logs never waits: a stalled journal or a full pipe fills the queue, and what does not fit is dropped, counted
//! and reported.

use std::env;
use std::io;
use std::os::linux::fs::MetadataExt;
use std::sync::Arc;

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;

use super::recent::RecentLogs;
use super::record::Record;
use super::writer::{Queue, Sink, Writer};

/// Chooses what is logged, in the syntax of tracing-subscriber's `EnvFilter`, such as `debug` or `portward::port=trace`.
pub const LEVEL_VARIABLE: &str = "PORTWARD_LOG";

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogMode {
    /// To the journal if standard error leads there, else as text.
    #[default]
    Auto,
    /// To the journal, with native fields.
    Journal,
    /// To standard error, for people.
    Text,
    /// To standard error, one JSON object a line.
    Json,
}

/// Log lines have nowhere to go.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The journal's socket cannot be reached.
    #[error("cannot reach the journal at /run/systemd/journal/socket: {0}; use --log text or --log json")]
    Journal(#[source] io::Error),
    /// The level cannot be read.
    #[error("PORTWARD_LOG: {0}; write a level such as `info` or `debug`")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// The thread that writes cannot be started.
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(#[source] io::Error),
    /// Something else in this process has set up logging.
    #[error("logging is set up already: {0}")]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Starts logging for the whole process. Dropping the writer writes what is queued, for a second at most.
pub fn start(mode: LogMode, recent: Arc<RecentLogs>) -> Result<Writer, LogError> {
    let level = EnvFilter::try_new(env::var(LEVEL_VARIABLE).as_deref().unwrap_or("info"))?;
    let sink = match mode {
        LogMode::Journal => Sink::journal().map_err(LogError::Journal)?,
        LogMode::Auto if stderr_is_the_journal() => Sink::journal().map_err(LogError::Journal)?,
        LogMode::Auto | LogMode::Text => Sink::text(),
        LogMode::Json => Sink::json(),
    };
    let (queue, writer) = Writer::start(sink).map_err(LogError::Thread)?;
    tracing::subscriber::set_global_default(
        Registry::default().with(Collector { recent, queue }.with_filter(level)),
    )?;
    Ok(writer)
}

/// systemd sets JOURNAL_STREAM to the device and inode of the stream that it connects to standard error; a child that
/// was redirected since then inherits the variable, but not the stream (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stderr.st_dev(), stderr.st_ino())
}

/// Takes each event in, and goes on.
struct Collector {
    recent: Arc<RecentLogs>,
    queue: Queue,
}

impl<S: Subscriber> Layer<S> for Collector {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let record = Record::of(event);
        if let Some(hash) = &record.fields.tunnel_hash {
            self.recent.push(hash, record.at, record.line());
        }
        self.queue.put(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::writer::Item;

    #[test]
    fn a_tunnels_line_is_kept_under_its_hash_and_queued_with_its_fields() {
        let recent = Arc::new(RecentLogs::default());
        let (queue, received) = Queue::new();
        let subscriber = Registry::default().with(Collector { recent: recent.clone(), queue });
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(
                tunnel = "db",
                tunnel_hash = "abc",
                port = 5432_u16,
                duration_ms = 1.5,
                "port {} is held",
                1
            );
            tracing::info!("of no tunnel");
        });
        let line = recent.last("abc", 10).pop().unwrap();
        assert!(line.ends_with("WARN port 1 is held"), "{line}");
        let mut fields = || match received.recv().unwrap() {
            Item::Line(record) => record.fields,
            Item::Wake => panic!("nobody wakes"),
        };
        let record = fields();
        assert_eq!(
            (record.tunnel.as_deref(), record.port, record.duration_ms),
            (Some("db"), Some(5432), Some(1.5))
        );
        assert_eq!(fields().message, "of no tunnel");
    }
}
