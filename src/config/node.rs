//! The YAML text as a tree in which every node knows its place.
//!
//! serde_yaml stops at the first error and keeps the places of nodes to itself; a person wants all errors, each with its
//! line. So the events come from `saphyr-parser`, and what is built from them is small: no node is copied for an alias.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::diagnose::{self, Place, Problems, Refusal, quote};
use super::{slips, syntax};

/// Nodes that aliases may stand for in all. An alias bomb passes it at once; real files use a handful.
const ALIASED_NODES: usize = 10_000;

/// Levels of nesting; the deepest that a valid file has is four.
const DEPTH: usize = 32;

/// What to write where no tunnel is wanted.
pub(super) const NO_TUNNELS: &str = "write `tunnels: []` if there are to be none";

/// A value and its place.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    /// Where a list or a mapping is over: nothing of it stands here or later.
    pub(super) end: Place,
    pub(super) kind: Kind,
}

/// A value.
#[derive(Debug)]
pub(super) enum Kind {
    /// A text; `plain`: without quotes, so that YAML may see a number, a boolean or null in it.
    Scalar {
        text: String,
        plain: bool,
    },
    Sequence(Vec<Rc<Node>>),
    /// Keys are scalars, and each is there once.
    Mapping(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Rc<Node>,
    pub(super) value: Rc<Node>,
}

impl Node {
    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { text, .. } => Some(text),
            Kind::Sequence(_) | Kind::Mapping(_) => None,
        }
    }

    /// The value of a key of this mapping.
    pub(super) fn get(&self, key: &str) -> Option<&Rc<Self>> {
        let Kind::Mapping(entries) = &self.kind else { return None };
        entries.iter().find(|entry| entry.key.text() == Some(key)).map(|entry| &entry.value)
    }

    /// Adds where this node and all nodes below it stand, and those that aliases stand for.
    pub(super) fn add_places(&self, places: &mut HashSet<Place>) {
        places.insert(self.place);
        match &self.kind {
            Kind::Scalar { .. } => {}
            Kind::Sequence(elements) => elements.iter().for_each(|element| element.add_places(places)),
            Kind::Mapping(entries) => {
                for Entry { key, value } in entries {
                    key.add_places(places);
                    value.add_places(places);
                }
            }
        }
    }

    /// Whether this is a key without a value.
    pub(super) fn is_null(&self) -> bool {
        match &self.kind {
            Kind::Scalar { text, plain } => {
                *plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            Kind::Sequence(_) | Kind::Mapping(_) => false,
        }
    }
}

/// The structure of the file is broken, which is reported.
#[derive(Debug)]
pub(super) struct Reported;

/// The file's only document. `None`: it says nothing.
pub(super) fn parse(source: &str, problems: &Problems) -> Result<Option<Rc<Node>>, Reported> {
    let mut builder =
        Builder { problems, open: Vec::new(), anchors: HashMap::new(), events: 0, aliased: 0, root: None };
    let mut documents = 0;
    let mut parser = Parser::new_from_str(source);
    while let Some(event) = parser.next_event() {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                syntax::report(source, &error, problems);
                return Err(Reported);
            }
        };
        if matches!(event, Event::DocumentStart(_)) {
            documents += 1;
        }
        if documents > 1 {
            let refusal = Refusal::new("a second YAML document begins here");
            let hint = "keep one document, and remove the line `---` or `...` between them";
            problems.report(place(span), refusal.hint(hint));
            return Err(Reported);
        }
        if let Err((place, refusal)) = builder.take(event, place(span)) {
            let lines = diagnose::lines(source);
            let (place, refusal) = slips::template(&lines, place.line).unwrap_or((place, refusal));
            problems.report(place, refusal);
            return Err(Reported);
        }
    }
    Ok(builder.root.filter(|root| !root.is_null()))
}

/// A sequence or mapping whose end has not been seen yet.
struct Open {
    place: Place,
    anchor: usize,
    /// [`Builder::weight`] when it began.
    weight: usize,
    children: Children,
}

enum Children {
    Sequence(Vec<Rc<Node>>),
    Mapping {
        entries: Vec<Entry>,
        /// The key whose value comes next.
        key: Option<Key>,
        /// The line of each key.
        seen: HashMap<String, usize>,
    },
}

enum Key {
    New(Rc<Node>),
    /// It is reported already; the first one counts.
    Repeated,
}

/// Why building ended.
type Stopped = (Place, Refusal);

struct Builder<'p> {
    problems: &'p Problems,
    open: Vec<Open>,
    /// Completed nodes that an alias may stand for, with their weight.
    anchors: HashMap<usize, (Rc<Node>, usize)>,
    events: usize,
    aliased: usize,
    root: Option<Rc<Node>>,
}

impl Builder<'_> {
    /// Nodes so far, counting an alias as what it stands for.
    fn weight(&self) -> usize {
        self.events + self.aliased
    }

    fn take(&mut self, event: Event<'_>, place: Place) -> Result<(), Stopped> {
        match event {
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
            Event::Alias(anchor) => self.alias(anchor, place),
            Event::Scalar(text, style, anchor, tag) => {
                self.events += 1;
                refuse_tag(tag.is_some(), place)?;
                let plain = style == ScalarStyle::Plain;
                let node = Node { place, end: place, kind: Kind::Scalar { text: text.into_owned(), plain } };
                self.complete(Rc::new(node), anchor, 1)
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(tag.is_some(), place)?;
                self.begin(place, anchor, Children::Sequence(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(tag.is_some(), place)?;
                let children = Children::Mapping { entries: Vec::new(), key: None, seen: HashMap::new() };
                self.begin(place, anchor, children)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(place),
        }
    }

    fn begin(&mut self, place: Place, anchor: usize, children: Children) -> Result<(), Stopped> {
        if self.open.len() == DEPTH {
            return Err((place, Refusal::new(format!("nested more than {DEPTH} levels deep"))));
        }
        let weight = self.weight();
        self.events += 1;
        self.open.push(Open { place, anchor, weight, children });
        Ok(())
    }

    fn end(&mut self, end: Place) -> Result<(), Stopped> {
        let Some(Open { place, anchor, weight, children }) = self.open.pop() else { return Ok(()) };
        let node = match children {
            Children::Sequence(elements) => Node { place, end, kind: Kind::Sequence(elements) },
            Children::Mapping { entries, .. } => {
                // A mapping is best shown by its first key.
                let place = entries.first().map_or(place, |first| first.key.place);
                Node { place, end, kind: Kind::Mapping(entries) }
            }
        };
        let weight = self.weight() - weight;
        self.complete(Rc::new(node), anchor, weight)
    }

    fn alias(&mut self, anchor: usize, place: Place) -> Result<(), Stopped> {
        let Some((node, weight)) = self.anchors.get(&anchor) else {
            let refusal = Refusal::new("an alias inside of what it stands for");
            return Err((place, refusal.hint("write the value out")));
        };
        let node = Rc::clone(node);
        self.aliased = self.aliased.saturating_add(*weight);
        if self.aliased > ALIASED_NODES {
            let refusal = Refusal::new(format!("aliases stand for more than {ALIASED_NODES} values"));
            let hint = "write the values out, or put what tunnels share under `defaults:`";
            return Err((place, refusal.hint(hint)));
        }
        self.complete(node, 0, 0)
    }

    /// Puts a node where it belongs. Anchor 0 is none.
    fn complete(&mut self, node: Rc<Node>, anchor: usize, weight: usize) -> Result<(), Stopped> {
        if anchor != 0 {
            self.anchors.insert(anchor, (Rc::clone(&node), weight));
        }
        match self.open.last_mut().map(|open| &mut open.children) {
            None => self.root = Some(node),
            Some(Children::Sequence(elements)) => elements.push(node),
            Some(Children::Mapping { entries, key, seen }) => match key.take() {
                Some(Key::New(key)) => entries.push(Entry { key, value: node }),
                Some(Key::Repeated) => {}
                None => {
                    let Some(text) = node.text() else {
                        return Err((
                            node.place,
                            Refusal::new("a key must be a word, not a list or a mapping"),
                        ));
                    };
                    if let Some(line) = seen.get(text) {
                        let refusal = Refusal::new(format!("duplicate key {}", quote(text)));
                        let hint = format!("it is there since line {line}: remove one of the two");
                        self.problems.report(node.place, refusal.hint(hint));
                        *key = Some(Key::Repeated);
                    } else {
                        seen.insert(text.to_owned(), node.place.line);
                        *key = Some(Key::New(node));
                    }
                }
            },
        }
        Ok(())
    }
}

fn refuse_tag(tagged: bool, place: Place) -> Result<(), Stopped> {
    if tagged {
        let refusal = Refusal::new("YAML tags are not supported");
        return Err((place, refusal.hint("remove the word that begins with `!`")));
    }
    Ok(())
}

pub(super) fn place(span: Span) -> Place {
    let length = if span.start.line() == span.end.line() { span.len() } else { 1 };
    Place { line: span.start.line(), column: span.start.col() + 1, length: length.max(1) }
}
