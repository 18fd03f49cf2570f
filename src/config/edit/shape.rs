//! What a file says, without how it is written: what an edit should make of it, to be compared with what it has made.

use super::super::node::{self, Kind, Node};
use super::Change;

/// The key of the list of tunnels.
pub(super) const TUNNELS: &str = "tunnels";

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// A text, and whether it stands without quotes; `None`: that does not matter.
    Scalar(String, Option<bool>),
    Sequence(Vec<Shape>),
    Mapping(Vec<(String, Shape)>),
}

impl From<&Node> for Shape {
    fn from(node: &Node) -> Self {
        match &node.kind {
            Kind::Scalar { text, plain } => Self::Scalar(text.clone(), Some(*plain)),
            Kind::Sequence(elements) => {
                Self::Sequence(elements.iter().map(|element| Self::from(&**element)).collect())
            }
            Kind::Mapping(entries) => {
                let pair = |entry: &node::Entry| {
                    let key = entry.key.text().unwrap_or_default().to_owned();
                    (key, Self::from(&*entry.value))
                };
                Self::Mapping(entries.iter().map(pair).collect())
            }
        }
    }
}

impl Shape {
    /// A tunnel that says this.
    pub(super) fn of(changes: &[Change]) -> Self {
        let mut shape = Self::Mapping(Vec::new());
        for change in changes {
            shape.set(change);
        }
        shape
    }

    /// Whether `other` says the same.
    pub(super) fn says(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Scalar(text, plain), Self::Scalar(other, is_plain)) => {
                let either = plain.is_none() || is_plain.is_none();
                text == other && (either || plain == is_plain)
            }
            (Self::Sequence(elements), Self::Sequence(others)) => {
                elements.len() == others.len() && elements.iter().zip(others).all(|(one, two)| one.says(two))
            }
            (Self::Mapping(entries), Self::Mapping(others)) => {
                let same = |((key, value), (other, found)): (&(String, Self), &(String, Self))| {
                    key == other && value.says(found)
                };
                entries.len() == others.len() && entries.iter().zip(others).all(same)
            }
            (Self::Scalar(..) | Self::Sequence(_) | Self::Mapping(_), _) => false,
        }
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Mapping(entries) = self else { return None };
        entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// Gives a key another value, or adds it.
    pub(super) fn set(&mut self, change: &Change) {
        let Self::Mapping(entries) = self else { return };
        let value = Self::Scalar(change.value.text().into_owned(), change.value.is_plain().then_some(true));
        match entries.iter_mut().find(|(name, _)| *name == change.key) {
            Some((_, old)) => *old = value,
            None => entries.push((change.key.clone(), value)),
        }
    }

    /// The tunnels of a whole file; `None`: there is no list of them.
    pub(super) fn tunnels(&self) -> Option<&Vec<Self>> {
        match self.get(TUNNELS)? {
            Self::Sequence(tunnels) => Some(tunnels),
            Self::Scalar(..) | Self::Mapping(_) => None,
        }
    }

    /// The same, to be changed.
    pub(super) fn tunnels_mut(&mut self) -> Option<&mut Vec<Self>> {
        let Self::Mapping(entries) = self else { return None };
        match entries.iter_mut().find(|(name, _)| name == TUNNELS)? {
            (_, Self::Sequence(tunnels)) => Some(tunnels),
            (_, Self::Scalar(..) | Self::Mapping(_)) => None,
        }
    }
}
