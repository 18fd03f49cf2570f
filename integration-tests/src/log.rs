//! What processes say, line by line.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::task::JoinHandle;

use crate::record::Record;

/// One line of the daemon's `--log json`.
#[derive(Debug, Clone)]
pub struct LogLine {
    /// As it was written.
    pub raw: String,
    json: Value,
}

impl LogLine {
    /// Takes a line apart; one that is not JSON (a panic message) has no fields.
    pub(crate) fn new(raw: String) -> Self {
        Self { json: serde_json::from_str(&raw).unwrap_or(Value::Null), raw }
    }

    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.json.get("fields").and_then(|fields| fields.get(name)).or_else(|| self.json.get(name))
    }

    /// Whether the field `name` holds this text.
    pub fn has(&self, name: &str, text: &str) -> bool {
        self.field(name).and_then(Value::as_str) == Some(text)
    }
}

/// Checks that no ssh was asked to listen on a port that was in use.
pub fn assert_no_busy_port(log: &[LogLine]) {
    for line in log {
        let is_busy = line.has("error_kind", "local_port_held")
            || ["Address", "in use"].iter().any(|words| line.raw.contains(words));
        assert!(!is_busy, "{}", line.raw);
    }
}

/// How many processes the tunnels have started.
pub fn starts(log: &[LogLine]) -> usize {
    log.iter().filter(|line| line.has("event", "starting")).count()
}

/// Records each line that comes out of `pipe`, until it ends.
pub(crate) fn capture<T: Clone + Send + 'static>(
    pipe: impl AsyncRead + Unpin + Send + 'static,
    record: Record<T>,
    convert: impl Fn(String) -> T + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = BufReader::new(pipe).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            record.push(convert(line));
        }
    })
}

/// The lines of `pipe`, as they come.
pub fn lines_of(pipe: impl AsyncRead + Unpin + Send + 'static) -> Record<String> {
    let record = Record::default();
    capture(pipe, record.clone(), std::convert::identity);
    record
}
