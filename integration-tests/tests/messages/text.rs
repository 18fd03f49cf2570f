//! A text of the source with parts that vary, and where it stands in an entry of the page.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

/// Stands for a part that varies, on the page and in messages of this test.
pub(crate) const VARIES: char = '…';

/// An entry that leaves out the end of a message has at least so many of its words.
const SHORTEST_BEGINNING: usize = 4;

/// What may stand between a piece and what is put in behind it, on the page or in the source.
const EDGES: [char; 4] = [' ', '`', '"', '\''];

/// What may stand before the first word of a text that begins with it.
const OPENING: [char; 8] = ['`', '"', '\'', '(', '[', '<', '{', '*'];

/// How a text may stand in an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// As a message, or as a part of one that varies.
    Alone,
    /// Among other words.
    Within,
}

/// A text in pieces, between which something is put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    whole: String,
    pieces: Vec<String>,
    begins: bool,
}

/// What an entry of the page quotes, with its words: nearly all texts are none of it, and that is told by the first word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quoted {
    pub(crate) text: String,
    words: HashSet<String>,
}

impl Quoted {
    pub(crate) fn new(text: &str) -> Self {
        let text = collapsed(text);
        let words = text.split(|letter: char| !letter.is_alphanumeric()).map(str::to_owned).collect();
        Self { text, words }
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Where the pieces of a text stand in an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Match {
    /// All of them.
    Whole(Vec<Range<usize>>),
    /// Those at the beginning; the entry leaves out the rest.
    Beginning(Vec<Range<usize>>),
}

impl Match {
    pub(crate) fn places(&self) -> &[Range<usize>] {
        match self {
            Self::Whole(places) | Self::Beginning(places) => places,
        }
    }
}

impl Text {
    /// A text as it is.
    pub(crate) fn plain(text: &str) -> Self {
        Self::new(text)
    }

    /// A text with `{…}` as `format!` takes it.
    pub(crate) fn format(text: &str) -> Self {
        let mut whole = String::new();
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                '{' | '}' if letters.peek() == Some(&letter) => {
                    letters.next();
                    whole.push(letter);
                }
                '{' => {
                    letters.by_ref().take_while(|letter| *letter != '}').for_each(drop);
                    whole.push(VARIES);
                }
                _ => whole.push(letter),
            }
        }
        Self::new(&whole)
    }

    fn new(text: &str) -> Self {
        // A sentence of its own may follow another text.
        let sentence = text.strip_prefix(". ").unwrap_or(text);
        let first = sentence.chars().find(|letter| !OPENING.contains(letter));
        let begins = first.is_some_and(|letter| letter.is_alphanumeric() || letter == VARIES);
        let whole = collapsed(text);
        let is_word = |piece: &&str| piece.contains(char::is_alphanumeric);
        let mut pieces: Vec<String> = whole
            .split(VARIES)
            .filter(is_word)
            .map(|piece| piece.trim_matches(&EDGES[..]).to_owned())
            .collect();
        // What a text begins and ends with may be another one on the page, as a full stop or a colon.
        if let Some(first) = pieces.first_mut() {
            *first = first.trim_start_matches(|letter: char| !letter.is_alphanumeric()).to_owned();
        }
        if let Some(last) = pieces.last_mut() {
            *last = last.trim_end_matches(|letter: char| !letter.is_alphanumeric()).to_owned();
        }
        Self { whole, pieces, begins }
    }

    pub(crate) fn pieces(&self) -> &[String] {
        &self.pieces
    }

    /// How many words there are that do not vary.
    pub(crate) fn words(&self) -> usize {
        self.pieces.iter().map(|piece| words(piece)).sum()
    }

    /// Whether it is the beginning of what a person reads, and not added to another text.
    pub(crate) fn begins(&self) -> bool {
        self.begins
    }

    /// Whether it begins as the text that it is compared with does.
    pub(crate) fn starts_with(&self, start: &str) -> bool {
        self.whole.starts_with(start)
    }

    /// Where it stands in `entry`.
    pub(crate) fn find(&self, entry: &Quoted) -> Option<Match> {
        if self.may_be_in(entry) { self.places(&entry.text, 0, Fit::Alone) } else { None }
    }

    /// All places where it stands in `entry`.
    pub(crate) fn find_all(&self, entry: &Quoted, fit: Fit) -> Vec<Match> {
        let (mut found, mut from) = (Vec::new(), 0);
        if !self.may_be_in(entry) {
            return found;
        }
        let entry = entry.text.as_str();
        while let Some(place) = self.places(entry, from, fit) {
            let Some(first) = place.places().first() else { break };
            from = first.start + 1;
            from = (from..=entry.len()).find(|at| entry.is_char_boundary(*at)).unwrap_or(entry.len());
            found.push(place);
        }
        found
    }

    fn may_be_in(&self, entry: &Quoted) -> bool {
        let first = self.pieces.first().map(|piece| piece.split(|letter: char| !letter.is_alphanumeric()));
        first
            .and_then(|mut words| words.find(|word| !word.is_empty()))
            .is_some_and(|word| entry.words.contains(word))
    }

    fn places(&self, entry: &str, from: usize, fit: Fit) -> Option<Match> {
        let first = self.pieces.first()?;
        let mut begins = entry[from..].match_indices(first.as_str()).map(|(at, _)| from + at).peekable();
        if begins.peek().is_none() {
            return self.beginning_of_first(entry, from);
        }
        begins.find_map(|at| {
            let begins = match fit {
                Fit::Alone => stands_alone_before(entry, at),
                Fit::Within => !continues_word(entry, at),
            };
            let place = at..at + first.len();
            begins.then(|| self.rest(entry, vec![place], fit)).flatten()
        })
    }

    /// The other pieces, behind those that are found.
    fn rest(&self, entry: &str, mut found: Vec<Range<usize>>, fit: Fit) -> Option<Match> {
        let behind = found.last()?.end;
        if continues_word(entry, behind) {
            return None;
        }
        let Some(next) = self.pieces.get(found.len()) else {
            let ends = fit == Fit::Within || stands_alone_behind(entry, behind);
            return ends.then_some(Match::Whole(found));
        };
        let whole = entry[behind..].match_indices(next.as_str()).find_map(|(at, _)| {
            let place = behind + at..behind + at + next.len();
            let fits = !continues_word(entry, place.start) && !continues_word(entry, place.end);
            fits.then(|| self.rest(entry, [&found[..], &[place]].concat(), fit)).flatten()
        });
        if whole.is_some() {
            return whole;
        }
        let left = entry[behind..].strip_suffix(VARIES)?;
        let tail = left.trim_start_matches(|letter: char| !letter.is_alphanumeric());
        let is_cut = tail.is_empty() || cut(next, tail);
        let known: usize = self.pieces[..found.len()].iter().map(|piece| words(piece)).sum();
        if !is_cut || known + words(tail) < SHORTEST_BEGINNING {
            return None;
        }
        if !tail.is_empty() {
            found.push(behind + left.len() - tail.len()..behind + left.len());
        }
        Some(Match::Beginning(found))
    }

    /// The entry ends within the first piece.
    fn beginning_of_first(&self, entry: &str, from: usize) -> Option<Match> {
        let first = self.pieces.first()?;
        let left = entry.strip_suffix(VARIES)?.trim_end();
        let opening = first.match_indices(' ').nth(SHORTEST_BEGINNING - 1).map(|(at, _)| &first[..at])?;
        let mut begins = left.get(from..)?.match_indices(opening).map(|(at, _)| from + at);
        let at = begins.find(|at| stands_alone_before(entry, *at) && cut(first, &left[*at..]))?;
        let place = at..left.len();
        (words(&left[at..]) >= SHORTEST_BEGINNING).then(|| Match::Beginning(vec![place]))
    }
}

impl fmt::Display for Text {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.whole)
    }
}

/// Whether `beginning` is the beginning of `piece`, up to the end of a word.
fn cut(piece: &str, beginning: &str) -> bool {
    let beginning = beginning.trim_end();
    // What a piece begins with was taken off where it is the first one.
    let piece = piece.trim_start_matches(|letter: char| !letter.is_alphanumeric());
    let Some(rest) = piece.strip_prefix(beginning) else { return false };
    !rest.starts_with(char::is_alphanumeric)
}

/// With single blanks, and with nothing but words between them.
pub(crate) fn collapsed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(crate) fn words(text: &str) -> usize {
    text.split(' ').filter(|word| word.contains(char::is_alphabetic)).count()
}

fn letter_before(entry: &str, at: usize) -> Option<char> {
    entry[..at].chars().next_back()
}

/// Whether a word goes on at this place.
fn continues_word(entry: &str, at: usize) -> bool {
    let behind = entry[at..].chars().next();
    letter_before(entry, at).is_some_and(char::is_alphanumeric) && behind.is_some_and(char::is_alphanumeric)
}

/// Whether what stands before this place is a part that varies, the end of another part, or nothing.
fn stands_alone_before(entry: &str, at: usize) -> bool {
    !entry[..at].trim_end().ends_with(char::is_alphanumeric)
}

fn stands_alone_behind(entry: &str, at: usize) -> bool {
    !entry[at..].trim_start().starts_with(char::is_alphanumeric)
}

#[test]
fn a_message_is_found_in_an_entry_however_its_parts_vary() {
    let found = |text: Text, entry: &str| text.find(&Quoted::new(entry)).map(|found| found.places().len());
    let quoted = Text::format("{} is ambiguous");
    assert_eq!(found(quoted.clone(), "`…`: … is ambiguous"), Some(1));
    assert_eq!(found(quoted, "… is ambiguous and more"), None, "another message begins like this one");
    let login = Text::format("the login for {} {why} {seconds} s; try again");
    assert_eq!(found(login, "the login for … took longer than … s; try again"), Some(2));
    let long = Text::format("cannot log to the journal at {JOURNAL}: {source}; use `--log text`");
    assert_eq!(found(long.clone(), "cannot log to the journal at …"), Some(1));
    assert_eq!(found(long, "cannot log …"), None, "too short to be this message");
    let plain = Text::plain("a tab in the indentation");
    assert_eq!(found(plain.clone(), "a tab in the …"), Some(1));
    assert_eq!(found(plain.clone(), "a tab in the inden…"), None);
    assert_eq!(found(plain, "a tab in the dark"), None);
}

#[test]
fn what_continues_a_text_begins_none() {
    for text in ["; and more of it", ", as it is", " of user {user}", ": {line} and", " (and {count})"] {
        assert!(!Text::format(text).begins(), "{text}");
    }
    for text in ["{} is not a port", "`{key}`: is an empty list", ". It is so", "(too many)"] {
        assert!(Text::format(text).begins(), "{text}");
    }
}
