//! The entries of the page: what is quoted in the first column of a table of messages.

use std::collections::BTreeSet;

use crate::text::{Quoted, collapsed};

/// What the first column of a table of messages is called.
const COLUMN: &str = "message";

/// A quoted message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Line of the page, from 1.
    pub(crate) line: usize,
    pub(crate) text: Quoted,
}

/// The page.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    /// What headings quote.
    pub(crate) sections: BTreeSet<String>,
}

impl Page {
    pub(crate) fn read(markdown: &str) -> Self {
        let mut page = Self::default();
        let mut is_table_of_messages = false;
        let mut is_code = false;
        for (line, text) in (1..).zip(markdown.lines()) {
            is_code ^= text.starts_with("```");
            if is_code {
                continue;
            }
            if let Some(heading) = text.strip_prefix('#') {
                page.sections.extend(quoted(heading));
            }
            let Some(cell) = first_cell(text) else {
                is_table_of_messages = false;
                continue;
            };
            if is_table_of_messages {
                let entry = |text: String| Entry { line, text: Quoted::new(&text) };
                page.entries.extend(quoted(&cell).into_iter().map(entry));
            }
            is_table_of_messages |= cell == COLUMN;
        }
        page
    }
}

/// The first cell of a row of a table. A bar within it has a backslash.
fn first_cell(line: &str) -> Option<String> {
    let row = line.strip_prefix('|')?;
    let mut cell = String::new();
    let mut letters = row.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if letters.peek() == Some(&'|') => cell.extend(letters.next()),
            '|' => return Some(cell.trim().to_owned()),
            _ => cell.push(letter),
        }
    }
    None
}

/// The texts between back quotes: as many as before are behind, and a blank on each side belongs to them.
fn quoted(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.find('`') {
        let opening = &rest[begin..];
        let fence = &opening[..opening.len() - opening.trim_start_matches('`').len()];
        let inside = &opening[fence.len()..];
        let ends = inside.match_indices(fence).map(|(at, _)| at);
        let is_end =
            |at: &usize| !inside[..*at].ends_with('`') && !inside[at + fence.len()..].starts_with('`');
        let Some(end) = ends.into_iter().find(is_end) else { break };
        found.push(collapsed(&inside[..end]));
        rest = &inside[end + fence.len()..];
    }
    found
}

#[test]
fn what_is_quoted_in_the_first_column_is_an_entry() {
    let page = Page::read(
        "### `auth`\n\n| message | meaning |\n|---|---|\n| `a  b`, `` c `d` `` | `no` |\n| `e \\| f` | |\n\n| class | x |\n|---|---|\n| `g` | |\n",
    );
    let texts: Vec<&str> = page.entries.iter().map(|entry| entry.text.text.as_str()).collect();
    assert_eq!(texts, ["a b", "c `d`", "e | f"]);
    assert_eq!(page.entries[2].line, 6);
    assert!(page.sections.contains("auth"));
}
