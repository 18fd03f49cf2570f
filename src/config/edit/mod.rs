//! Changes of a configuration that keep everything else in its text: comments, layout, order, and the keys that whoever asks does not
//! know.
//!
//! Pure: from a text and what is wanted to a new text, or the reason why not. The new text is never taken on trust: it is read as the
//! daemon reads it, and what it says must be what the old one said, but for what was asked.

mod change;
mod error;
mod fields;
#[cfg(test)]
mod properties;
mod shape;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeSet;
use std::path::Path;

use saphyr_parser::{Event, Parser};

pub use change::Change;
pub use error::EditError;
pub use fields::Fields;

use super::desired::{Desired, Tunnel};
use super::diagnose::{Place, Problems};
use super::node::{self, Kind};
use super::parse;
use shape::Shape;

/// A valid configuration, to be changed.
#[derive(Debug)]
pub struct Document<'d> {
    path: &'d Path,
    says_nothing: bool,
    /// With `tunnels: []` where the file had no list.
    text: String,
    says: Shape,
    /// Where each tunnel's first key is.
    places: Vec<Place>,
    desired: Desired,
}

/// One change of the list of tunnels. An index is that of the tunnel in [`Document::tunnels`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Give keys of a tunnel other values, or add them.
    Set(usize, Vec<Change>),
    /// Add a tunnel behind all others.
    Add(Vec<Change>),
    /// Remove a tunnel, with the comments inside of it.
    Remove(usize),
}

/// A changed configuration.
#[derive(Debug)]
pub struct Edited {
    /// Its text.
    pub text: String,
    /// What it asks for.
    pub desired: Desired,
}

impl<'d> Document<'d> {
    /// Reads `text`, the content of the file `path`.
    ///
    /// # Errors
    /// It is not valid, or written in a way that is not edited.
    pub fn open(text: &str, path: &'d Path) -> Result<Self, EditError> {
        let found = read(text);
        let says_nothing = found.is_none();
        let is_without = found.is_none_or(|(says, _)| says.tunnels().is_none());
        let completed = if is_without { text::with_tunnels(text) } else { None };
        let (text, desired) = match completed.map(|text| parse(&text, path).map(|desired| (text, desired))) {
            Some(Ok(completed)) => completed,
            // The errors of the file are those of the file as it is.
            Some(Err(_)) => {
                return Err(match parse(text, path) {
                    Err(problems) => EditError::broken(problems),
                    Ok(_) => EditError::layout("the file holds a value without a key", None),
                });
            }
            None => (text.to_owned(), parse(text, path).map_err(EditError::broken)?),
        };
        if let Some(place) = anchor(&text) {
            return Err(EditError::layout("the file has a YAML anchor or alias", Some(place)));
        }
        if text.replace("\r\n", "\n").contains('\r') {
            return Err(EditError::layout("a carriage return alone ends a line of the file", None));
        }
        let (says, places) = read(&text)
            .filter(|(_, places)| places.len() == desired.tunnels.len())
            .ok_or_else(|| EditError::layout("not all of its tunnels are valid", None))?;
        Ok(Self { path, says_nothing, text, says, places, desired })
    }

    /// Whether the file is empty, or holds comments only.
    pub fn says_nothing(&self) -> bool {
        self.says_nothing
    }

    /// The tunnels, in the order of the file.
    pub fn tunnels(&self) -> &[Tunnel] {
        &self.desired.tunnels
    }

    /// Adds a tunnel behind all others.
    pub fn add(&self, fields: &Fields) -> Result<Edited, EditError> {
        self.apply(&[Edit::Add(fields.complete("")?)])
    }

    /// Changes what `fields` says of a tunnel, if it differs.
    pub fn change(&self, index: usize, fields: &Fields) -> Result<Edited, EditError> {
        let changes = fields.differences(&self.tunnels()[index], self.is_named(index), "")?;
        self.apply(&[Edit::Set(index, changes)])
    }

    /// Makes these the tunnels that there are. Each is taken to be the tunnel of the file that has its hash, its name, or the same
    /// forward, in this order; others are added behind the last one. What is not among them is removed, except for what the
    /// clients of autossh-tunnel cannot say: SOCKS proxies and commands. The order is that of the file.
    pub fn replace_all(&self, wanted: &[Fields], may_be_empty: bool) -> Result<Edited, EditError> {
        let known = |index: &usize| fields::is_known_to_clients(&self.tunnels()[*index]);
        let mut left: BTreeSet<usize> = (0..self.tunnels().len()).collect();
        let count = left.iter().filter(|index| known(index)).count();
        if wanted.is_empty() && count > 0 && !may_be_empty {
            return Err(EditError::Empty(count));
        }
        let mut found: Vec<Option<usize>> = vec![None; wanted.len()];
        for is_it in [Fields::has_hash_of, Fields::has_name_of, Fields::forwards_as] {
            for (fields, found) in wanted.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
                *found = left.iter().copied().find(|index| is_it(fields, &self.tunnels()[*index]));
                found.map(|index| left.remove(&index));
            }
        }
        let mut edits = Vec::new();
        for (number, (fields, found)) in (1..).zip(wanted.iter().zip(found)) {
            let place = format!(" (tunnel {number} of the list)");
            edits.push(match found {
                Some(index) => {
                    let tunnel = &self.tunnels()[index];
                    Edit::Set(index, fields.differences(tunnel, self.is_named(index), &place)?)
                }
                None => Edit::Add(fields.complete(&place)?),
            });
        }
        edits.extend(left.iter().filter(|index| known(index)).map(|index| Edit::Remove(*index)));
        self.apply(&edits)
    }

    /// Makes all of these changes.
    pub fn apply(&self, edits: &[Edit]) -> Result<Edited, EditError> {
        // Everything below ends lines with a line feed.
        let has_returns = self.text.contains("\r\n") && !self.text.replace("\r\n", "").contains(['\r', '\n']);
        let mut text = if has_returns { self.text.replace("\r\n", "\n") } else { self.text.clone() };
        let comments = text::comments(&text)?;
        let mut wanted = self.says.clone();
        let mut set: Vec<(usize, &[Change])> = edits
            .iter()
            .filter_map(|edit| match edit {
                Edit::Set(index, changes) if !changes.is_empty() => Some((*index, &changes[..])),
                Edit::Set(..) | Edit::Add(_) | Edit::Remove(_) => None,
            })
            .collect();
        // From behind, so that the lines of the others stay what they are.
        set.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (index, changes) in set {
            let place = self.places[index];
            text = text::set(&text, place.line, changes).map_err(|error| error.at(place))?;
            if let Some(tunnel) = wanted.tunnels_mut().and_then(|tunnels| tunnels.get_mut(index)) {
                for change in changes {
                    tunnel.set(change);
                }
            }
        }
        let added: Vec<&[Change]> = edits
            .iter()
            .filter_map(|edit| match edit {
                Edit::Add(changes) => Some(&changes[..]),
                Edit::Set(..) | Edit::Remove(_) => None,
            })
            .collect();
        if !added.is_empty() {
            text = text::insert(&text, &wanted, &added)?;
            if let Some(tunnels) = wanted.tunnels_mut() {
                tunnels.extend(added.iter().map(|tunnel| Shape::of(tunnel)));
            }
        }
        if text::comments(&text)? != comments {
            return Err(EditError::layout("a comment between a key and its value would be lost", None));
        }
        let mut removed: Vec<usize> = edits
            .iter()
            .filter_map(|edit| match edit {
                Edit::Remove(index) => Some(*index),
                Edit::Set(..) | Edit::Add(_) => None,
            })
            .collect();
        removed.sort_unstable();
        if !removed.is_empty() {
            text = text::remove(&text, &wanted, &removed)?;
        }
        if let Some(tunnels) = wanted.tunnels_mut() {
            for index in removed.iter().rev() {
                tunnels.remove(*index);
            }
        }
        if has_returns {
            text = text.replace('\n', "\r\n");
        }
        self.check(text, &wanted)
    }

    /// Makes sure that `text` is valid and says what is wanted.
    fn check(&self, text: String, wanted: &Shape) -> Result<Edited, EditError> {
        if !read(&text).is_some_and(|(says, _)| wanted.says(&says)) {
            return Err(EditError::layout("something else in the file would change its meaning", None));
        }
        let desired = parse(&text, self.path).map_err(EditError::invalid)?;
        if wanted.tunnels().map(Vec::len) != Some(desired.tunnels.len()) {
            return Err(EditError::refused("a tunnel would not be valid"));
        }
        Ok(Edited { text, desired })
    }

    /// Whether the tunnel has a name in the file.
    fn is_named(&self, index: usize) -> bool {
        let tunnel = self.says.tunnels().and_then(|tunnels| tunnels.get(index));
        tunnel.is_some_and(|tunnel| tunnel.get("name").is_some())
    }
}

/// What a file says, and where each of its tunnels begins; `None`: it says nothing, or is no YAML.
fn read(text: &str) -> Option<(Shape, Vec<Place>)> {
    let root = node::parse(text, &Problems::default()).ok()??;
    let entries = match &root.kind {
        Kind::Mapping(entries) => &entries[..],
        Kind::Scalar { .. } | Kind::Sequence(_) => &[],
    };
    let tunnels = entries.iter().find(|entry| entry.key.text() == Some(shape::TUNNELS));
    let places = match tunnels.map(|entry| &entry.value.kind) {
        Some(Kind::Sequence(tunnels)) => tunnels.iter().map(|tunnel| tunnel.place).collect(),
        Some(Kind::Scalar { .. } | Kind::Mapping(_)) | None => Vec::new(),
    };
    Some((Shape::from(&*root), places))
}

/// The first anchor or alias. What they stand for may be in several places.
fn anchor(text: &str) -> Option<Place> {
    let mut parser = Parser::new_from_str(text);
    while let Some(Ok((event, span))) = parser.next_event() {
        let anchor = match event {
            Event::Alias(anchor)
            | Event::Scalar(_, _, anchor, _)
            | Event::SequenceStart(anchor, _)
            | Event::MappingStart(anchor, _) => anchor,
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => 0,
        };
        if anchor != 0 {
            return Some(node::place(span));
        }
    }
    None
}
