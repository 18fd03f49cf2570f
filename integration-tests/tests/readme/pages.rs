//! The documents as text.

use integration_tests::{read, read_below};

/// A document.
pub(crate) struct Page {
    /// Its path in the repository.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A block of code.
pub(crate) struct Block {
    /// What follows the fence at its beginning.
    pub(crate) info: String,
    pub(crate) text: String,
    /// The line of that fence, from 1.
    pub(crate) line: usize,
}

impl Page {
    /// The document at this path in the repository.
    pub(crate) fn read(path: &str) -> Self {
        Self { path: path.to_owned(), text: read(path) }
    }

    /// Its blocks of code.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut lines = self.text.lines().enumerate();
        while let Some((index, line)) = lines.next() {
            let Some(info) = fence(line) else { continue };
            let block = lines.by_ref().map(|(_, line)| line).take_while(|line| fence(line).is_none());
            let text = block.collect::<Vec<_>>().join("\n") + "\n";
            blocks.push(Block { info: info.to_owned(), text, line: index + 1 });
        }
        blocks
    }

    /// Its paragraphs, elements of lists and rows of tables.
    fn paragraphs(&self) -> Vec<String> {
        let mut paragraphs = vec![String::new()];
        let mut is_block = false;
        for line in self.text.lines() {
            let is_fence = fence(line).is_some();
            is_block ^= is_fence;
            let begins = line.trim_start();
            if begins.is_empty() || is_fence || begins.starts_with(['-', '|', '#']) {
                paragraphs.push(String::new());
            }
            if !is_block && !is_fence {
                let last = paragraphs.last_mut().expect("there is one");
                last.extend([line, "\n"]);
            }
        }
        paragraphs
    }

    /// What is not in a block, as pieces: prose and code by turns, the first of which is prose.
    fn pieces(&self) -> Vec<String> {
        let mut pieces = vec![String::new()];
        for paragraph in self.paragraphs() {
            let mut rest = paragraph.as_str();
            while let Some((before, code, behind)) = code(rest) {
                pieces.last_mut().expect("there is one").push_str(before);
                pieces.extend([code.to_owned(), String::new()]);
                rest = behind;
            }
            pieces.last_mut().expect("there is one").push_str(rest);
        }
        pieces
    }

    /// What stands between back quotes, with single blanks.
    pub(crate) fn codes(&self) -> Vec<String> {
        let codes = self.pieces().into_iter().skip(1).step_by(2);
        codes.map(|code| code.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    /// Where its links lead.
    pub(crate) fn links(&self) -> Vec<String> {
        // The text of a link may be code.
        let prose = self.pieces().into_iter().step_by(2).collect::<Vec<_>>().join("code");
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        targets.map(str::to_owned).collect()
    }

    /// What its headings are linked by, on GitHub and in the book.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let mut is_block = false;
        let headings = self.text.lines().filter(|line| {
            is_block ^= fence(line).is_some();
            !is_block && line.starts_with('#')
        });
        headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
    }
}

/// What follows the fence, if the line is one.
fn fence(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix("```")
}

/// The first code of a paragraph, with what is before and behind it. It ends with as many back quotes as it begins with.
fn code(paragraph: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = paragraph.split_at(paragraph.find('`')?);
    let behind = rest.trim_start_matches('`');
    let (code, behind) = behind.split_once(&rest[..rest.len() - behind.len()])?;
    Some((before, code, behind))
}

fn anchor(heading: &str) -> String {
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

/// README.md and the pages of the book.
pub(crate) fn all() -> Vec<Page> {
    [Page::read("README.md")].into_iter().chain(of_the_book()).collect()
}

/// The pages of the book, without its summary.
pub(crate) fn of_the_book() -> Vec<Page> {
    let files = read_below("docs", "md").into_iter().filter(|(name, _)| name != "SUMMARY.md");
    let pages: Vec<_> = files.map(|(name, text)| Page { path: format!("docs/{name}"), text }).collect();
    assert!(pages.len() >= 20, "only {} pages in docs", pages.len());
    pages
}
