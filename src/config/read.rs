//! A serde deserializer over the located tree that does not stop at an error.
//!
//! The raw types stay the one list of keys and words there is: `derive` hands their names to this reader, which reports
//! what is not among them. A wrong value is reported and left out, so that reading goes on behind it.

use std::rc::Rc;

use serde::de::value::{SeqDeserializer, StrDeserializer};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::diagnose::{Place, Problems, Refusal, suggest};
use super::located::{FIELD, LOCATED};
use super::node::{Kind, Node};

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
    fn unexpected(&self, expected: &str) -> Refusal {
        if self.node.is_null() {
            return Refusal::new("has no value").hint("give it a value or remove the line");
        }
        let found = match &self.node.kind {
            Kind::Scalar { text, .. } => format!("`{text}`"),
            Kind::Sequence(_) => "a list".to_owned(),
            Kind::Mapping(_) => "a mapping".to_owned(),
        };
        Refusal::new(format!("expected {expected}, found {found}"))
    }

    fn entries(&self) -> Result<&'de [(Rc<Node>, Rc<Node>)], Refusal> {
        match &self.node.kind {
            Kind::Mapping(entries) => Ok(entries),
            Kind::Scalar { .. } | Kind::Sequence(_) => Err(self.unexpected("a mapping of keys to values")),
        }
    }

    /// A scalar's text as written; a number stays the digits that it was written in.
    fn text(&self) -> Result<&'de str, Refusal> {
        match self.node.text() {
            Some(text) if !self.node.is_null() => Ok(text),
            _ => Err(self.unexpected("a text or a number")),
        }
    }

    /// The keys that `known` has; the others are reported. `None`: every key is welcome.
    fn fields(&self, known: Option<&'static [&'static str]>) -> Result<Fields<'de>, Refusal> {
        let mut welcome = Vec::new();
        for (key, value) in self.entries()? {
            let name = key.text().unwrap_or_default();
            if let Some(known) = known.filter(|known| !known.contains(&name)) {
                let hint = match name {
                    "<<" => "merge keys are not read: put what tunnels share under `defaults:`".to_owned(),
                    _ => suggest(name, known),
                };
                self.problems.report(key.place, Refusal::new(format!("unknown key `{name}`")).hint(hint));
            } else {
                welcome.push((&**key, &**value));
            }
        }
        Ok(Fields { entries: welcome.into_iter(), value: None, problems: self.problems })
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
        // Which words are a boolean is YAML's affair. Quotes do not matter: the ancestor's shell did not see them.
        match self.node.text().map(serde_yaml::from_str) {
            Some(Ok(serde_yaml::Value::Bool(value))) => visitor.visit_bool(value),
            _ => Err(self.unexpected("true or false")),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.node.kind {
            Kind::Sequence(elements) => visitor.visit_seq(Elements {
                elements: elements.iter(),
                name: self.name,
                problems: self.problems,
            }),
            Kind::Scalar { .. } | Kind::Mapping(_) => Err(self.unexpected("a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_map(self.fields(None)?)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        visitor.visit_map(self.fields(Some(known))?)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let word = self.text()?;
        if !known.contains(&word) {
            return Err(Refusal::new(format!("`{word}` is not one of its words")).hint(suggest(word, known)));
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

/// The content of a [`super::located::Field`]: a wrong value is reported, and then as good as not there.
struct ValueIfRight<'de>(Reader<'de>);

impl<'de> SeqAccess<'de> for ValueIfRight<'de> {
    type Error = Refusal;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refusal> {
        Ok(seed.deserialize(self.0).map_err(|refusal| self.0.report(refusal)).ok())
    }
}

/// The elements of a list. They are [`super::located::Field`]s here, so a wrong one does not end the list.
struct Elements<'de> {
    elements: std::slice::Iter<'de, Rc<Node>>,
    name: Option<&'de str>,
    problems: &'de Problems,
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = Refusal;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refusal> {
        let Some(node) = self.elements.next() else { return Ok(None) };
        seed.deserialize(Reader { node, name: self.name, problems: self.problems }).map(Some)
    }
}

/// The entries of a mapping.
struct Fields<'de> {
    entries: std::vec::IntoIter<(&'de Node, &'de Node)>,
    /// The key handed out last, and its value.
    value: Option<(&'de Node, &'de Node)>,
    problems: &'de Problems,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Refusal;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refusal> {
        self.value = self.entries.next();
        let Some((node, _)) = self.value else { return Ok(None) };
        seed.deserialize(Reader { node, name: None, problems: self.problems }).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refusal> {
        let Some((key, node)) = self.value.take() else {
            return Err(Refusal::new("a value was asked for without its key"));
        };
        seed.deserialize(Reader { node, name: key.text(), problems: self.problems })
    }
}
