//! Target of the fuzzer: the configuration.

#![allow(clippy::missing_panics_doc, reason = "a panic is how a target reports a fault")]

use std::path::Path;

use super::{diagnose, file, parse_for};
use crate::text;

/// Longest rendering of a file's problems, in bytes: 32 KiB of problems, the last one of them whole, with colour.
const RENDERED_AT_MOST: usize = 64 * 1024;

/// The bytes of a file. Each problem has a place in it, on one line that is safe to show.
pub fn config(bytes: &[u8]) {
    let path = Path::new("/etc/portward/config.yaml");
    let Ok(source) = file::text(bytes.to_vec(), path) else { return };
    // The home directory of whoever runs the fuzzer must not matter.
    let Err(found) = parse_for(&source, path, Some(Path::new("/root"))) else { return };
    assert!(!found.problems.is_empty());
    let lines = diagnose::lines(&source);
    for diagnose::Diagnostic { place, message, hint } in &found.problems {
        // Behind the last line end there is one more line, and behind the last character one more column.
        assert!((1..=lines.len() + 1).contains(&place.line), "{place:?}: {message}");
        let line = lines.get(place.line - 1).copied().unwrap_or_default();
        assert!((1..=line.chars().count() + 1).contains(&place.column), "{place:?} of {line:?}: {message}");
        for shown in [Some(message), hint.as_ref()].into_iter().flatten() {
            assert!(shown.chars().all(|letter| letter == '\t' || !text::is_unsafe(letter)), "{shown:?}");
        }
    }
    let shown = found.clone().without_secrets();
    assert_eq!(shown.problems.len(), found.problems.len());
    for rendered in [found.render(true), shown.render(true)] {
        assert!(rendered.contains("error") && rendered.len() < RENDERED_AT_MOST, "{} bytes", rendered.len());
    }
}
