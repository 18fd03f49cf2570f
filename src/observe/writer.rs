//! The thread that writes log lines, and the bounded queue before it.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::thread;
use std::time::Duration;

use tracing::dispatcher::{self, Dispatch};
use tracing::{Level, event};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;

use super::record::{Fields, Record};

/// Lines that may wait: at some hundred bytes a line a few hundred KiB, and more than a burst of all tunnels at once.
const QUEUED: usize = 1024;

/// How long the end of the process waits for a sink that has stalled.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the lines end.
#[derive(Debug, Clone)]
pub(super) struct Sink {
    dispatch: Dispatch,
    /// A person reads the tunnel's name, and has no use for its hash.
    shows_hash: bool,
}

impl Sink {
    /// The journal, with native fields.
    pub(super) fn journal() -> io::Result<Self> {
        let layer =
            tracing_journald::layer()?.with_field_prefix(None).with_syslog_identifier("portward".to_owned());
        Ok(Self { dispatch: Registry::default().with(layer).into(), shows_hash: true })
    }

    /// Standard error, for people; in colour on a terminal.
    pub(super) fn text() -> Self {
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .with_target(false);
        Self { dispatch: Registry::default().with(layer).into(), shows_hash: false }
    }

    /// Standard error, one JSON object a line.
    pub(super) fn json() -> Self {
        let layer = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(io::stderr)
            .with_target(false);
        Self { dispatch: Registry::default().with(layer).into(), shows_hash: true }
    }

    /// Says the line again, this time to the library that writes it.
    fn write(&self, level: Level, fields: &Fields) {
        // A field without a value is left out; a level must be known when the line is compiled.
        macro_rules! say {
            ($level:expr) => {
                event!(
                    target: "portward",
                    $level,
                    tunnel = fields.tunnel.as_deref(),
                    tunnel_hash = fields.tunnel_hash.as_deref().filter(|_| self.shows_hash),
                    port = fields.port,
                    state = fields.state.as_deref(),
                    event = fields.event.as_deref(),
                    error_kind = fields.error_kind.as_deref(),
                    holder_pid = fields.holder_pid,
                    duration_ms = fields.duration_ms,
                    "{}",
                    fields.message
                )
            };
        }
        dispatcher::with_default(&self.dispatch, || match level {
            Level::ERROR => say!(Level::ERROR),
            Level::WARN => say!(Level::WARN),
            Level::INFO => say!(Level::INFO),
            Level::DEBUG => say!(Level::DEBUG),
            Level::TRACE => say!(Level::TRACE),
        });
    }
}

/// Takes lines without ever waiting.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    items: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
pub(super) enum Item {
    Line(Record),
    /// Look whether it is time to end.
    Wake,
}

impl Queue {
    pub(super) fn new() -> (Self, Receiver<Item>) {
        let (items, received) = mpsc::sync_channel(QUEUED);
        (Self { items, dropped: Arc::default() }, received)
    }

    /// Queues the line, or counts it as dropped.
    pub(super) fn put(&self, record: Record) {
        if self.items.try_send(Item::Line(record)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The thread that writes. Dropping this writes what is queued, and ends it.
#[derive(Debug)]
pub struct Writer {
    queue: Queue,
    ending: Arc<AtomicBool>,
    ended: Receiver<()>,
}

impl Writer {
    pub(super) fn start(sink: Sink) -> io::Result<(Queue, Self)> {
        let (queue, items) = Queue::new();
        let ending = Arc::new(AtomicBool::new(false));
        let (has_ended, ended) = mpsc::sync_channel(1);
        let thread = (queue.dropped.clone(), ending.clone());
        thread::Builder::new().name("portward-log".to_owned()).spawn(move || {
            let (dropped, ending) = thread;
            write_all(&items, &dropped, &ending, |level, fields| sink.write(level, fields));
            // If nobody waits any more, the process is at its end.
            let _ = has_ended.send(());
        })?;
        Ok((queue.clone(), Self { queue, ending, ended }))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        // A full queue needs no waking. What a stalled sink has not taken by then is lost.
        let _ = self.queue.items.try_send(Item::Wake);
        let _ = self.ended.recv_timeout(FLUSH_TIMEOUT);
    }
}

fn write_all(
    items: &Receiver<Item>,
    dropped: &AtomicU64,
    ending: &AtomicBool,
    mut write: impl FnMut(Level, &Fields),
) {
    loop {
        let item = match items.try_recv() {
            Err(TryRecvError::Empty) if !ending.load(Ordering::Acquire) => items.recv().ok(),
            item => item.ok(),
        };
        match item {
            Some(Item::Line(record)) => write(record.level, &record.fields),
            Some(Item::Wake) => {}
            None => return,
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let message =
                format!("{lost} log lines were dropped: they came faster than the log could be written");
            write(Level::WARN, &Fields { message, ..Fields::default() });
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn record(message: &str) -> Record {
        let fields = Fields { message: message.to_owned(), ..Fields::default() };
        Record { at: Timestamp::now(), level: Level::INFO, fields }
    }

    #[test]
    fn a_stalled_sink_costs_lines_and_no_waiting_and_says_how_many() {
        let (queue, items) = Queue::new();
        // Nobody reads: whoever logs goes on all the same.
        for number in 0..QUEUED + 7 {
            queue.put(record(&number.to_string()));
        }
        let mut written = Vec::new();
        write_all(&items, &queue.dropped, &AtomicBool::new(true), |_, fields| {
            written.push(fields.message.clone())
        });
        assert_eq!(written.len(), QUEUED + 1);
        assert!(written[1].starts_with("7 log lines were dropped"), "{}", written[1]);
        assert_eq!(written[QUEUED], (QUEUED - 1).to_string());
    }

    #[test]
    fn what_is_queued_is_written_before_the_end() {
        let (sender, written) = mpsc::channel();
        let (queue, items) = Queue::new();
        queue.put(record("last"));
        write_all(&items, &queue.dropped, &AtomicBool::new(true), |_, fields| {
            sender.send(fields.message.clone()).unwrap();
        });
        assert_eq!(written.recv().unwrap(), "last");
    }
}
