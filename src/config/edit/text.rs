//! The text of a configuration, changed in one place.
//!
//! `yamlpatch` replaces values and adds keys. Whole tunnels are whole lines here: it removes the comments around them, and puts
//! new ones between a line and its comment.

use serde_yaml::{Mapping, Value};
use yamlpatch::{Op, Patch, apply_yaml_patches};
use yamlpath::{Component, Document, Feature, FeatureKind, Route, route};

use super::shape::{Shape, TUNNELS};
use super::{Change, EditError};

impl From<yamlpath::QueryError> for EditError {
    fn from(error: yamlpath::QueryError) -> Self {
        Self::layout(format_args!("the layout of the file is not understood ({error})"), None)
    }
}

impl From<yamlpatch::Error> for EditError {
    fn from(error: yamlpatch::Error) -> Self {
        Self::layout(format_args!("the layout of the file is not understood ({error})"), None)
    }
}

/// The file with an empty list of tunnels, where it has none.
pub(super) fn with_tunnels(text: &str) -> Option<String> {
    let document = Document::new(text).ok()?;
    if document.query_exact(&route!(TUNNELS)).is_ok() {
        return patch(text, route!(TUNNELS), Op::Replace(Value::Sequence(Vec::new()))).ok();
    }
    Some(format!("{}{TUNNELS}: []\n", ended(text)))
}

/// Gives keys of a tunnel other values, or adds them. The tunnel's first key is on the line `line`, from 1.
///
/// Its lines are changed as a file of their own: the time that `yamlpath` takes grows with the square of a file.
pub(super) fn set(text: &str, line: usize, changes: &[Change]) -> Result<String, EditError> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let is_dash = |line: &&str| line.trim_start().starts_with('-');
    let first = lines[..line.min(lines.len())].iter().rposition(is_dash);
    let first =
        first.ok_or_else(|| EditError::layout("the tunnel is written in one line, as `{...}`", None))?;
    let indentation = |line: &str| line.len() - line.trim_start().len();
    // What is indented no more than the dash is the next tunnel, or below all of them; comments are anywhere.
    let is_text = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let dash = indentation(lines[first]);
    let length = lines[first + 1..].iter().position(|line| is_text(line) && indentation(line) <= dash);
    let end = length.map_or(lines.len(), |length| first + 1 + length);
    let mut tunnel = format!("{TUNNELS}:\n{}", lines[first..end].concat());
    for change in changes {
        tunnel = set_one(&tunnel, change)?;
    }
    let tunnel = tunnel.strip_prefix(&format!("{TUNNELS}:\n")).unwrap_or(&tunnel);
    Ok(format!("{}{tunnel}{}", lines[..first].concat(), lines[end..].concat()))
}

/// The same for one key of the only tunnel of a file.
fn set_one(text: &str, change: &Change) -> Result<String, EditError> {
    let document = Document::new(text)?;
    let tunnel = route!(TUNNELS, 0);
    match kind(&document, &tunnel)? {
        Some(FeatureKind::BlockMapping) => {}
        _ => return Err(EditError::layout("the tunnel is written in one line, as `{...}`", None)),
    }
    let key = tunnel.with_key(change.key.as_str());
    if !document.query_exists(&key) {
        let op = Op::Add { key: change.key.clone(), value: change.value.to_yaml() };
        return patch(text, tunnel, op);
    }
    match kind(&document, &key)? {
        None | Some(FeatureKind::Scalar) => patch(text, key, Op::Replace(change.value.to_yaml())),
        Some(_) => Err(EditError::refused(format_args!("`{}` is a list or a mapping", change.key))),
    }
}

/// Adds tunnels behind the last one. `root` is what the file says.
pub(super) fn insert(text: &str, root: &Shape, tunnels: &[&[Change]]) -> Result<String, EditError> {
    let text = ended(text);
    let document = Document::new(text.as_str())?;
    let count = root.tunnels().map_or(0, Vec::len);
    let present = document
        .query_exact(&route!(TUNNELS))?
        .ok_or_else(|| EditError::layout("the list `tunnels` is not found", None))?;
    let (before, at, indentation) = match (present.kind(), count.checked_sub(1)) {
        (FeatureKind::BlockSequence, Some(last)) => {
            let dash = dash(&document, last)?;
            let end = end_of_line(&text, end(&document, &route!(TUNNELS, last), &root_of(root, last))?);
            (text.clone(), end, dash - start_of_line(&text, dash))
        }
        (FeatureKind::FlowSequence, None) => {
            // The brackets go, and a comment behind them stays.
            let (start, end) = present.location.byte_span;
            let kept = text[..start].trim_end_matches(' ');
            let before = format!("{kept}{}", &text[end..]);
            let end = end_of_line(&before, kept.len());
            (before, end, 2)
        }
        _ => return Err(EditError::layout("the tunnels are written in one line, as `[...]`", None)),
    };
    let before_it = ended(&before[..at]);
    let added = tunnels.iter().map(|tunnel| entry(tunnel, indentation)).collect::<Result<String, _>>()?;
    Ok(format!("{before_it}{added}{}", &before[at..]))
}

/// Removes the lines of tunnels. `root` is what the file says; the indices are in order.
pub(super) fn remove(text: &str, root: &Shape, indices: &[usize]) -> Result<String, EditError> {
    let document = Document::new(text)?;
    let mut without = text.to_owned();
    // From behind, so that the places of the others stay what they are.
    for index in indices.iter().rev() {
        let dash = dash(&document, *index)?;
        let start = start_of_line(text, dash);
        if !text[start..dash].trim().is_empty() {
            return Err(EditError::layout("the tunnel does not begin on a line of its own", None));
        }
        let end = end_of_line(text, end(&document, &route!(TUNNELS, *index), &root_of(root, *index))?);
        without.replace_range(start..end, "");
    }
    if root.tunnels().map_or(0, Vec::len) > indices.len() {
        return Ok(without);
    }
    patch(&without, route!(TUNNELS), Op::Replace(Value::Sequence(Vec::new())))
}

/// All comments, in their order.
pub(super) fn comments(text: &str) -> Result<Vec<String>, EditError> {
    let document = Document::new(text)?;
    let mut comments = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let begins = line.match_indices('#').find(|(byte, _)| document.offset_inside_comment(at + byte));
        comments.extend(begins.map(|(byte, _)| line[byte..].trim_end().to_owned()));
        at += line.len();
    }
    Ok(comments)
}

fn patch(text: &str, route: Route<'_>, operation: Op<'_>) -> Result<String, EditError> {
    let patched = apply_yaml_patches(&Document::new(text)?, &[Patch { route, operation }])?;
    Ok(patched.source().to_owned())
}

/// A tunnel as lines.
fn entry(tunnel: &[Change], indentation: usize) -> Result<String, EditError> {
    let pairs = tunnel.iter().map(|change| (change.key.as_str().into(), change.value.to_yaml()));
    let list = Value::Sequence(vec![Value::Mapping(pairs.collect::<Mapping>())]);
    let lines = serde_yaml::to_string(&list).map_err(yamlpatch::Error::from)?;
    let indentation = " ".repeat(indentation);
    Ok(lines.split_inclusive('\n').flat_map(|line| [indentation.as_str(), line]).collect())
}

/// What kind of value there is; `None`: the key has none.
fn kind(document: &Document, route: &Route<'_>) -> Result<Option<FeatureKind>, EditError> {
    Ok(document.query_exact(route)?.as_ref().map(Feature::kind))
}

fn root_of(root: &Shape, index: usize) -> Shape {
    let tunnel = root.tunnels().and_then(|tunnels| tunnels.get(index));
    tunnel.cloned().unwrap_or(Shape::Sequence(Vec::new()))
}

/// The byte of the dash that a tunnel begins with.
fn dash(document: &Document, index: usize) -> Result<usize, EditError> {
    let tunnel = document.query_exact(&route!(TUNNELS, index))?;
    let dash = tunnel.as_ref().and_then(Feature::parent).map(|item| item.location.byte_span.0);
    dash.filter(|dash| document.source()[*dash..].starts_with('-'))
        .ok_or_else(|| EditError::layout("the tunnels are written in one line, as `[...]`", None))
}

/// The byte behind the last value of what is at `route` and says `shape`. What is behind it may be comments.
fn end(document: &Document, route: &Route<'_>, shape: &Shape) -> Result<usize, EditError> {
    let Some(feature) = document.query_exact(route)? else {
        return Ok(document.query_pretty(route)?.location.byte_span.1);
    };
    let last: Option<(Component<'_>, &Shape)> = match (feature.kind(), shape) {
        (FeatureKind::BlockMapping, Shape::Mapping(entries)) => {
            entries.last().map(|(key, value)| (key.clone().into(), value))
        }
        (FeatureKind::BlockSequence, Shape::Sequence(elements)) => {
            elements.last().map(|last| ((elements.len() - 1).into(), last))
        }
        _ => None,
    };
    match last {
        Some((component, shape)) => end(document, &route.with_key(component), shape),
        None => Ok(feature.location.byte_span.1),
    }
}

fn start_of_line(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// The byte behind the end of the line that the text up to `at` ends on, line ends at its end left out.
fn end_of_line(text: &str, at: usize) -> usize {
    let at = text[..at].trim_end().len();
    text[at..].find('\n').map_or(text.len(), |newline| at + newline + 1)
}

/// The text with an end to its last line.
fn ended(text: &str) -> String {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{end}")
}
