//! Finds common mistakes that make a file invalid YAML by looking at its lines: the parser reports most of them at a later place and
//! with a misleading message.

use std::collections::BTreeSet;

use super::diagnose::{Place, Refusal, quote};
use super::{hint, meant, raw};

/// Lines above the one where the parser gave up that may be the cause; empty ones and comments do not count.
const LINES_ABOVE: usize = 2;

/// Lines up to this many bytes are shown in a hint.
const SHOWN_AT_MOST: usize = 200;

/// A mistake, and the fix.
type Slip = (Place, Refusal);

/// The mistake that made the parser fail in line `failed` (from 1), if it is a known one.
pub(super) fn find(lines: &[&str], failed: usize) -> Option<Slip> {
    let known = raw::known_keys();
    let is_shown = |number: &usize| {
        lines
            .get(*number - 1)
            .is_some_and(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
    };
    let candidates = (1..=failed.min(lines.len())).rev().filter(is_shown).take(LINES_ABOVE + 1);
    let in_line = candidates.filter(|number| lines[*number - 1].len() <= SHOWN_AT_MOST).find_map(|number| {
        let line = Line::new(lines[number - 1], number);
        line.foreign().or_else(|| line.key(&known)).or_else(|| line.value())
    });
    // A tab ends what the line before it says.
    let next = || Line::new(lines.get(failed)?, failed + 1).foreign();
    let in_line = in_line.or_else(next);
    in_line.or_else(|| bracket(lines, failed)).or_else(|| indentation(lines, failed, &known))
}

/// A placeholder of a template in line `number` that is no YAML.
pub(super) fn template(lines: &[&str], number: usize) -> Option<Slip> {
    Line::new(lines.get(number.checked_sub(1)?)?, number).template()
}

/// A text between double quotes that begins at this place and holds backslashes that begin no escape.
pub(super) fn escape(lines: &[&str], place: Place) -> Option<Slip> {
    let text = *lines.get(place.line.checked_sub(1)?)?;
    let (begin, _) = text.char_indices().nth(place.column.checked_sub(1)?)?;
    let inner = text[begin..].strip_prefix('"')?;
    let end = inner.find('"').filter(|end| *end <= SHOWN_AT_MOST)?;
    let line = Line::new(text, place.line);
    (!is_escaped_well(inner)).then(|| {
        let hint = hint::write(&in_single_quotes(&inner[..end]));
        line.slip(&text[begin..begin + end + 2], BACKSLASH, hint)
    })
}

const BACKSLASH: &str = "a backslash between double quotes begins an escape";

/// One line of the file.
#[derive(Debug, Clone, Copy)]
struct Line<'l> {
    text: &'l str,
    number: usize,
    /// What comes behind the indentation and the dash of a list.
    body: &'l str,
}

impl<'l> Line<'l> {
    fn new(text: &'l str, number: usize) -> Self {
        let body = text.trim();
        let body = body.strip_prefix("- ").map_or(body, str::trim_start);
        Self { text, number, body }
    }

    /// The place of a part of the line.
    fn place(&self, part: &str) -> Place {
        let before = part.as_ptr() as usize - self.text.as_ptr() as usize;
        let column = self.text[..before].chars().count() + 1;
        Place { line: self.number, column, length: part.chars().count().max(1) }
    }

    fn slip(&self, part: &str, what: impl Into<String>, hint: impl Into<String>) -> Slip {
        (self.place(part), Refusal::new(what).hint(hint))
    }

    /// What other programs or people have left in the file.
    fn foreign(&self) -> Option<Slip> {
        let marker = ["<<<<<<<", "=======", ">>>>>>>", "|||||||"];
        if let Some(marker) = marker.iter().find(|marker| self.text.starts_with(**marker)) {
            return Some(self.slip(
                &self.text[..marker.len()],
                "a conflict of a merge that was not resolved",
                "keep one of the two sides, and remove the lines that begin with `<<<<<<<`, `=======` and `>>>>>>>`",
            ));
        }
        let indentation = &self.text[..self.text.len() - self.text.trim_start().len()];
        if let Some(at) = indentation.find('\t') {
            return Some(self.slip(
                &self.text[at..=at],
                "a tab in the indentation",
                "indent with spaces: YAML does not allow tabs there",
            ));
        }
        let comment =
            ["//", ";", "/*", "--"].iter().find(|sign| self.body.starts_with(**sign) && self.body != "---");
        if let Some(sign) = comment {
            let comment = self.body.trim_start_matches(*sign).trim();
            return Some(self.slip(
                &self.body[..sign.len()],
                format!("{} does not begin a comment", quote(sign)),
                format!("write `# {comment}`"),
            ));
        }
        self.template()
    }

    fn template(&self) -> Option<Slip> {
        let placeholder = meant::template(self.text)?;
        let refusal = meant::filled_in(placeholder).err()?;
        Some((self.place(placeholder), refusal))
    }

    /// A key of ours that is not followed by a colon and a space.
    fn key(&self, known: &BTreeSet<String>) -> Option<Slip> {
        let (dash, body) = match self.body.strip_prefix('-') {
            Some(rest) if !rest.starts_with(['-', ' ']) => ("- ", rest),
            _ => ("", self.body),
        };
        let end =
            body.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(body.len());
        let (key, rest) = body.split_at(end);
        if key.is_empty() || (!known.contains(key) && !rest.trim_start().starts_with('=')) {
            return None;
        }
        let value = rest.trim_start_matches([':', '=', '：', ' ', '\t']);
        let meant = if value.is_empty() { format!("{dash}{key}:") } else { format!("{dash}{key}: {value}") };
        let what = match rest.chars().next() {
            _ if !dash.is_empty() => "a space is missing behind the dash",
            Some(':') if rest.starts_with(":\t") => "a tab behind the colon",
            Some(':') if rest.len() == 1 || rest.starts_with(": ") => return None,
            Some(':') => "a space is missing behind the colon",
            Some('：') => "a colon of another width, which is a letter to YAML",
            _ if rest.trim_start().starts_with('=') => {
                "a colon is needed between a key and its value, not `=`"
            }
            _ => "a colon is missing behind the key",
        };
        Some(self.slip(if dash.is_empty() { key } else { self.body }, what, hint::write(&meant)))
    }

    /// A value that YAML takes for something else, or for too little.
    fn value(&self) -> Option<Slip> {
        let (key, value) = self.body.split_once(": ")?;
        let is_key = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
        if !key.chars().all(is_key) && key != "<<" {
            return None;
        }
        let value = value.trim();
        if key == "<<" {
            let hint = "merge keys are not read: put what tunnels share under `defaults:`";
            return Some(self.slip(key, "a merge key", hint));
        }
        let whole = |what: &str| {
            let meant = format!("{key}: {}", in_single_quotes(value));
            Some(self.slip(value, what, hint::write(&meant)))
        };
        match value.chars().next()? {
            quotes @ ('"' | '\'') => self.quoted(key, value, quotes),
            '*' | '&' | '@' | '%' | '`' | '!' => match meant::filled_in(value) {
                Err(refusal) => Some((self.place(value), refusal)),
                Ok(()) => whole("a value that begins with a special character of YAML needs quotes"),
            },
            '|' | '>' if value.len() > 1 && !value[1..].starts_with(['-', '+', ' ', '#']) => {
                whole("a value that begins with a special character of YAML needs quotes")
            }
            '|' | '>' if value[1..].starts_with(' ') && !value[1..].trim_start().starts_with('#') => {
                whole("the text of a block begins in the next line")
            }
            '-' if value.starts_with("- ") => {
                let meant = value.trim_start_matches("- ");
                Some(self.slip(
                    value,
                    "a list cannot begin behind its key",
                    format!("write `{key}: [{meant}]`, or the dash in a line of its own below `{key}:`"),
                ))
            }
            '[' | '{' => {
                let end = closing(value)?;
                // As in `[::1]:80`.
                (!value[end..].trim().is_empty() && !value[end..].trim_start().starts_with('#'))
                    .then(|| whole("a text that begins with a bracket needs quotes"))
                    .flatten()
            }
            _ if value.contains(": ") || value.ends_with(':') => {
                whole("a value that holds a colon needs quotes")
            }
            _ => None,
        }
    }

    /// A value that begins with a quote.
    fn quoted(&self, key: &str, value: &str, quotes: char) -> Option<Slip> {
        let write = |meant: &str| hint::write(&format!("{key}: {meant}"));
        let inner = &value[1..];
        if quotes == '"' && inner.contains('\\') && !is_escaped_well(inner) {
            let text = inner.rsplit_once('"').map_or(inner, |(text, _)| text);
            return Some(self.slip(value, BACKSLASH, write(&in_single_quotes(text))));
        }
        match inner.match_indices(quotes).find(|(at, _)| !is_doubled_or_escaped(inner, *at, quotes)) {
            None => Some(self.slip(value, "a quote that is not closed", write(&in_single_quotes(inner)))),
            Some((at, _)) => {
                let rest = inner[at + 1..].trim();
                if rest.is_empty() || rest.starts_with('#') {
                    return None;
                }
                // Quotes around all of it were meant, or quotes that belong to the text.
                let text = match inner.strip_suffix(quotes) {
                    Some(text) if !text[at + 1..].contains(quotes) => text,
                    _ => value,
                };
                Some(self.slip(
                    value,
                    "unexpected text after the closing quote",
                    write(&in_single_quotes(text)),
                ))
            }
        }
    }
}

fn in_single_quotes(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Whether the quote at `at` belongs to the text: `''` between single ones, `\"` between double ones.
fn is_doubled_or_escaped(text: &str, at: usize, quotes: char) -> bool {
    let before = &text[..at];
    let alike = |sign: char| before.len() - before.trim_end_matches(sign).len();
    match quotes {
        '"' => alike('\\') % 2 == 1,
        // Of a pair, the second one looks back on the first.
        _ => text[at + 1..].starts_with('\'') || alike('\'') % 2 == 1,
    }
}

/// Whether every backslash between double quotes begins an escape that YAML knows and people write.
fn is_escaped_well(text: &str) -> bool {
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter == '"' {
            return true;
        }
        if letter != '\\' {
            continue;
        }
        let escape = letters.next();
        let is_hexadecimal = |length: usize| {
            let digits: String = letters.clone().take(length).collect();
            digits.len() == length && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
        };
        let known = match escape {
            Some('x') => is_hexadecimal(2),
            Some('u') => is_hexadecimal(4),
            Some('U') => is_hexadecimal(8),
            Some(letter) => "0abtnvfre \"/\\N_LP".contains(letter),
            None => false,
        };
        if !known {
            return false;
        }
    }
    true
}

/// The end of the brackets that `value` begins with, which are closed.
fn closing(value: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (at, letter) in outside_quotes(value) {
        match letter {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

/// The letters of a line that are in no quotes and no comment.
fn outside_quotes(line: &str) -> impl Iterator<Item = (usize, char)> {
    let mut open = None;
    let mut before = ' ';
    let mut is_comment = false;
    line.char_indices().filter(move |(_, letter)| {
        let begins = matches!(before, ' ' | '\t' | '[' | '{' | ',' | ':');
        is_comment |= open.is_none() && *letter == '#' && matches!(before, ' ' | '\t');
        let is_outside = open.is_none() && !is_comment;
        match (open, *letter) {
            (None, '"' | '\'') if begins => open = Some(*letter),
            (Some(quotes), letter) if letter == quotes && !(quotes == '"' && before == '\\') => open = None,
            _ => {}
        }
        before = *letter;
        is_outside && open.is_none()
    })
}

/// A bracket that is not closed, or that closes nothing, up to the line `failed`.
fn bracket(lines: &[&str], failed: usize) -> Option<Slip> {
    let mut open: Vec<(usize, usize, char)> = Vec::new();
    for (number, text) in (1..=failed).zip(lines) {
        // Where no bracket is open, one counts only at the begin of a value or of an element.
        let line = Line::new(text, number);
        for (at, letter) in outside_quotes(text) {
            let before = text[..at].trim_end();
            let begins =
                !open.is_empty() || before.is_empty() || before.ends_with(':') || before.ends_with('-');
            match letter {
                '[' | '{' if begins => open.push((number, at, letter)),
                ']' | '}' if open.is_empty() => {
                    let is_value = before.ends_with([']', '}']);
                    if is_value {
                        let what = format!("{} closes nothing", quote(&letter.to_string()));
                        return Some(line.slip(&text[at..=at], what, "remove it"));
                    }
                }
                ']' | '}' => {
                    let (_, _, opened) = open.pop()?;
                    let wanted = closes(opened);
                    if wanted != letter {
                        let what = format!(
                            "{} is closed by {}",
                            quote(&opened.to_string()),
                            quote(&letter.to_string())
                        );
                        return Some(line.slip(&text[at..=at], what, format!("write `{wanted}` there")));
                    }
                }
                _ => {}
            }
        }
    }
    let (number, at, letter) = *open.last()?;
    let text = lines[number - 1];
    let line = Line::new(text, number);
    // Up to a comment, and without the comma that no element follows.
    let end = outside_quotes(text).map(|(at, letter)| at + letter.len_utf8()).last().unwrap_or(at + 1);
    let content = text[..end.max(at + 1)].trim().trim_end_matches([',', ' ']);
    let missing: String =
        open.iter().rev().filter(|(of, ..)| *of == number).map(|(_, _, letter)| closes(*letter)).collect();
    let hint = if content.len() <= SHOWN_AT_MOST && content.len() > 1 && text.len() > at + 1 {
        hint::write(&format!("{content}{missing}"))
    } else {
        format!("write `{}` where it ends", closes(letter))
    };
    Some(line.slip(&text[at..=at], "a bracket that is not closed", hint))
}

fn closes(opening: char) -> char {
    if opening == '[' { ']' } else { '}' }
}

/// A key or a dash that is indented otherwise than those above it.
fn indentation(lines: &[&str], failed: usize, known: &BTreeSet<String>) -> Option<Slip> {
    let indent = |text: &str| text.len() - text.trim_start_matches(' ').len();
    let line = Line::new(lines.get(failed.checked_sub(1)?)?, failed);
    let text = line.text;
    let is_ours = |body: &str| body.split_once(':').is_some_and(|(key, _)| known.contains(key));
    if !is_ours(line.body) {
        return None;
    }
    let is_item = |text: &str| text.trim_start().starts_with("- ");
    let above = (1..failed).map(|number| (lines[number - 1], number)).rev();
    let mut above = above.filter(|(text, _)| !text.trim().is_empty() && !text.trim_start().starts_with('#'));
    let (model, number) = if is_item(text) {
        above.find(|(text, _)| is_item(text))?
    } else {
        above.find(|(text, number)| is_ours(Line::new(text, *number).body))?
    };
    let wanted = match indent(model) {
        indent if is_item(model) && !is_item(text) => indent + 2,
        indent => indent,
    };
    let found = indent(text);
    if wanted == found {
        return None;
    }
    let shown = format!("{}{}", " ".repeat(wanted), text.trim());
    Some(line.slip(
        line.text.trim(),
        format!("indented by {found} spaces, and line {number} by {wanted}"),
        format!("write \"{shown}\", for what belongs together is indented alike"),
    ))
}
