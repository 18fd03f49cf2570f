//! What is wrong with a configuration, with the place in the file and the next step.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

use crate::text::is_unsafe;

/// Texts of the file are shown up to this many characters in a message.
const QUOTED_AT_MOST: usize = 80;

/// Lines up to this many bytes are shown; longer ones were written by no person, and take long to lay out.
const SHOWN_LINE_AT_MOST: usize = 1000;

/// More problems than this are counted, not rendered: nobody mends more in one go.
const RENDERED_AT_MOST: usize = 50;

/// A stretch of one line of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Number of characters.
    pub length: usize,
}

impl Place {
    /// Where a problem of the file as a whole is shown.
    pub(super) const START: Self = Self { line: 1, column: 1, length: 1 };
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// Where; for a key that is missing, the entry that lacks it.
    pub place: Place,
    /// What is wrong, one line, without the place.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// A text of the file within a message: in back quotes, on one line, and not too long.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from("`");
    for (count, letter) in text.chars().enumerate() {
        if count == QUOTED_AT_MOST {
            quoted.push('…');
            break;
        }
        if is_unsafe(letter) {
            quoted.extend(letter.escape_default());
        } else {
            quoted.push(letter);
        }
    }
    quoted.push('`');
    quoted
}

/// Why a text cannot be what it should be, before it is known where it stands.
///
/// As serde's errors carry a text only, the text of a refusal is the message, and on a second line the hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    message: String,
    hint: Option<String>,
}

impl Refusal {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts the name of the key in front.
    pub(super) fn of(mut self, key: &str) -> Self {
        self.message = format!("`{key}`: {}", self.message);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(formatter, "\n{hint}"))
    }
}

impl std::error::Error for Refusal {}

impl serde::de::Error for Refusal {
    fn custom<T: fmt::Display>(text: T) -> Self {
        let text = text.to_string();
        match text.split_once('\n') {
            Some((message, hint)) => Self::new(message).hint(hint),
            None => Self::new(text),
        }
    }
}

/// Collects problems from everything that reads the file.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<Diagnostic>>);

impl Problems {
    /// Notes a problem.
    pub(super) fn report(&self, place: Place, refusal: Refusal) {
        self.0.borrow_mut().push(Diagnostic { place, message: refusal.message, hint: refusal.hint });
    }

    /// All problems in the order of the file, each once: what is wrong under `defaults` is met again in every tunnel.
    pub(super) fn into_sorted(self) -> Vec<Diagnostic> {
        let mut all = self.0.into_inner();
        all.sort();
        all.dedup();
        all
    }
}

/// All problems of a file (at least one), and the file's text to show them in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    /// The file.
    pub path: PathBuf,
    /// In the order of the file; never empty.
    pub problems: Vec<Diagnostic>,
    source: String,
}

impl Diagnostics {
    pub(super) fn new(path: &Path, source: &str, problems: Vec<Diagnostic>) -> Self {
        Self { path: path.to_owned(), problems, source: source.to_owned() }
    }

    /// Every problem with its line, a caret below it and its hint; `colour` adds ANSI sequences. Ends without a line end.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let lines: Vec<&str> = self.source.lines().collect();
        let path = self.path.display().to_string();
        let mut texts: Vec<String> = self
            .problems
            .iter()
            .take(RENDERED_AT_MOST)
            .map(|problem| {
                let Place { line, column, .. } = problem.place;
                let title = Level::ERROR.primary_title(&problem.message);
                // The last line may be the empty one behind the last line end.
                let text = lines.get(line - 1).copied().unwrap_or_default();
                let mut group = if text.len() > SHOWN_LINE_AT_MOST {
                    title.element(Origin::path(&path).line(line).char_column(column))
                } else {
                    let annotation = AnnotationKind::Primary.span(byte_span(text, problem.place));
                    title.element(Snippet::source(text).line_start(line).path(&path).annotation(annotation))
                };
                if let Some(hint) = &problem.hint {
                    group = group.element(Level::HELP.message(hint));
                }
                renderer.render(&[group])
            })
            .collect();
        let silent = self.problems.len().saturating_sub(RENDERED_AT_MOST);
        if silent > 0 {
            texts.push(format!("... and {silent} more"));
        }
        texts.join("\n\n")
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.path.display())?;
        if let Some(first) = self.problems.first() {
            write!(formatter, ":{}:{}: {}", first.place.line, first.place.column, first.message)?;
        }
        match self.problems.len() {
            0 | 1 => Ok(()),
            count => write!(formatter, " (and {} more)", count - 1),
        }
    }
}

impl std::error::Error for Diagnostics {}

/// The bytes of `line` that `place` covers, cut to what the line has.
fn byte_span(line: &str, place: Place) -> std::ops::Range<usize> {
    let byte_of = |column: usize| line.char_indices().nth(column).map_or(line.len(), |(byte, _)| byte);
    byte_of(place.column - 1)..byte_of(place.column - 1 + place.length)
}
