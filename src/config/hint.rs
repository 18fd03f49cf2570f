//! Hints that show the line to write.

use super::shell;
use crate::text::{self, is_unsafe};

/// Hints show lines up to this many bytes.
const SHOWN_AT_MOST: usize = 200;

pub(super) const FILL_IN: &str =
    "write the value in its place, for portward fills in no templates and no variables";

/// The hint to write `line`, whole: half of it would be no help.
pub(super) fn write(line: &str) -> String {
    shown(line).map_or_else(
        || "write it in the form that config/config.yaml shows".to_owned(),
        |shown| format!("write {shown}"),
    )
}

/// `line` in back quotes, if it can be shown whole and as it is.
fn shown(line: &str) -> Option<String> {
    let is_fit = line.len() <= SHOWN_AT_MOST && !line.chars().any(is_unsafe);
    is_fit.then(|| format!("`{line}`"))
}

/// `text` as a scalar that YAML reads as this very text, in a list or mapping of one line, too.
pub(super) fn yaml(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_./=+-:@".contains(letter);
    let begins_well = text
        .starts_with(|letter: char| letter.is_ascii_alphanumeric() || "/._".contains(letter))
        || (text.starts_with('-') && text.len() > 1 && !text.starts_with("---"));
    let null = matches!(text, "null" | "Null" | "NULL");
    if begins_well && !null && !text.ends_with(':') && text.chars().all(is_plain) {
        text.to_owned()
    } else if text.chars().any(is_unsafe) {
        // YAML's double quotes take what JSON's do.
        text::json(&serde_json::Value::from(text).to_string())
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

/// The list for a command that was written as a line for a shell.
pub(super) fn command(line: &str) -> Option<String> {
    let line = line.trim();
    let (words, why) = match shell::words(line) {
        Some(words) => (words, ""),
        None => (["sh", "-c", line].map(str::to_owned).to_vec(), ", for no shell reads it otherwise"),
    };
    let list = flow_list(&words);
    shown(&format!("command: {list}")).map(|shown| format!("write {shown}{why}"))
}

fn flow_list(words: &[String]) -> String {
    let words: Vec<_> = words.iter().map(|word| yaml(word)).collect();
    format!("[{}]", words.join(", "))
}
