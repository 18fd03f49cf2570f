//! Whose the problems of a file are: of one tunnel's entry, or of the file as a whole.

use std::collections::{BTreeMap, HashSet};

use super::diagnose::{Diagnostic, Place};
use super::node::{Kind, Node};

/// The problems of each entry of `tunnels` that has any, by its index. `None`: one of them is of the file as a whole.
///
/// A value that several entries have by an alias is written once, and its problems are all of theirs.
pub(super) fn by_entry(
    tunnels: &Node,
    problems: Vec<Diagnostic>,
) -> Option<BTreeMap<usize, Vec<Diagnostic>>> {
    let Kind::Sequence(elements) = &tunnels.kind else { return None };
    let places = elements.iter().map(|element| {
        let mut places = HashSet::new();
        element.add_places(&mut places);
        places
    });
    let places: Vec<HashSet<Place>> = places.collect();
    let first = elements.iter().map(|element| element.place).min()?;
    let mut found: BTreeMap<usize, Vec<Diagnostic>> = BTreeMap::new();
    for problem in problems {
        if !(first..tunnels.end).contains(&problem.place) {
            return None;
        }
        // A key that is there twice stands in no node.
        let begun = elements.iter().enumerate().filter(|(_, element)| element.place <= problem.place);
        let within = begun.max_by_key(|(_, element)| element.place).map(|(index, _)| index);
        let having = places.iter().enumerate().filter(|(_, places)| places.contains(&problem.place));
        let owners: HashSet<usize> = having.map(|(index, _)| index).chain(within).collect();
        for owner in owners {
            found.entry(owner).or_default().push(problem.clone());
        }
    }
    Some(found)
}
