//! Errors of the YAML parser, rephrased for the user.

use saphyr_parser::ScanError;

use super::diagnose::{self, Place, Problems, Refusal};
use super::slips;

/// An error of the parser, and its probable cause.
const SLIPS: &[(&str, &str)] = &[
    ("simple key expected", "a key is followed by a colon and a space, as in `local_port: 13306`"),
    ("simple key expect", "a key is followed by a colon and a space, as in `local_port: 13306`"),
    ("trailing content", "put a comma between the two, or quotes around all of it"),
    ("escape character", "write a text with backslashes in single quotes"),
    ("hexadecimal", "write a text with backslashes in single quotes"),
    ("unknown anchor", "write the value out, or in quotes if it is to begin with `*`"),
    ("unexpected character", "put the value in quotes"),
    ("quoted scalar", "close the quotes"),
    ("flow", "close the bracket or the brace"),
    (
        "mapping values are not allowed",
        "indent all keys of a tunnel alike, and quote a value that holds `: `",
    ),
    ("expected key", "indent all keys of a tunnel alike"),
    ("block collection", "indent all keys of a tunnel alike"),
    ("indent", "indent all keys of a tunnel alike"),
];

/// Reports `error`, with a hint for common mistakes.
pub(super) fn report(source: &str, error: &ScanError, problems: &Problems) {
    let lines = diagnose::lines(source);
    let marker = error.marker();
    let mut place = Place { line: marker.line().max(1), column: marker.col() + 1, length: 1 };
    // The parser often fails at the end of the file: show the last line that is not empty.
    while place.line > 1 && lines.get(place.line - 1).is_none_or(|line| line.trim().is_empty()) {
        let length = lines.get(place.line - 2).map_or(0, |line| line.chars().count());
        place = Place { line: place.line - 1, column: length + 1, length: 1 };
    }
    let slip = slips::find(&lines, place.line).or_else(|| slips::escape(&lines, place));
    if let Some((place, refusal)) = slip {
        return problems.report(place, refusal);
    }
    let refusal = Refusal::new(format!("not valid YAML: {}", error.info()));
    let slip = SLIPS.iter().find(|(said, _)| error.info().contains(said));
    let hint = slip.map_or("see the line above it, too", |(_, hint)| hint);
    problems.report(place, refusal.hint(hint));
}
