//! Makes texts of others safe to show: what ssh, a remote host or another process says must not steer the terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// Control characters, and those that change the direction of the text around them.
fn is_unsafe(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with everything escaped that is not plain text; a line stays one line.
pub(super) fn line(text: &str) -> Cow<'_, str> {
    escape(text, |letter| letter == '\t')
}

/// As [`line`](line()), for a text of several lines.
pub(super) fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |letter| matches!(letter, '\t' | '\n'))
}

fn escape(text: &str, is_kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_harmless = |letter: char| is_kept(letter) || !is_unsafe(letter);
    if text.chars().all(is_harmless) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if is_harmless(letter) { escaped.push(letter) } else { escaped.extend(letter.escape_default()) }
    }
    Cow::Owned(escaped)
}

/// JSON that means the same. Its writer has escaped what JSON must have escaped, but not DEL and the C1 controls.
pub(super) fn json(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        // All unsafe characters are below U+10000: one \u is enough. White space between values is no string's.
        if is_unsafe(letter) && !letter.is_ascii_whitespace() {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "\\u{:04x}", u32::from(letter));
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
    }

    #[test]
    fn plain_text_stays_as_it_is() {
        for text in ["", "caf\u{e9} \u{65e5}\u{672c}", "tab\tstop"] {
            assert!(matches!(line(text), Cow::Borrowed(same) if same == text));
        }
        assert_eq!(lines("one\ntwo"), "one\ntwo");
    }

    #[test]
    fn json_means_the_same_afterwards() {
        let value = serde_json::json!({"message": "a\u{9b}b\u{7f}\u{1b}\n\u{202e}"});
        let escaped = json(&value.to_string());
        assert!(escaped.chars().all(|letter| !is_unsafe(letter)), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }
}
