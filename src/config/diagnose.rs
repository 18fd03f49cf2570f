//! What is wrong with a configuration, with the place in the file and the next step.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

use crate::text;

/// A message shows at most this many bytes of a text from the file.
const QUOTED_AT_MOST: usize = 80;

/// Maximum length of a message and of a hint, in bytes: the longest lists all keys of a section.
const MESSAGE_AT_MOST: usize = 1000;

/// Lines up to this many bytes are shown. Longer ones were not written by a person, and take long to lay out.
const SHOWN_LINE_AT_MOST: usize = 1000;

/// Problems beyond this number are counted and not rendered, because nobody fixes more at once;
const RENDERED_AT_MOST: usize = 50;
/// so are those beyond this many bytes, except for the rest of the last one.
const RENDERED_BYTES_AT_MOST: usize = 32 * 1024;

/// Problems beyond this number are not even counted: a file of 1 MiB may have a million.
const KEPT_AT_MOST: usize = 1000;

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

/// The lines of a file as YAML counts them: a carriage return ends one, too, also without a line feed behind it.
pub(super) fn lines(source: &str) -> Vec<&str> {
    let lines = source.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let mut lines: Vec<&str> = lines.flat_map(|line| line.split('\r')).collect();
    // What ends with a line end has no empty line behind it.
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    lines
}

/// A text of the file within a message: in back quotes, on one line, and not too long.
pub(super) fn quote(text: &str) -> String {
    // A tab would look like spaces.
    format!("`{}`", shorten(text).replace('\t', "\\t"))
}

/// A text of the file within a message, on one line and not too long.
pub(super) fn shorten(text: &str) -> std::borrow::Cow<'_, str> {
    text::excerpt(text, QUOTED_AT_MOST)
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

/// Collects the problems of all steps, each once: an error under `defaults` is found again in every tunnel.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<BTreeSet<Diagnostic>>);

impl Problems {
    /// Notes a problem.
    pub(super) fn report(&self, place: Place, refusal: Refusal) {
        let bounded = |text: String| text::excerpt(&text, MESSAGE_AT_MOST).into_owned();
        let Refusal { message, hint } = refusal;
        let mut all = self.0.borrow_mut();
        all.insert(Diagnostic { place, message: bounded(message), hint: hint.map(bounded) });
        if all.len() > KEPT_AT_MOST {
            all.pop_last();
        }
    }

    /// The problems in the order of the file: the first thousand of them.
    pub(super) fn into_sorted(self) -> Vec<Diagnostic> {
        self.0.into_inner().into_iter().collect()
    }
}

/// All problems of a file (at least one), and the file's text to show them in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    /// The file.
    pub path: PathBuf,
    /// In the order of the file; never empty, and a thousand at most.
    pub problems: Vec<Diagnostic>,
    pub(super) source: String,
}

impl Diagnostics {
    pub(super) fn new(path: &Path, source: &str, problems: Vec<Diagnostic>) -> Self {
        Self { path: path.to_owned(), problems, source: source.to_owned() }
    }

    /// Some problems of the same file; at least one.
    pub(super) fn only(&self, problems: Vec<Diagnostic>) -> Self {
        Self { problems, ..self.clone() }
    }

    /// Whether none was left out.
    pub(super) fn are_all(&self) -> bool {
        self.problems.len() < KEPT_AT_MOST
    }

    /// Every problem with its line, a caret below it and its hint; `colour` adds ANSI sequences. Ends without a line end.
    ///
    /// The text is bounded: 50 problems or some 32 KiB, and the number of the others.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let lines = lines(&self.source);
        let path = text::line(&self.path.display().to_string()).into_owned();
        let mut texts: Vec<String> = Vec::new();
        let mut bytes = 0;
        for problem in self.problems.iter().take(RENDERED_AT_MOST) {
            // The last line may be the empty one behind the last line end.
            let line = lines.get(problem.place.line - 1).copied().unwrap_or_default();
            let text = render_one(&renderer, &path, line, problem);
            bytes += text.len();
            texts.push(text);
            if bytes > RENDERED_BYTES_AT_MOST {
                break;
            }
        }
        let silent = self.problems.len() - texts.len();
        if silent > 0 {
            texts.push(format!("... and {}", self.more(silent)));
        }
        texts.join("\n\n")
    }

    /// How many problems there are beside those that are shown.
    fn more(&self, silent: usize) -> String {
        let least = if self.problems.len() == KEPT_AT_MOST { "at least " } else { "" };
        format!("{least}{silent} more")
    }
}

fn render_one(renderer: &Renderer, path: &str, line: &str, problem: &Diagnostic) -> String {
    let Place { line: number, column, .. } = problem.place;
    let title = Level::ERROR.primary_title(&problem.message);
    // Each character becomes exactly one, so that the columns stay the same.
    let shown: String = line
        .chars()
        .map(|letter| if letter != '\t' && text::is_unsafe(letter) { '\u{fffd}' } else { letter })
        .collect();
    let mut group = if line.len() > SHOWN_LINE_AT_MOST {
        title.element(Origin::path(path).line(number).char_column(column))
    } else {
        let annotation = AnnotationKind::Primary.span(byte_span(&shown, problem.place));
        title.element(Snippet::source(&shown).line_start(number).path(path).annotation(annotation))
    };
    if let Some(hint) = &problem.hint {
        group = group.element(Level::HELP.message(hint));
    }
    renderer.render(&[group])
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&text::line(&self.path.display().to_string()))?;
        if let Some(first) = self.problems.first() {
            write!(formatter, ":{}:{}: {}", first.place.line, first.place.column, first.message)?;
        }
        match self.problems.len() {
            0 | 1 => Ok(()),
            count => write!(formatter, " (and {})", self.more(count - 1)),
        }
    }
}

impl std::error::Error for Diagnostics {}

/// The bytes of `line` that `place` covers, clipped to the line.
fn byte_span(line: &str, place: Place) -> std::ops::Range<usize> {
    let byte_of = |column: usize| line.char_indices().nth(column).map_or(line.len(), |(byte, _)| byte);
    byte_of(place.column - 1)..byte_of(place.column - 1 + place.length)
}
