//! The path of a log line: `tracing` event -> `Record` -> the recent lines of its tunnel, and a bounded queue -> one thread that
//! writes to the journal or to standard error.
//!
//! Only that thread ever blocks. When the journal stalls, or the pipe behind standard error is not read, the queue fills up.
//! Further lines are dropped and counted per tunnel, and so are lines that cannot be written. The counts are logged once lines
//! can be written again.
//!
//! Records hold texts unchanged. They are escaped where they leave the process: for the journal, for a terminal, or as JSON.

mod collector;
mod journal;
mod queue;
mod record;
mod sink;

use std::collections::BTreeMap;
use std::env;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;

pub(crate) use record::OUTPUT;

use self::collector::Collector;
use self::journal::JournalSink;
pub use self::queue::dropped;
use self::queue::{Queue, Room};
use self::sink::{Format, Sink, StreamSink};
use super::recent::RecentLogs;

/// Selects what is logged: `warn`, `debug`, `info,portward::port=trace`; `info` when unset or empty.
pub const FILTER_VARIABLE: &str = "PORTWARD_LOG";

/// The socket on which journald accepts native entries.
pub(crate) const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// Capacity of the queue: enough for some seconds of tunnels that write a lot.
const ROOM: Room = Room { own: 1024 * 1024, tunnel: 256 * 1024, tunnels: 2 * 1024 * 1024 };

/// How long the end of the process may wait for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Where log lines go (`--log`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogMode {
    /// The journal when standard error leads there, text otherwise
    #[default]
    Auto,
    /// The journal, with a field for each fact
    Journal,
    /// Plain text lines on standard error
    Text,
    /// A JSON object per line on standard error
    Json,
}

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not valid.
    #[error(
        "{FILTER_VARIABLE}={text:?} is not a log filter: {source}; try `info`, or `info,portward::port=debug`"
    )]
    Filter {
        /// The filter as given.
        text: String,
        /// Why.
        source: ParseError,
    },
    /// `journal` was requested, and there is none.
    #[error("cannot log to the journal at {JOURNAL_SOCKET}: {source}; without systemd, use `--log text`")]
    NoJournal {
        /// Why.
        source: io::Error,
    },
    /// The writer's thread could not be started.
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(io::Error),
    /// Logging was started before in this process.
    #[error("logging was already started in this process")]
    AlreadyStarted,
}

/// Keeps the log running. Dropping it waits until the lines logged before are written, for two seconds at most.
#[derive(Debug)]
#[must_use = "dropping it ends the log"]
pub struct LogGuard {
    queue: Arc<Queue>,
    /// Disconnected once the writer has written everything.
    writer_ended: Receiver<()>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.queue.close();
        // An error means that the writer has ended, or that nobody reads what it writes.
        let _ = self.writer_ended.recv_timeout(FLUSH_TIMEOUT);
    }
}

/// Starts logging the `tracing` events of this process to the destination of `mode`, and those that belong to a tunnel to
/// `recent` as well. Can be called once per process.
pub fn start(mode: LogMode, recent: Arc<RecentLogs>) -> Result<LogGuard, LogError> {
    let filter = filter(env::var(FILTER_VARIABLE).unwrap_or_default())?;
    let (collector, guard) = collect(recent, sink(mode)?)?;
    let subscriber = tracing_subscriber::registry().with(filter).with(collector);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadyStarted)?;
    Ok(guard)
}

fn filter(text: String) -> Result<EnvFilter, LogError> {
    let directives = if text.is_empty() { "info" } else { &text };
    EnvFilter::builder().parse(directives).map_err(|source| LogError::Filter { text, source })
}

/// The destination of `mode`.
fn sink(mode: LogMode) -> Result<Box<dyn Sink>, LogError> {
    let journal =
        || JournalSink::open(Path::new(JOURNAL_SOCKET)).map(|journal| Box::new(journal) as Box<dyn Sink>);
    Ok(match mode {
        LogMode::Auto if stderr_is_journal() => journal().unwrap_or_else(|_| text_on_stderr()),
        LogMode::Journal => journal().map_err(|source| LogError::NoJournal { source })?,
        LogMode::Auto | LogMode::Text => text_on_stderr(),
        LogMode::Json => StreamSink::boxed(io::stderr(), Format::Json),
    })
}

/// Whether standard error is connected to the journal. systemd passes the device and inode of the stream that it set up; after
/// a redirection they differ (systemd.exec(5), `JOURNAL_STREAM`).
fn stderr_is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    nix::sys::stat::fstat(io::stderr())
        .is_ok_and(|stderr| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

fn text_on_stderr() -> Box<dyn Sink> {
    let colored = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    StreamSink::boxed(io::stderr(), Format::Text { colored })
}

/// A collector of events, and the thread that writes them to `sink`.
fn collect(recent: Arc<RecentLogs>, mut sink: Box<dyn Sink>) -> Result<(Collector, LogGuard), LogError> {
    let queue = Arc::new(Queue::new(ROOM));
    let (alive, writer_ended) = mpsc::channel();
    let records = Arc::clone(&queue);
    let write = move || {
        // Dropped when this thread ends, which disconnects the guard's receiver.
        let _alive = alive;
        write_all(&records, sink.as_mut());
    };
    thread::Builder::new().name("log".to_owned()).spawn(write).map_err(LogError::Thread)?;
    Ok((Collector::new(Arc::clone(&queue), recent), LogGuard { queue, writer_ended }))
}

fn write_all(queue: &Queue, sink: &mut dyn Sink) {
    // Lines that were dropped or could not be written, as long as that could not be reported.
    let mut lost = BTreeMap::new();
    while let Some(batch) = queue.take() {
        for record in &batch.records {
            if sink.write(record).is_err() {
                *lost.entry(record.about()).or_default() += 1;
            }
        }
        for (about, count) in batch.dropped {
            *lost.entry(about).or_default() += count;
        }
        lost.retain(|about, count| sink.write(&record::lines_dropped(about, *count)).is_err());
    }
}

#[cfg(test)]
mod tests;
