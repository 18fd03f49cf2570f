//! What a child says, line by line, made harmless.

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// A longer line is cut here: the rest of it makes lines of its own.
const MAX_LINE: u64 = 4096;

/// Reads `pipe` to its end and hands over each line, without its line end, control characters escaped.
pub async fn read_lines(pipe: impl AsyncRead + Unpin, mut each: impl FnMut(String)) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).await {
            // An error of a pipe is its end as well.
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = harmless(&line);
                if !text.is_empty() {
                    each(text);
                }
            }
        }
    }
}

/// The line as text that a terminal does not obey.
fn harmless(line: &[u8]) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(line).trim_end().chars() {
        match character {
            '\t' => text.push(' '),
            control if control.is_control() => text.extend(control.escape_default()),
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_without_ends_and_without_control_characters() {
        let mut lines = Vec::new();
        read_lines(&b"one\r\n\x1b[31mred\xff\n\nlast"[..], |line| lines.push(line)).await;
        assert_eq!(lines, ["one", "\\u{1b}[31mred\u{fffd}", "last"]);
    }

    #[tokio::test]
    async fn a_line_without_end_does_not_fill_the_memory() {
        let mut lines = Vec::new();
        read_lines(&vec![b'x'; 10_000][..], |line| lines.push(line.len())).await;
        assert_eq!(lines, [4096, 4096, 1808]);
    }
}
