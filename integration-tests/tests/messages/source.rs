//! The texts of `src`, and what makes up an entry of the page.

use std::collections::BTreeMap;

use integration_tests::read_below;
use syn::visit::Visit;

use crate::known::Known;
use crate::reader::Reader;
use crate::role::Role;
use crate::text::{Fit, Match, Quoted, Text, collapsed, words};

/// A text that is no message by its place is one from so many words on.
const SENTENCE: usize = 3;

/// A text that is a message by its place is one from so many words on: one word alone is put into another text.
const NAMED: usize = 2;

/// So many words of an entry may be known as single ones.
const SINGLE: usize = 3;

/// A text of the source.
#[derive(Debug)]
pub(crate) struct Literal {
    /// File and line.
    pub(crate) place: String,
    /// The file, below `src`.
    pub(crate) file: String,
    /// The constant or function that it stands in.
    pub(crate) item: String,
    pub(crate) text: Text,
    pub(crate) role: Role,
}

impl Literal {
    /// Whether a person may read it as a message, or as the beginning of one.
    pub(crate) fn is_message(&self) -> bool {
        let enough = match self.role {
            Role::Message => NAMED,
            Role::Unknown => SENTENCE,
            Role::Other => return false,
        };
        self.text.begins() && self.text.words() >= enough
    }
}

/// All texts of the product.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) literals: Vec<Literal>,
    /// The variants of enums, by file and name.
    pub(crate) enums: BTreeMap<(String, String), Vec<String>>,
}

impl Source {
    /// Of the product.
    pub(crate) fn read() -> Self {
        Self::of(&read_below("src", "rs"))
    }

    /// Of these files, by their names below `src`.
    fn of(files: &[(String, String)]) -> Self {
        let parsed = files.iter().map(|(name, text)| {
            let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name.as_str(), file)
        });
        let parsed: Vec<(&str, syn::File)> = parsed.collect();
        let mut known = Known::default();
        for (name, file) in &parsed {
            (*name).clone_into(&mut known.file);
            known.visit_file(file);
        }
        let mut source = Self::default();
        for (name, file) in parsed.iter().filter(|(name, _)| !known.is_of_tests(name)) {
            Reader::new(&mut source, &known, name).visit_file(file);
        }
        source
    }

    /// The variants of an enum, as serde writes them in snake case.
    pub(crate) fn variants(&self, file: &str, name: &str) -> Vec<String> {
        self.enums.get(&(file.to_owned(), name.to_owned())).cloned().unwrap_or_default()
    }

    /// What there is of an entry that no text of the source has; empty if all of it is known.
    pub(crate) fn left_of(&self, entry: &Quoted) -> String {
        let mut is_known = vec![false; entry.text.len()];
        for literal in &self.literals {
            // A single word is in many places: it counts where it stands alone.
            let fit = if literal.text.words() > 1 { Fit::Within } else { Fit::Alone };
            for place in literal.text.find_all(entry, fit).iter().flat_map(Match::places) {
                is_known[place.clone()].fill(true);
            }
        }
        let left = entry.text.char_indices().map(|(at, letter)| if is_known[at] { ' ' } else { letter });
        let left = collapsed(&left.collect::<String>());
        let unknown = left.split(' ').map(|word| word.trim_matches(|letter: char| !letter.is_alphanumeric()));
        let unknown: Vec<&str> = unknown.filter(|word| words(word) > 0).collect();
        let are_single = || unknown.iter().all(|word| self.is_single(word));
        let has_message = || self.literals.iter().any(|literal| literal.text.find(entry).is_some());
        if unknown.len() <= SINGLE && are_single() && has_message() { String::new() } else { left }
    }

    /// Whether a text consists of this word, and of what is put in.
    fn is_single(&self, word: &str) -> bool {
        self.literals.iter().any(|literal| literal.text.pieces() == [word])
    }
}

/// What is found to be a message in these files.
#[cfg(test)]
fn found(files: &[(&str, &str)]) -> Vec<String> {
    let files: Vec<_> = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let source = Source::of(&files);
    let messages = source.literals.iter().filter(|literal| literal.is_message());
    messages.map(|message| message.text.to_string()).collect()
}

#[test]
fn a_message_is_found_however_it_is_made() {
    for (code, message) in [
        ("enum E { #[error(\"it is {0}\")] A(u8) }", "it is …"),
        ("const WHY: &str = \"no such thing there\";", "no such thing there"),
        ("fn f() { Refusal::new(\"is odd\").hint(\"write it in another way\"); }", "is odd"),
        (
            "fn f() { let what = format!(\"{x} is bad\"); Finding::error(what, \"it is of use\", \"do it now\"); }",
            "… is bad",
        ),
        ("fn f() -> E { E::Io(format!(\"{a} and {{b}} are gone\")) }", "… and {b} are gone"),
        ("fn f() { tracing::warn!(%error, event = \"one of many\", \"is lost\"); }", "is lost"),
        ("fn f() { log!(warn, id, event = \"a\", \"{} is lost\", name); }", "… is lost"),
        ("fn f() { tokio::select! { _ = a => { g.warn(\"it is in a macro\"); } } }", "it is in a macro"),
        (
            "fn forbid(key: &str, why: &str, hint: &str) {} fn f() { forbid(\"k\", \"is void\", \"take it out there\"); }",
            "is void",
        ),
        (
            "fn f() { let (hint, text) = if a { (\"take it out\", \"that is it\") } else { b }; }",
            "that is it",
        ),
    ] {
        assert_eq!(found(&[("a.rs", code)]), [message], "{code}");
    }
}

#[test]
fn what_nobody_reads_as_a_message_is_none() {
    for code in [
        "/// This is no message.\n#[arg(help = \"this is the help\")] struct A;",
        "fn f() { info!(\"all is well here\"); log!(debug, id, \"all is well here\"); }",
        "fn f() { x.expect(\"it was made above\"); assert!(a, \"that is not so\"); }",
        "fn f() { if line.starts_with(\"ssh says that now\") || line == \"a whole other line\" {} }",
        "fn f() { match word { \"one of the words\" => {} _ => {} } }",
        "fn f() { let hint = \"do this and that\"; }",
        "fn f() { text.push_str(\", and more of it\"); }",
        "#[cfg(test)] mod tests { const A: &str = \"only for a test\"; }",
    ] {
        assert_eq!(found(&[("a.rs", code)]), [""; 0], "{code}");
    }
    let of_tests = [("b/mod.rs", "#[cfg(test)] mod c;"), ("b/c.rs", "const A: &str = \"only for a test\";")];
    assert_eq!(found(&of_tests), [""; 0]);
}
