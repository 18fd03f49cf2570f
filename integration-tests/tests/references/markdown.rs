//! Paragraphs and lists of Markdown, in lines as long as those of the other documents.

/// Columns of a line.
const WIDTH: usize = 125;

/// A paragraph.
pub(crate) fn paragraph(text: &str) -> String {
    wrapped("", text) + "\n"
}

/// An element of a list, `depth` lists deep.
pub(crate) fn element(depth: usize, text: &str) -> String {
    wrapped(&format!("{}- ", "  ".repeat(depth)), text)
}

/// A block that is shown as it is.
pub(crate) fn block(text: &str) -> String {
    format!("```text\n{}\n```\n\n", text.trim_end())
}

/// `a`, `a or b`, `a, b or c`.
pub(crate) fn alternatives(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [before @ .., last] => format!("{} or {last}", before.join(", ")),
    }
}

/// `text` with its first letter in upper case.
pub(crate) fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

/// `text` in lines, the first of which begins with `lead`, and the others below what follows it.
fn wrapped(lead: &str, text: &str) -> String {
    let width = WIDTH - lead.len();
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    let indent = format!("\n{}", " ".repeat(lead.len()));
    format!("{lead}{}\n", lines.join(&indent))
}
