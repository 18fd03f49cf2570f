//! The last log lines of each tunnel, for `GET /logs` and `portward logs`.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use tokio::sync::broadcast;

/// Lines kept for each tunnel.
pub const LINES_KEPT: usize = 1000;

/// One line of a tunnel's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// The tunnel's hash.
    pub hash: String,
    /// `TIMESTAMP LEVEL message`, without a line end.
    pub text: String,
}

/// The last [`LINES_KEPT`] lines of each tunnel, by hash.
#[derive(Debug)]
pub struct RecentLogs {
    lines: Mutex<HashMap<String, Lines>>,
    follow: broadcast::Sender<LogLine>,
}

#[derive(Debug, Default)]
struct Lines {
    texts: VecDeque<String>,
    /// Sum of the lengths, with line ends.
    bytes: usize,
    /// Time of the last line.
    modified: jiff::Timestamp,
}

/// What `GET /logs` tells of one tunnel's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSummary {
    /// Bytes kept, with line ends.
    pub bytes: usize,
    /// Time of the last line.
    pub modified: jiff::Timestamp,
}

impl Default for RecentLogs {
    fn default() -> Self {
        Self { lines: Mutex::default(), follow: broadcast::Sender::new(256) }
    }
}

impl RecentLogs {
    /// Appends a line to the log of the tunnel `hash` and tells the followers.
    pub fn push(&self, hash: &str, at: jiff::Timestamp, text: String) {
        let mut all = self.lock();
        let lines = all.entry(hash.to_owned()).or_default();
        lines.bytes += text.len() + 1;
        lines.modified = at;
        lines.texts.push_back(text.clone());
        if lines.texts.len() > LINES_KEPT {
            lines.bytes -= lines.texts.pop_front().map_or(0, |gone| gone.len() + 1);
        }
        // Under the lock, so that `tail` misses no line and repeats none. Nobody following is not an error.
        let _ = self.follow.send(LogLine { hash: hash.to_owned(), text });
    }

    /// The last `count` lines of the tunnel `hash`, oldest first.
    pub fn last(&self, hash: &str, count: usize) -> Vec<String> {
        last(&self.lock(), hash, count)
    }

    /// Size and time of the log of the tunnel `hash`; `None` if it has said nothing yet.
    pub fn summary(&self, hash: &str) -> Option<LogSummary> {
        self.lock().get(hash).map(|lines| LogSummary { bytes: lines.bytes, modified: lines.modified })
    }

    /// The last `count` lines of the tunnel `hash`, and the lines of all tunnels that come after them.
    pub fn tail(&self, hash: &str, count: usize) -> (Vec<String>, broadcast::Receiver<LogLine>) {
        let all = self.lock();
        (last(&all, hash, count), self.follow.subscribe())
    }

    /// Moves a log to a new hash (the tunnel was renamed), or drops it (`None`: the tunnel is gone).
    pub fn rehash(&self, old: &str, new: Option<&str>) {
        let mut all = self.lock();
        if let (Some(lines), Some(new)) = (all.remove(old), new) {
            all.insert(new.to_owned(), lines);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Lines>> {
        // A panic while pushing a line leaves nothing half done that a reader could trip over.
        self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn last(all: &HashMap<String, Lines>, hash: &str, count: usize) -> Vec<String> {
    let Some(lines) = all.get(hash) else { return Vec::new() };
    lines.texts.iter().skip(lines.texts.len().saturating_sub(count)).cloned().collect()
}
