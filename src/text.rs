//! Makes texts of others safe to show: what ssh, a remote host or another process says must not steer a terminal, nor hide
//! in a log line. The one place that knows which characters do.

use std::borrow::Cow;
use std::fmt::Write;

/// Control characters, characters that change the direction of the text around them, line and paragraph separators, and
/// characters without a width.
pub fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// The text with everything escaped that is not plain text; a line stays one line.
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, |letter| letter == '\t')
}

/// As [`line`](line()), for a text of several lines.
pub fn lines(text: &str) -> Cow<'_, str> {
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
pub fn json(text: &str) -> String {
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

/// A text as one word of a shell.
pub fn word(text: &str) -> Cow<'_, str> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_-./:@%+=,".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(format!("'{}'", text.replace('\'', "'\\''")))
    }
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
        let value = serde_json::json!({"message": "a\u{9b}b\u{7f}\u{1b}\n\u{202e}\u{e0041}"});
        let escaped = json(&value.to_string());
        assert!(escaped.chars().all(|letter| !is_unsafe(letter)), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }
}
