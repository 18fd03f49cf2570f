//! The last log lines of each tunnel, for `GET /logs` and `portward logs`.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use tokio::sync::broadcast;

/// Lines kept per tunnel.
pub const LINES_KEPT: usize = 1000;
/// Bytes kept per tunnel, including line ends.
pub const BYTES_KEPT: usize = 64 * 1024;

/// How many lines a follower may lag behind.
const FOLLOWER_LAG: usize = 256;

/// Who wrote a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// portward itself.
    Portward,
    /// The tunnel's process.
    Process,
}

/// One line of a tunnel's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// The tunnel's hash.
    pub hash: String,
    /// `[TIME] [LEVEL] message` in local time, as autossh-tunnel's panel reads it, without a line end.
    pub text: String,
}

/// What a follower of the logs hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogNews {
    /// There is one more line.
    Line(LogLine),
    /// The log of `old` goes on under another hash; `None`: it has ended.
    Moved {
        /// The hash that the tunnel had.
        old: String,
        /// The one that it has now.
        new: Option<String>,
    },
}

/// The last lines of each tunnel, by hash: at most [`LINES_KEPT`] lines and [`BYTES_KEPT`] bytes. Beyond that the oldest line of the
/// process is removed if the process has more than half, else the oldest of portward. So a process that writes a lot does
/// not displace what portward reports about its tunnel.
#[derive(Debug)]
pub struct RecentLogs {
    lines: Mutex<HashMap<String, Lines>>,
    follow: broadcast::Sender<LogNews>,
}

#[derive(Debug, Default)]
struct Lines {
    texts: VecDeque<(Speaker, String)>,
    /// Sum of the lengths, including line ends.
    bytes: usize,
    /// Lines of the tunnel's process.
    said: usize,
    /// Bytes of the tunnel's process.
    said_bytes: usize,
    /// Time of the last line.
    modified: jiff::Timestamp,
}

/// What `GET /logs` returns about one tunnel's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSummary {
    /// Bytes kept, including line ends.
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
    /// Appends a line to the log of the tunnel `hash` and sends it to the followers.
    pub fn push(&self, hash: &str, at: jiff::Timestamp, speaker: Speaker, text: String) {
        let mut all = self.lock();
        let lines = all.entry(hash.to_owned()).or_default();
        lines.push(speaker, text.clone());
        lines.modified = at;
        // With the lock held, so that `tail` neither misses nor repeats a line. An error means that nobody follows.
        let _ = self.follow.send(LogNews::Line(LogLine { hash: hash.to_owned(), text }));
    }

    /// The last `count` lines of the tunnel `hash`, oldest first.
    pub fn last(&self, hash: &str, count: usize) -> Vec<String> {
        last(&self.lock(), hash, count)
    }

    /// Size and time of the log of the tunnel `hash`; `None` if it has no lines yet.
    pub fn summary(&self, hash: &str) -> Option<LogSummary> {
        self.lock().get(hash).map(|lines| LogSummary { bytes: lines.bytes, modified: lines.modified })
    }

    /// The last `count` lines of the tunnel `hash`, and a receiver of what happens to all logs later.
    pub fn tail(&self, hash: &str, count: usize) -> (Vec<String>, broadcast::Receiver<LogNews>) {
        let all = self.lock();
        (last(&all, hash, count), self.follow.subscribe())
    }

    /// Moves a log to a new hash, or drops it if `new` is `None`.
    pub fn rehash(&self, old: &str, new: Option<&str>) {
        let mut all = self.lock();
        if let (Some(lines), Some(new)) = (all.remove(old), new) {
            all.insert(new.to_owned(), lines);
        }
        let _ = self.follow.send(LogNews::Moved { old: old.to_owned(), new: new.map(str::to_owned) });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Lines>> {
        // A panic while a line is added leaves no state that would be invalid for readers.
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
