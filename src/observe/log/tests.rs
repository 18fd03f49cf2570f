use std::io::{BufRead, BufReader, PipeReader, PipeWriter, pipe};

use serde_json::json;
use tracing::subscriber::{DefaultGuard, set_default};

use super::record::{About, Record, Value, lines_dropped};
use super::*;

const HASH: &str = "0123456789abcdef0123456789abcdef";

/// Logs what this thread logs into a pipe.
struct Logged {
    reader: PipeReader,
    recent: Arc<RecentLogs>,
    guard: LogGuard,
    subscribed: DefaultGuard,
}

fn log_to_pipe(format: Format) -> Logged {
    let (reader, writer) = pipe().unwrap();
    let recent = Arc::new(RecentLogs::default());
    let (collector, guard) =
        collect(Arc::clone(&recent), StreamSink::<PipeWriter>::boxed(writer, format)).unwrap();
    let subscriber = tracing_subscriber::registry().with(filter("trace".to_owned()).unwrap()).with(collector);
    Logged { reader, recent, guard, subscribed: set_default(subscriber) }
}

impl Logged {
    /// Ends the log and returns its lines.
    fn lines(self) -> Vec<String> {
        let Self { reader, recent: _, guard, subscribed } = self;
        drop(subscribed);
        let lines = thread::spawn(move || BufReader::new(reader).lines().map(Result::unwrap).collect());
        drop(guard);
        lines.join().unwrap()
    }
}

/// The line without the time, which has always the same length.
fn without_time(line: &str) -> &str {
    &line["2026-11-23T22:31:00.123Z ".len()..]
}

/// The same for a recent line of a tunnel.
fn recent_without_time(line: &str) -> &str {
    &line["[2026-11-23 22:31:00] ".len()..]
}

#[test]
fn a_text_line_names_the_tunnel_and_leaves_out_what_its_words_say() {
    let logged = log_to_pipe(Format::Text { colored: false });
    tracing::info!(
        tunnel = "db",
        tunnel_hash = HASH,
        port = 13306,
        state = "up",
        event = "up",
        "up after 3 ms"
    );
    tracing::warn!(tunnel = "db", error_kind = "auth", duration_ms = 12.5, holder_pid = 4711, "no key fits");
    tracing::error!(path = ?"/etc/x y", "cannot read");
    let lines = logged.lines();
    let lines: Vec<_> = lines.iter().map(|line| without_time(line)).collect();
    assert_eq!(
        lines,
        [
            " INFO db: up after 3 ms",
            " WARN db: no key fits error_kind=auth duration_ms=12.5 holder_pid=4711",
            "ERROR cannot read path=\"/etc/x y\"",
        ]
    );
}

#[test]
fn text_gives_control_characters_no_power() {
    let logged = log_to_pipe(Format::Text { colored: false });
    let hostile = "\u{1b}]0;title\u{7}\rforged\u{9b}31m\t";
    tracing::info!(tunnel = hostile, tunnel_hash = HASH, detail = hostile, "{hostile}");
    let recent = logged.recent.last(HASH, 10);
    let lines = logged.lines();
    let harmless = "\\u{1b}]0;title\\u{7}\\rforged\\u{9b}31m\t";
    assert_eq!(recent_without_time(&recent[0]), format!("[INFO] {harmless}"));
    assert_eq!(without_time(&lines[0]), format!(" INFO {harmless}: {harmless} detail={harmless}"));
}

#[test]
fn a_message_of_several_lines_stays_one_entry() {
    let logged = log_to_pipe(Format::Text { colored: false });
    tracing::error!(tunnel_hash = HASH, path = "a\nb", "not valid:\n2026-11-23T22:31:00.123Z INFO forged");
    let recent = logged.recent.last(HASH, 10);
    let lines = logged.lines();
    assert_eq!(recent_without_time(&recent[0]), r"[ERROR] not valid:\n2026-11-23T22:31:00.123Z INFO forged");
    assert_eq!(without_time(&lines[0]), "ERROR not valid:");
    assert_eq!(lines[1], r"    2026-11-23T22:31:00.123Z INFO forged path=a\nb");
}

#[test]
fn color_is_on_the_level_only() {
    let logged = log_to_pipe(Format::Text { colored: true });
    tracing::warn!("slow");
    assert_eq!(without_time(&logged.lines()[0]), "\u{1b}[33m WARN\u{1b}[0m slow");
}

#[test]
fn a_json_line_is_flat_and_keeps_types_and_names() {
    let logged = log_to_pipe(Format::Json);
    let absent: Option<u32> = None;
    tracing::info!(
        tunnel = "db",
        port = 13306_u16,
        ratio = -0.5,
        offset = -3,
        restarted = true,
        state = %"up",
        holder_pid = absent,
        "said \"{}\"\n",
        "x"
    );
    let lines = logged.lines();
    let mut object: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    let timestamp = object.as_object_mut().unwrap().remove("timestamp").unwrap();
    assert!(timestamp.as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{timestamp}");
    assert_eq!(
        object,
        json!({
            "level": "INFO", "target": "portward::observe::log::tests", "message": "said \"x\"\n", "tunnel": "db",
            "port": 13306, "ratio": -0.5, "offset": -3, "restarted": true, "state": "up",
        })
    );
}

#[test]
fn lines_of_a_tunnel_are_kept_under_its_hash() {
    let logged = log_to_pipe(Format::Json);
    tracing::info!(tunnel = "db", tunnel_hash = HASH, "starting");
    tracing::debug!(tunnel_hash = %HASH, "looking");
    tracing::info!("of no tunnel");
    let lines = logged.recent.last(HASH, 10);
    assert_eq!(
        lines.iter().map(|line| recent_without_time(line)).collect::<Vec<_>>(),
        ["[INFO] starting", "[DEBUG] looking"]
    );
}

/// Nobody reads the pipe while lines are logged: were the log to wait for its reader, this would never end.
#[test]
fn a_full_pipe_does_not_stop_who_logs_and_the_lines_lost_are_counted() {
    const LOGGED: u64 = 20_000;
    let logged = log_to_pipe(Format::Json);
    for number in 0..LOGGED {
        tracing::info!(number, "a line of some length, so that the pipe is full after some hundreds of them");
    }
    let (mut written, mut dropped, mut next) = (0, 0, 0);
    for line in logged.lines() {
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        if let Some(number) = object["number"].as_u64() {
            assert_eq!(number, next, "the lines before were not accounted for");
            written += 1;
            next += 1;
        } else {
            let message = object["message"].as_str().unwrap();
            let count =
                message.strip_suffix(" log lines were dropped: the log was not read fast enough").unwrap();
            assert_eq!(object["level"], "WARN");
            dropped += count.parse::<u64>().unwrap();
            next = written + dropped;
        }
    }
    assert!(dropped > 0);
    assert_eq!(written + dropped, LOGGED);
}

/// Fails until it has refused the report of the lines lost so far; then one more line comes.
struct BrokenSink<'q> {
    queue: &'q Queue,
    is_repaired: bool,
    written: Vec<String>,
}

impl Sink for BrokenSink<'_> {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        if self.is_repaired {
            self.written.push(record.message().to_owned());
            return Ok(());
        }
        if record.text("event") == Some("log_dropped") {
            self.is_repaired = true;
            self.queue.push(line("repaired"));
            self.queue.close();
        }
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

fn line(message: &str) -> Record {
    let values = vec![("message", Value::Text(message.to_owned()))];
    Record { values, ..lines_dropped(&About::default(), 0) }
}

#[test]
fn lines_that_cannot_be_written_are_counted_and_reported_later() {
    let queue = Queue::new(ROOM);
    let mut sink = BrokenSink { queue: &queue, is_repaired: false, written: Vec::new() };
    queue.push(line("one"));
    queue.push(line("two"));
    write_all(&queue, &mut sink);
    let report = "2 log lines were dropped: the log was not read fast enough";
    assert_eq!(sink.written, ["repaired", report]);
}

#[test]
fn the_end_does_not_wait_for_ever_for_a_reader() {
    let Logged { reader, recent: _, guard, subscribed } = log_to_pipe(Format::Json);
    for number in 0..5_000 {
        tracing::info!(number, "a line of some length, so that the pipe is full after some hundreds of them");
    }
    drop(subscribed);
    drop(guard);
    drop(reader);
}

#[test]
fn without_a_filter_info_and_above_is_logged() {
    assert_eq!(filter(String::new()).unwrap().to_string(), "info");
    assert_eq!(filter("portward=debug".to_owned()).unwrap().to_string(), "portward=debug");
}

#[test]
fn a_bad_filter_is_named_with_a_good_one() {
    let error = filter("portward=loud".to_owned()).unwrap_err().to_string();
    assert!(error.starts_with("PORTWARD_LOG=\"portward=loud\" is not a log filter: "), "{error}");
    assert!(error.ends_with("try `info`, or `info,portward::port=debug`"), "{error}");
}
