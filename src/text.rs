//! Escapes text of unknown origin for display: output of ssh, of a remote host or of another process must not control a terminal,
//! nor hide parts of a log line. This is the only place that decides which characters are unsafe.

use std::borrow::Cow;
use std::fmt::Write;

const ELLIPSIS: char = '\u{2026}';

/// Whether this is a control character, a bidirectional control, a line or paragraph separator, or an invisible character.
pub fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Escapes all unsafe characters but tabs, so that the text stays one line.
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, |letter| letter == '\t', usize::MAX)
}

/// As [`line`](line()), but line ends are kept.
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |letter| matches!(letter, '\t' | '\n'), usize::MAX)
}

/// Escapes at least as much as the first `needed` bytes of the result.
fn escape(text: &str, is_kept: impl Fn(char) -> bool, needed: usize) -> Cow<'_, str> {
    let is_harmless = |letter: char| is_kept(letter) || !is_unsafe(letter);
    if text.chars().all(is_harmless) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if is_harmless(letter) {
            escaped.push(letter);
        } else {
            escaped.extend(letter.escape_default());
        }
        if escaped.len() > needed {
            break;
        }
    }
    Cow::Owned(escaped)
}

/// As [`line`](line()), truncated to `bytes` bytes after escaping. An ellipsis marks the cut.
pub fn excerpt(text: &str, bytes: usize) -> Cow<'_, str> {
    // Escaping makes no character shorter, so later bytes are not needed. The longest character has four bytes.
    let escaped = escape(&text[..boundary(text, bytes + 4)], |letter| letter == '\t', bytes);
    if escaped.len() <= bytes {
        return escaped;
    }
    Cow::Owned(cut(escaped.into_owned(), bytes))
}

/// As [`lines`], truncated to `bytes` bytes after escaping. An ellipsis marks the cut.
pub fn excerpt_lines(text: &str, bytes: usize) -> String {
    cut(lines(&text[..boundary(text, bytes + 4)]).into_owned(), bytes)
}

/// Truncates the text to `bytes` bytes. An ellipsis marks the cut.
pub fn cut(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        text.truncate(boundary(&text, bytes.saturating_sub(ELLIPSIS.len_utf8())));
        text.push(ELLIPSIS);
    }
    text
}

/// The last character boundary at or before `bytes`.
fn boundary(text: &str, bytes: usize) -> usize {
    (0..=bytes.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// Escapes the unsafe characters that a JSON writer leaves as they are, such as DEL and C1 controls. The meaning is unchanged.
pub fn json(text: &str) -> String {
    // The common case.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.to_owned();
    }
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        // White space between values is not part of a string.
        if is_unsafe(letter) && !letter.is_ascii_whitespace() {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(letter);
        }
    }
    escaped
}

/// Bytes as hex digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(line("\u{1b}[2Jgone\u{7}"), "\\u{1b}[2Jgone\\u{7}");
        assert_eq!(line("C1: \u{9b}31m"), "C1: \\u{9b}31m");
        assert_eq!(line("one\r\ntwo"), "one\\r\\ntwo");
        assert_eq!(line("txt.\u{202e}exe"), "txt.\\u{202e}exe");
        assert_eq!(line("soft\u{ad}hyphen, filler\u{3164}"), "soft\\u{ad}hyphen, filler\\u{3164}");
    }

    #[test]
    fn plain_text_stays_as_it_is() {
        for text in ["", "caf\u{e9} \u{65e5}\u{672c}", "tab\tstop"] {
            assert!(matches!(line(text), Cow::Borrowed(same) if same == text));
        }
        assert_eq!(lines("one\ntwo"), "one\ntwo");
    }

    #[test]
    fn an_excerpt_is_bounded_after_escaping() {
        assert!(matches!(excerpt("just fits", 9), Cow::Borrowed("just fits")));
        assert_eq!(excerpt("one byte more", 12), "one byte \u{2026}");
        for letter in ["x", "\u{1b}", "\u{e4}", "\u{65e5}", "\u{202e}", "\u{1f600}"] {
            for bytes in [3, 4, 5, 16, 100] {
                let excerpt = excerpt(&letter.repeat(1000), bytes).into_owned();
                assert!(excerpt.len() <= bytes && excerpt.ends_with(ELLIPSIS), "{excerpt}");
                assert!(!excerpt.chars().any(is_unsafe), "{excerpt}");
            }
        }
    }

    #[test]
    fn json_means_the_same_afterwards() {
        let value = serde_json::json!({"message": "a\u{9b}b\u{7f}\u{1b}\n\u{202e}\u{e0041}"});
        let escaped = json(&value.to_string());
        assert!(escaped.chars().all(|letter| !is_unsafe(letter)), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }
}
