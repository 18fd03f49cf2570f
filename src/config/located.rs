//! Values with their place in the file, and the fields that hold them.
//!
//! Both read themselves from [`super::read::Reader`] only, which knows these types by name and hands them a sequence
//! (place, value): serde has no other way to pass a place along.

use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};

use super::diagnose::Place;

/// The name by which the reader knows a [`Located`].
pub(super) const LOCATED: &str = "portward::Located";
/// The name by which the reader knows a [`Field`].
pub(super) const FIELD: &str = "portward::Field";

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub(super) place: Place,
    pub(super) value: T,
}

impl<T> Located<T> {
    /// The same place with a part of the value, or with what was made of it.
    pub(super) fn with<U>(&self, value: U) -> Located<U> {
        Located { place: self.place, value }
    }
}

/// The value of a key.
#[derive(Debug, Clone, Default)]
pub(super) enum Field<T> {
    /// The key is not there.
    #[default]
    Absent,
    /// Its value cannot be read, which is reported.
    Wrong,
    /// Its value.
    Right(Located<T>),
}

impl<T> Field<T> {
    /// The value and its place.
    pub(super) fn get(&self) -> Option<&Located<T>> {
        match self {
            Self::Right(located) => Some(located),
            Self::Absent | Self::Wrong => None,
        }
    }

    /// The value.
    pub(super) fn value(&self) -> Option<&T> {
        self.get().map(|located| &located.value)
    }

    /// Whether the key is not there.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

impl<T: Clone> Field<T> {
    /// This field, or `other` where this one is not there.
    pub(super) fn or(&self, other: &Self) -> Self {
        if self.is_absent() { other.clone() } else { self.clone() }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Located<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_tuple_struct(LOCATED, 2, LocatedVisitor(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_tuple_struct(FIELD, 1, FieldVisitor(PhantomData))
    }
}

struct LocatedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for LocatedVisitor<T> {
    type Value = Located<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a place and a value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        let (Some((line, column, length)), Some(value)) = (parts.next_element()?, parts.next_element()?)
        else {
            return Err(A::Error::custom("a place and a value were expected"));
        };
        Ok(Located { place: Place { line, column, length }, value })
    }
}

struct FieldVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldVisitor<T> {
    type Value = Field<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        Ok(parts.next_element()?.map_or(Field::Wrong, Field::Right))
    }
}

impl<T: JsonSchema> JsonSchema for Located<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}
