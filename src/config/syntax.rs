//! What the YAML parser cannot read, in words for a person.

use saphyr_parser::ScanError;

use super::diagnose::{Place, Problems, Refusal, shorten};

/// What the parser says, and what a person probably did.
const SLIPS: &[(&str, &str)] = &[
    ("simple key expected", "a key is followed by a colon and a space, as in `local_port: 13306`"),
    ("simple key expect", "a key is followed by a colon and a space, as in `local_port: 13306`"),
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

/// Reports `error`, with a hint for the usual slips.
pub(super) fn report(source: &str, error: &ScanError, problems: &Problems) {
    let lines: Vec<&str> = source.lines().collect();
    let marker = error.marker();
    let mut place = Place { line: marker.line().max(1), column: marker.col() + 1, length: 1 };
    // The parser often finds out at the end of the file; what a person sees is the last line with something on it.
    while place.line > 1 && lines.get(place.line - 1).is_none_or(|line| line.trim().is_empty()) {
        let length = lines.get(place.line - 2).map_or(0, |line| line.chars().count());
        place = Place { line: place.line - 1, column: length + 1, length: 1 };
    }
    let refusal = Refusal::new(format!("not valid YAML: {}", error.info()));
    let tab = (place.line..).zip(lines.iter().skip(place.line - 1)).find_map(|(line, text)| {
        let indentation = text.chars().take_while(|letter| letter.is_whitespace());
        let column = indentation.enumerate().find(|(_, letter)| *letter == '\t')?.0 + 1;
        Some(Place { line, column, length: 1 })
    });
    if let Some(tab) = tab.filter(|tab| tab.line == place.line || error.info().contains("tab")) {
        return problems.report(tab, refusal.hint("indent with spaces: YAML does not allow tabs there"));
    }
    let value = lines.get(place.line - 1).and_then(|line| line.split_once(": "));
    let value = value.map_or("", |(_, value)| value.trim());
    let slip = SLIPS.iter().find(|(said, _)| error.info().contains(said));
    let refusal = match slip {
        // These mean something to YAML where a value begins.
        _ if value.starts_with(['[', '*', '&', '@', '%', '`', '{']) => {
            refusal.hint(format!("put the value in quotes: '{}'", shorten(value)))
        }
        Some((_, hint)) => refusal.hint(*hint),
        None => refusal.hint("see the line above it, too"),
    };
    problems.report(place, refusal);
}
