//! A serde deserializer over the located tree that does not stop at an error.
//!
//! The raw types are the only list of keys and words: `derive` passes their names to this reader, which reports all others. A
//! wrong value is reported and left out, and reading continues after it.

use std::collections::HashSet;
use std::rc::Rc;

use serde::de::value::{BorrowedStrDeserializer, SeqDeserializer, StrDeserializer};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::diagnose::{Place, Problems, Refusal, quote};
use super::form::{self, Wanted};
use super::located::{FIELD, LOCATED};
use super::node::{Entry, Kind, Node};
use super::raw::{HEALTH_WORD, MAY_BE_NULL};

/// Words longer than this, in bytes, are not compared with the known ones.
const LONGEST_SLIP: usize = 64;

/// Reads a `T` from `node`. `None`: it could not be read at all, which is reported.
pub(super) fn read<'de, T: Deserialize<'de>>(node: &'de Node, problems: &'de Problems) -> Option<T> {
    let read = T::deserialize(Reader { node, name: None, problems });
    read.map_err(|refusal| problems.report(node.place, refusal)).ok()
}

/// Reads one node.
#[derive(Clone, Copy)]
struct Reader<'de> {
    node: &'de Node,
    /// The key whose value this is, for messages.
    name: Option<&'de str>,
    problems: &'de Problems,
}

impl<'de> Reader<'de> {
    fn report(&self, refusal: Refusal) {
        let refusal = match self.name {
            Some(name) => refusal.of(name),
            None => refusal,
        };
        self.problems.report(self.node.place, refusal);
    }

    /// "expected X, found what the node is".
    fn unexpected(&self, wanted: Wanted) -> Refusal {
        let meant = form::meant(self.name, wanted, self.node);
        if self.node.is_null() {
            let next = meant.unwrap_or_else(|| "give it a value or remove the line".to_owned());
            return Refusal::new("has no value").hint(next);
        }
        let found = match &self.node.kind {
            Kind::Scalar { text, .. } => quote(text),
            Kind::Sequence(_) => "a list".to_owned(),
            Kind::Mapping(_) => "a mapping".to_owned(),
        };
        let refusal = Refusal::new(format!("expected {}, found {found}", wanted.name()));
        match meant {
            Some(meant) => refusal.hint(meant),
            None => refusal,
        }
    }

    fn entries(&self) -> Result<&'de [Entry], Refusal> {
        match &self.node.kind {
            Kind::Mapping(entries) => Ok(entries),
            Kind::Scalar { .. } | Kind::Sequence(_) => Err(self.unexpected(Wanted::Mapping)),
        }
    }

    /// A scalar's text as written; a number stays the digits that it was written in.
    fn text(&self) -> Result<&'de str, Refusal> {
        match self.node.text() {
            Some(text) if !self.node.is_null() => Ok(text),
            _ => Err(self.unexpected(Wanted::Text)),
        }
    }

    /// The entries whose keys are among `known`; the others are reported.
    fn fields(&self, known: &'static [&'static str]) -> Result<Fields<'de>, Refusal> {
        let entries = self.entries()?;
        let mut there: HashSet<&str> = entries.iter().filter_map(|entry| entry.key.text()).collect();
        let mut fields = Vec::new();
        for Entry { key, value } in entries {
            let written = key.text().unwrap_or_default();
            if known.contains(&written) {
                fields.push((Key::Field(written), &**value));
                continue;
            }
            let meant = nearest(written, known);
            let hint = match meant {
                _ if written == "<<" => {
                    "merge keys are not read: put what tunnels share under `defaults:`".to_owned()
                }
                _ if written.starts_with("x-") || written.starts_with('.') => {
                    "put what tunnels share under `defaults:`; anchors need no key of their own".to_owned()
                }
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known here: {}", list(known)),
            };
            self.problems
                .report(key.place, Refusal::new(format!("unknown key {}", quote(written))).hint(hint));
            // Continue as if the right key had been written; otherwise its absence would be the next error.
            if let Some(meant) = meant.filter(|meant| there.insert(meant)) {
                fields.push((Key::Field(meant), &**value));
            }
        }
        Ok(Fields { entries: fields.into_iter(), value: None, problems: self.problems })
    }
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.node.kind {
            Kind::Scalar { .. } => self.deserialize_str(visitor),
            Kind::Sequence(_) => self.deserialize_seq(visitor),
            Kind::Mapping(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        // YAML decides which words are booleans. Quotes are ignored, because the shell of autossh-tunnel did not see them.
        match self.node.text().map(serde_yaml::from_str) {
            Some(Ok(serde_yaml::Value::Bool(value))) => visitor.visit_bool(value),
            _ => Err(self.unexpected(Wanted::Boolean)),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.node.kind {
            Kind::Sequence(elements) => visitor.visit_seq(Elements {
                remaining: elements.iter(),
                name: self.name,
                problems: self.problems,
            }),
            Kind::Scalar { .. } if self.node.is_null() && self.name == Some(MAY_BE_NULL) => {
                visitor.visit_seq(Elements { remaining: [].iter(), name: None, problems: self.problems })
            }
            Kind::Scalar { .. } | Kind::Mapping(_) => Err(self.unexpected(Wanted::List)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let entries: Vec<_> =
            self.entries()?.iter().map(|entry| (Key::Word(&entry.key), &*entry.value)).collect();
        visitor.visit_map(Fields { entries: entries.into_iter(), value: None, problems: self.problems })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let (whole, word) = HEALTH_WORD;
        if name == whole && self.node.text() == Some(word) {
            let entries = vec![(Key::Field(word), self.node)].into_iter();
            return visitor.visit_map(Fields { entries, value: None, problems: self.problems });
        }
        visitor.visit_map(self.fields(known)?)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let word = self.text()?;
        if !known.contains(&word) {
            let hint = nearest(word, known).map_or_else(
                || format!("write one of {}", list(known)),
                |meant| format!("did you mean `{meant}`?"),
            );
            return Err(Refusal::new(format!("invalid value {}", quote(word))).hint(hint));
        }
        visitor.visit_enum(StrDeserializer::new(word))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        match name {
            LOCATED => visitor.visit_seq(PlaceAndValue { reader: self, place: Some(self.node.place) }),
            FIELD => visitor.visit_seq(ValueIfRight(self)),
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf option unit unit_struct tuple identifier
        ignored_any
    }
}

/// The parts of a [`super::located::Located`].
struct PlaceAndValue<'de> {
    reader: Reader<'de>,
    /// Until it is handed out.
    place: Option<Place>,
}

impl<'de> SeqAccess<'de> for PlaceAndValue<'de> {
    type Error = Refusal;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refusal> {
        match self.place.take() {
            Some(Place { line, column, length }) => {
                seed.deserialize(SeqDeserializer::new([line, column, length].into_iter())).map(Some)
            }
            None => seed.deserialize(self.reader).map(Some),
        }
    }
}

/// The content of a [`super::located::Field`]: a wrong value is reported, and the field has none.
struct ValueIfRight<'de>(Reader<'de>);

impl<'de> SeqAccess<'de> for ValueIfRight<'de> {
    type Error = Refusal;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refusal> {
        Ok(seed.deserialize(self.0).map_err(|refusal| self.0.report(refusal)).ok())
    }
}

/// The elements of a list. They are [`super::located::Field`]s here, so a wrong one does not end the list.
struct Elements<'de> {
    remaining: std::slice::Iter<'de, Rc<Node>>,
    name: Option<&'de str>,
    problems: &'de Problems,
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = Refusal;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refusal> {
        let Some(node) = self.remaining.next() else { return Ok(None) };
        seed.deserialize(Reader { node, name: self.name, problems: self.problems }).map(Some)
    }
}

/// The entries of a mapping.
struct Fields<'de> {
    entries: std::vec::IntoIter<(Key<'de>, &'de Node)>,
    /// The value of the key that was handed out last, and its name.
    value: Option<Reader<'de>>,
    problems: &'de Problems,
}

/// A key of a mapping.
enum Key<'de> {
    /// The name of a field that the type has.
    Field(&'de str),
    /// Any word, with its place.
    Word(&'de Node),
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Refusal;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refusal> {
        let Some((key, node)) = self.entries.next() else { return Ok(None) };
        let problems = self.problems;
        let (name, key) = match key {
            Key::Field(name) => (Some(name), seed.deserialize(BorrowedStrDeserializer::new(name))),
            Key::Word(key) => (key.text(), seed.deserialize(Reader { node: key, name: None, problems })),
        };
        self.value = Some(Reader { node, name, problems });
        key.map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refusal> {
        match self.value.take() {
            Some(reader) => seed.deserialize(reader),
            None => Err(Refusal::new("a value was asked for without its key")),
        }
    }
}

/// Keys of other programs, and ours for the same.
const SYNONYMS: [(&str, &str); 12] = [
    ("args", "command"),
    ("cmd", "command"),
    ("cwd", "working_directory"),
    ("destination", "remote_host"),
    ("environment", "env"),
    ("exec", "command"),
    ("host", "remote_host"),
    ("hostname", "remote_host"),
    ("identity", "identity_file"),
    ("server", "remote_host"),
    ("workdir", "working_directory"),
    ("working_dir", "working_directory"),
];

/// The known word that `written` was probably meant to be.
fn nearest(written: &str, known: &[&'static str]) -> Option<&'static str> {
    // Far longer than any of them: comparing would take long.
    if written.len() > LONGEST_SLIP {
        return None;
    }
    let synonym = SYNONYMS.iter().find(|(other, _)| other.eq_ignore_ascii_case(written));
    if let Some(word) = synonym.and_then(|(_, word)| known.iter().find(|known| *known == word)) {
        return Some(word);
    }
    let distance = |word: &str| strsim::damerau_levenshtein(&written.to_lowercase(), word);
    let (distance, word) = known.iter().map(|word| (distance(word), *word)).min()?;
    // Up to a third of the letters may be wrong.
    (distance <= (word.len() / 3).max(1)).then_some(word)
}

fn list(known: &[&str]) -> String {
    let quoted: Vec<String> = known.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}
