//! The output of a child, line by line.
//!
//! All output is read, because a child that blocks on writing does not serve its port. Reading takes a bounded part of the time: a child
//! that writes faster is blocked for some milliseconds at a time.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep};

use super::bucket::{Bucket, Rate};

/// The end of a pipe that a child's output comes out of.
pub type Pipe = pipe::Receiver;

/// Length of a line in bytes. What a longer one has more makes lines of its own.
pub const LONGEST_LINE: usize = 4096;

/// How long the end of the output may lag behind the end of the process: only a process that left the group can hold it
/// open that long.
pub const OUTPUT_GRACE: Duration = Duration::from_millis(200);

/// Bytes that are read in one go.
const CHUNK: usize = 8 * 1024;

/// Seconds that reading all children may take at once, and in each second: the event loop has the rest of the thread. To read
/// all children of a machine that logs as it should takes far less.
const PACE: Rate = Rate { burst: 0.1, per_second: 0.25 };

/// The pace at which all children that have a clone of this are read.
#[derive(Debug, Clone)]
pub struct Pace(Arc<Mutex<Bucket>>);

impl Default for Pace {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Bucket::full(PACE, Instant::now()))))
    }
}

impl Pace {
    /// Reading has taken this long.
    fn spend(&self, taken: Duration) {
        self.lock().spend(taken.as_secs_f64());
    }

    /// How long to wait before the next read.
    fn debt(&self) -> Duration {
        let mut bucket = self.lock();
        bucket.refill(PACE, Instant::now());
        bucket.debt(PACE)
    }

    fn lock(&self) -> MutexGuard<'_, Bucket> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads `pipe` to its end and hands over each line, without its line end, no longer than [`LONGEST_LINE`]. It is not safe to
/// show yet: most lines of a flood are never shown, and making them safe takes longer than reading them.
pub async fn read_lines(pipe: Pipe, pace: &Pace, each: impl FnMut(String)) {
    let mut reading = pin!(read_all(pipe, pace, each));
    poll_fn(|context| {
        let start = Instant::now();
        let polled = reading.as_mut().poll(context);
        pace.spend(start.elapsed());
        polled
    })
    .await;
}

/// Takes one chunk each time that it is polled: a child that says a lot must not keep the others from being heard.
async fn read_all(pipe: Pipe, pace: &Pace, mut each: impl FnMut(String)) {
    let mut line = Vec::new();
    // An error of a pipe is its end as well.
    while pipe.readable().await.is_ok() && take_chunk(&pipe, &mut line, &mut each) {
        tokio::task::yield_now().await;
        let debt = pace.debt();
        if !debt.is_zero() {
            // Boxed, for most children never come to this.
            Box::pin(sleep(debt)).await;
        }
    }
    hand_over(&line, &mut each);
}

/// Reads what is there, into a buffer that is gone when nothing is: thousands of silent children share the stack of the thread.
/// `line` holds the beginning of a line that is not complete. Returns whether the pipe goes on.
fn take_chunk(pipe: &Pipe, line: &mut Vec<u8>, each: &mut impl FnMut(String)) -> bool {
    let mut chunk = [0; CHUNK];
    let read = match pipe.try_read(&mut chunk) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
        read => read.unwrap_or(0),
    };
    let mut rest = &chunk[..read];
    while !rest.is_empty() {
        let fitting = &rest[..rest.len().min(LONGEST_LINE - line.len())];
        let end = fitting.iter().position(|byte| *byte == b'\n').map_or(fitting.len(), |end| end + 1);
        line.extend_from_slice(&rest[..end]);
        rest = &rest[end..];
        if line.ends_with(b"\n") || line.len() == LONGEST_LINE {
            let whole = whole_characters(line);
            hand_over(&line[..whole], each);
            line.drain(..whole);
        }
    }
    if line.is_empty() {
        *line = Vec::new();
    }
    read > 0
}

/// The number of bytes before a character whose end is not there yet.
fn whole_characters(bytes: &[u8]) -> usize {
    for (behind, byte) in bytes.iter().rev().take(3).enumerate() {
        let length = match byte {
            0x80..=0xbf => continue,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            _ => 1,
        };
        return if length > behind + 1 { bytes.len() - behind - 1 } else { bytes.len() };
    }
    bytes.len()
}

fn hand_over(line: &[u8], each: &mut impl FnMut(String)) {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end();
    if !text.is_empty() {
        each(text.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A pipe with all of this in it, and its end.
    fn pipe_with(said: &[u8]) -> Pipe {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(said).unwrap();
        Pipe::from_owned_fd(reader.into()).unwrap()
    }

    async fn lines(said: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        read_lines(pipe_with(said), &Pace::default(), |line| lines.push(line)).await;
        lines
    }

    #[tokio::test]
    async fn lines_come_without_ends_and_as_text() {
        let said = b"one\r\n\x1b[31mred\xff\n\n\0\nlast";
        assert_eq!(lines(said).await, ["one", "\u{1b}[31mred\u{fffd}", "\0", "last"]);
    }

    #[tokio::test]
    async fn a_line_without_end_does_not_fill_the_memory() {
        let lengths: Vec<_> = lines(&[b'x'; 10_000]).await.iter().map(String::len).collect();
        assert_eq!(lengths, [4096, 4096, 1808]);
    }

    #[tokio::test]
    async fn a_long_line_is_cut_between_characters() {
        let said = "\u{65e5}".repeat(3000);
        assert_eq!(lines(said.as_bytes()).await.concat(), said);
    }

    #[tokio::test(start_paused = true)]
    async fn all_children_wait_when_reading_took_more_than_its_part() {
        let pace = Pace::default();
        pace.spend(Duration::from_secs(1));
        let start = Instant::now();
        let read = || async { read_lines(pipe_with(b"said"), &pace.clone(), drop).await };
        tokio::join!(read(), read());
        let took = start.elapsed();
        assert!((Duration::from_millis(3600)..Duration::from_millis(3610)).contains(&took), "{took:?}");
    }

    #[tokio::test]
    async fn the_time_that_lines_take_counts() {
        let pace = Pace::default();
        read_lines(pipe_with(b"said"), &pace, |_| std::thread::sleep(Duration::from_millis(400))).await;
        let debt = pace.debt();
        assert!(debt > Duration::from_millis(500), "{debt:?}");
    }
}
