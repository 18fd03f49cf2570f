//! The way of a log line: `tracing` event -> `Record` -> recent lines of its tunnel, and a bounded queue -> one thread that
//! writes to the journal or to standard error.
//!
//! Only that thread ever waits for a reader. When the journal stalls, or nobody empties the pipe behind standard error, the
//! queue fills up, what comes after is counted for each tunnel and dropped, and the counts are logged as soon as lines flow again.
//!
//! Texts stay as they are up to here, and are made safe where they leave: as JSON, or for a terminal.

mod collector;
mod queue;
mod record;
mod sink;

use std::env;
use std::io::{self, IsTerminal};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;

pub(crate) use record::OUTPUT;

use self::collector::Collector;
use self::queue::{Queue, Room};
use self::sink::{Format, JournalSink, Sink, StreamSink};
use super::recent::RecentLogs;

/// Chooses what is logged: `warn`, `debug`, `info,portward::port=trace`; `info` when unset or empty.
pub const FILTER_VARIABLE: &str = "PORTWARD_LOG";

/// Where the journal takes native entries.
pub(crate) const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// What waits for the writer at most: some seconds of tunnels that say a lot.
const ROOM: Room = Room { own: 1024 * 1024, tunnel: 256 * 1024, tunnels: 2 * 1024 * 1024 };

/// The end of the process waits this long for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Where log lines go (`--log`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogMode {
    /// The journal when standard error leads there, text otherwise
    #[default]
    Auto,
    /// The journal, with a field for each fact
    Journal,
    /// Lines for people on standard error
    Text,
    /// A JSON object per line on standard error
    Json,
}

/// Log lines cannot be written as asked for.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be understood.
    #[error(
        "{FILTER_VARIABLE}={text:?} is not a log filter: {source}; try `info`, or `info,portward::port=debug`"
    )]
    Filter {
        /// The filter as given.
        text: String,
        /// Why.
        source: ParseError,
    },
    /// `journal` was asked for where there is none.
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

/// While this lives, lines are logged. Dropped, it waits until those logged before are written, for two seconds at most.
#[derive(Debug)]
#[must_use = "dropped at once, it ends the log at once"]
pub struct LogGuard {
    queue: Arc<Queue>,
    /// Hangs up when the writer has written everything.
    writer_ended: Receiver<()>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.queue.close();
        // Either the writer is done, or nobody reads what it writes: then waiting longer would not help.
        let _ = self.writer_ended.recv_timeout(FLUSH_TIMEOUT);
    }
}

/// From now on, logs all `tracing` events of this process as `mode` says, and those that belong to a tunnel to `recent` as
/// well. Once in a process.
pub fn start(mode: LogMode, recent: Arc<RecentLogs>) -> Result<LogGuard, LogError> {
    let filter = filter(env::var(FILTER_VARIABLE).unwrap_or_default())?;
    let (collector, guard) = collect(recent, opener(mode)?)?;
    let subscriber = tracing_subscriber::registry().with(filter).with(collector);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadyStarted)?;
    Ok(guard)
}

fn filter(text: String) -> Result<EnvFilter, LogError> {
    let directives = if text.is_empty() { "info" } else { &text };
    EnvFilter::builder().parse(directives).map_err(|source| LogError::Filter { text, source })
}

/// What opens the place that `mode` asks for.
fn opener(mode: LogMode) -> Result<fn() -> Box<dyn Sink>, LogError> {
    Ok(match mode {
        LogMode::Auto if stderr_is_journal() && journal_answers().is_ok() => journal_or_text,
        LogMode::Journal => {
            journal_answers().map_err(|source| LogError::NoJournal { source })?;
            journal_or_text
        }
        LogMode::Auto | LogMode::Text => text_on_stderr,
        LogMode::Json => json_on_stderr,
    })
}

/// Whether standard error leads to the journal. systemd tells the device and inode of the stream that it set up; a
/// redirection since then has others (systemd.exec(5), `JOURNAL_STREAM`).
fn stderr_is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    nix::sys::stat::fstat(io::stderr())
        .is_ok_and(|stderr| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

/// Whether somebody listens on the journal's socket. Does not wait: a stalled journal still listens.
fn journal_answers() -> io::Result<()> {
    UnixDatagram::unbound()?.connect(JOURNAL_SOCKET)
}

/// The journal; text if it went away since it was found.
fn journal_or_text() -> Box<dyn Sink> {
    match JournalSink::open() {
        Ok(journal) => Box::new(journal),
        Err(_) => text_on_stderr(),
    }
}

fn text_on_stderr() -> Box<dyn Sink> {
    let colored = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    StreamSink::boxed(io::stderr(), Format::Text { colored })
}

fn json_on_stderr() -> Box<dyn Sink> {
    StreamSink::boxed(io::stderr(), Format::Json)
}

/// A collector of events, and the thread that writes them to the sink that `open` opens on it.
fn collect(
    recent: Arc<RecentLogs>,
    open: impl FnOnce() -> Box<dyn Sink> + Send + 'static,
) -> Result<(Collector, LogGuard), LogError> {
    let queue = Arc::new(Queue::new(ROOM));
    let (alive, writer_ended) = mpsc::channel();
    let records = Arc::clone(&queue);
    let write = move || {
        // Dropped when this thread ends, which is what the guard hears.
        let _alive = alive;
        write_all(&records, open().as_mut());
    };
    thread::Builder::new().name("log".to_owned()).spawn(write).map_err(LogError::Thread)?;
    Ok((Collector::new(Arc::clone(&queue), recent), LogGuard { queue, writer_ended }))
}

fn write_all(queue: &Queue, sink: &mut dyn Sink) {
    while let Some(batch) = queue.take() {
        for record in &batch.records {
            sink.write(record);
        }
        for (about, count) in batch.dropped {
            sink.write(&record::lines_dropped(about, count));
        }
    }
}

#[cfg(test)]
mod tests;
