//! Makes texts of others safe to show: what ssh, a remote host or another process says must not steer a terminal, nor hide
//! in a log line. The one place that knows which characters do.

use std::borrow::Cow;
use std::fmt::Write;

const ELLIPSIS: char = '\u{2026}';

/// Control characters, characters that change the direction of the text around them, line and paragraph separators, and
/// characters without a width.
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

/// The text with everything escaped that is not plain text; a line stays one line.
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, |letter| letter == '\t', usize::MAX)
}

/// As [`line`](line()), for a text of several lines.
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |letter| matches!(letter, '\t' | '\n'), usize::MAX)
}

/// What lies behind the first `needed` bytes of the escaped text may be missing.
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

/// As [`line`](line()), in at most `bytes` bytes after escaping; an ellipsis stands for what was cut off.
pub fn excerpt(text: &str, bytes: usize) -> Cow<'_, str> {
    // No character gets shorter by escaping, so nothing behind these bytes is shown; the longest character has four.
    let escaped = escape(&text[..boundary(text, bytes + 4)], |letter| letter == '\t', bytes);
    if escaped.len() <= bytes {
        return escaped;
    }
    Cow::Owned(cut(escaped.into_owned(), bytes))
}

/// The text in at most `bytes` bytes; an ellipsis stands for what was cut off.
pub fn cut(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        text.truncate(boundary(&text, bytes.saturating_sub(ELLIPSIS.len_utf8())));
        text.push(ELLIPSIS);
    }
    text
}

/// The last place at or before `bytes` where a character begins or the text ends.
fn boundary(text: &str, bytes: usize) -> usize {
    (0..=bytes.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// JSON that means the same. Its writer has escaped what JSON must have escaped, but not DEL and the C1 controls.
pub fn json(text: &str) -> String {
    // The usual case, and the quickest to see.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.to_owned();
    }
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        // White space between values is no string's.
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
