//! The last log lines of each tunnel, for `GET /logs` and `portward logs`.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use tokio::sync::broadcast;

/// Lines kept for each tunnel,
pub const LINES_KEPT: usize = 1000;
/// and their bytes, with line ends.
pub const BYTES_KEPT: usize = 64 * 1024;

/// Lines that a follower may fall behind.
const FOLLOWER_LAG: usize = 256;

/// Whose line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// portward says something of the tunnel.
    Portward,
    /// The tunnel's process has said it.
    Process,
}

/// One line of a tunnel's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// The tunnel's hash.
    pub hash: String,
    /// `TIMESTAMP LEVEL message`, without a line end.
    pub text: String,
}

/// The last lines of each tunnel, by hash: [`LINES_KEPT`] and [`BYTES_KEPT`] at most. When there is no room, the oldest line goes of
/// whoever takes more than half of it, so that a process that says a lot leaves what portward says of its tunnel alone.
#[derive(Debug)]
pub struct RecentLogs {
    lines: Mutex<HashMap<String, Lines>>,
    follow: broadcast::Sender<LogLine>,
}

#[derive(Debug, Default)]
struct Lines {
    texts: VecDeque<(Speaker, String)>,
    /// Sum of the lengths, with line ends.
    bytes: usize,
    /// The part of the tunnel's process: lines,
    said: usize,
    /// and bytes.
    said_bytes: usize,
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
        Self { lines: Mutex::default(), follow: broadcast::Sender::new(FOLLOWER_LAG) }
    }
}

impl RecentLogs {
    /// Appends a line to the log of the tunnel `hash` and tells the followers.
    pub fn push(&self, hash: &str, at: jiff::Timestamp, speaker: Speaker, text: String) {
        let mut all = self.lock();
        let lines = all.entry(hash.to_owned()).or_default();
        lines.push(speaker, text.clone());
        lines.modified = at;
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

impl Lines {
    fn push(&mut self, speaker: Speaker, text: String) {
        self.bytes += text.len() + 1;
        if speaker == Speaker::Process {
            self.said += 1;
            self.said_bytes += text.len() + 1;
        }
        self.texts.push_back((speaker, text));
        while self.texts.len() > LINES_KEPT || self.bytes > BYTES_KEPT {
            self.remove_one();
        }
    }

    fn remove_one(&mut self) {
        let process_has_more = self.said_bytes > BYTES_KEPT / 2 || self.said > LINES_KEPT / 2;
        let whose = if process_has_more { Speaker::Process } else { Speaker::Portward };
        let oldest = self.texts.iter().position(|(speaker, _)| *speaker == whose).unwrap_or(0);
        let Some((speaker, text)) = self.texts.remove(oldest) else { return };
        self.bytes -= text.len() + 1;
        if speaker == Speaker::Process {
            self.said -= 1;
            self.said_bytes -= text.len() + 1;
        }
    }
}

fn last(all: &HashMap<String, Lines>, hash: &str, count: usize) -> Vec<String> {
    let Some(lines) = all.get(hash) else { return Vec::new() };
    lines.texts.iter().skip(lines.texts.len().saturating_sub(count)).map(|(_, text)| text.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

    #[test]
    fn what_is_kept_is_bounded_in_lines_and_in_bytes() {
        let logs = RecentLogs::default();
        for speaker in [Speaker::Portward, Speaker::Process] {
            for length in [1, 4096] {
                for _ in 0..2 * LINES_KEPT {
                    logs.push("db", AT, speaker, "x".repeat(length));
                }
                let kept = logs.last("db", usize::MAX);
                let bytes = kept.iter().map(|line| line.len() + 1).sum::<usize>();
                assert_eq!(logs.summary("db").unwrap().bytes, bytes);
                assert!(kept.len() <= LINES_KEPT && bytes <= BYTES_KEPT, "{} lines, {bytes}", kept.len());
            }
        }
    }

    #[test]
    fn a_flood_leaves_what_portward_said() {
        let logs = RecentLogs::default();
        for text in ["starting", "up"] {
            logs.push("db", AT, Speaker::Portward, text.to_owned());
        }
        for number in 0..5000 {
            logs.push("db", AT, Speaker::Process, format!("{number} {}", "x".repeat(200)));
        }
        logs.push("db", AT, Speaker::Portward, "down".to_owned());
        let kept = logs.last("db", usize::MAX);
        assert_eq!(
            (kept[0].as_str(), kept[1].as_str(), kept.last().unwrap().as_str()),
            ("starting", "up", "down")
        );
        assert!(kept[kept.len() - 2].starts_with("4999 "), "the newest of the flood are there");
    }
}
