//! `docs/troubleshooting.md` has an entry for each message of portward, and no entry for a message that is gone.
//!
//! A message is what a person reads as an error, a warning, a refusal, a note or a failure. Nearly every text of three words or more
//! that stands in `src` is one, so every such text counts, unless [`role`] knows by its place that it is none (a line of the log at
//! level info, the help of clap, a step that is printed beside a message) or [`exceptions`] names it with the reason.

#![allow(clippy::unwrap_used, reason = "what surprises a test ends it")]

mod exceptions;
mod known;
mod page;
mod reader;
mod role;
mod source;
mod text;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use exceptions::Exceptions;
use integration_tests::read;
use page::Page;
use portward::doctor::CHECKS;
use source::{Literal, Source};
use text::Match;

const PAGE: &str = "docs/troubleshooting.md";

/// Read once for all tests.
static SOURCE: LazyLock<Source> = LazyLock::new(Source::read);

fn read_page() -> Page {
    Page::read(&read(PAGE))
}

/// The messages, each text once, and the exceptions that excused a text.
fn messages<'s>(source: &'s Source, exceptions: &mut Exceptions) -> Vec<&'s Literal> {
    let mut seen = BTreeSet::new();
    let mut messages: Vec<_> = source.literals.iter().filter(|literal| literal.is_message()).collect();
    messages.retain(|literal| !exceptions.excuse(literal));
    messages.retain(|literal| seen.insert(literal.text.pieces()));
    messages
}

#[test]
fn each_message_has_an_entry() {
    let (source, page) = (&*SOURCE, read_page());
    let mut exceptions = Exceptions::default();
    let messages = messages(source, &mut exceptions);
    assert!(messages.len() > 400, "only {} messages are found in src", messages.len());
    let is_listed =
        |message: &&&Literal| page.entries.iter().any(|entry| message.text.find(&entry.text).is_some());
    let missing = messages.iter().filter(|message| !is_listed(message));
    let missing: Vec<String> =
        missing.map(|message| format!("{}: {}", message.place, message.text)).collect();
    assert!(
        missing.is_empty(),
        "{PAGE} lacks {} of {} messages; add an entry, or an exception with its reason in exceptions.rs:\n{}",
        missing.len(),
        messages.len(),
        missing.join("\n")
    );
    let unused = exceptions.unused();
    assert!(unused.is_empty(), "exceptions.rs excuses what is not there any more:\n{}", unused.join("\n"));
}

#[test]
fn each_entry_is_a_message() {
    let (source, page) = (&*SOURCE, read_page());
    assert!(page.entries.len() > 300, "only {} entries are found in {PAGE}", page.entries.len());
    let dead = page.entries.iter().filter_map(|entry| {
        let left = source.left_of(&entry.text);
        (!left.is_empty()).then(|| format!("{PAGE}:{}: {}\n    not in src: {left}", entry.line, entry.text))
    });
    let dead: Vec<String> = dead.collect();
    assert!(dead.is_empty(), "entries that are in the source no more:\n{}", dead.join("\n"));
}

/// An entry may leave out the end of a long message, and must stand for one message then: it would hide a new one.
#[test]
fn an_entry_without_its_end_is_of_one_message() {
    let (source, page) = (&*SOURCE, read_page());
    let messages = messages(source, &mut Exceptions::default());
    let ambiguous = page.entries.iter().filter_map(|entry| {
        let beginning =
            |message: &&&Literal| matches!(message.text.find(&entry.text), Some(Match::Beginning(_)));
        let whole: Vec<_> = messages
            .iter()
            .filter(beginning)
            .filter(|message| {
                let is_whole =
                    |other: &page::Entry| matches!(message.text.find(&other.text), Some(Match::Whole(_)));
                !page.entries.iter().any(is_whole)
            })
            .map(|message| format!("\n    {}: {}", message.place, message.text))
            .collect();
        (whole.len() > 1).then(|| format!("{PAGE}:{}: {}{}", entry.line, entry.text, whole.concat()))
    });
    let ambiguous: Vec<String> = ambiguous.collect();
    assert!(ambiguous.is_empty(), "entries that stand for several messages:\n{}", ambiguous.join("\n"));
}

#[test]
fn each_class_of_failure_and_each_check_of_doctor_has_a_section() {
    let source = &*SOURCE;
    let classes = source.variants("core/failure.rs", "FailureKind");
    assert!(classes.contains(&"remote_port_held".to_owned()), "{classes:?}");
    let page = read_page();
    let checks = CHECKS.iter().map(|check| check.name.to_owned());
    let missing: Vec<String> =
        classes.into_iter().chain(checks).filter(|word| !page.sections.contains(word)).collect();
    assert!(missing.is_empty(), "{PAGE} has no heading, in back quotes, for {}", missing.join(", "));
}

/// The words by which a client tells failures apart are in the texts of the page as well.
#[test]
fn each_class_of_a_health_check_and_of_a_failed_connection_is_named() {
    let source = &*SOURCE;
    let page = read(PAGE);
    let classes = source.variants("core/check_error.rs", "CheckErrorKind");
    assert!(classes.len() > 5, "{classes:?}");
    let missing: Vec<_> = classes.into_iter().filter(|word| !page.contains(&format!("`{word}`"))).collect();
    assert!(missing.is_empty(), "{PAGE} does not name {missing:?}");
}
