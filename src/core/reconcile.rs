//! The difference between the tunnels that run and those that are wanted.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;

use super::Slot;

/// What becomes of each tunnel. Numbers are positions in the wanted list; every one of them occurs exactly once, and so
/// does every slot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Wanted, and not there yet.
    pub added: Vec<usize>,
    /// There, and not wanted any more.
    pub removed: Vec<Slot>,
    /// There under this name, with other work to do.
    pub changed: Vec<(Slot, usize)>,
    /// There, and to be left running, if under another name or policy.
    pub unchanged: Vec<(Slot, usize)>,
}

/// A tunnel that runs or is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'t, W> {
    /// Its name.
    pub name: &'t str,
    /// What must be the same for a tunnel to be left running.
    pub work: W,
}

/// Compares what runs with what is wanted. A tunnel is unchanged if its work is, whatever it is called and wherever it
/// stands in the file; it is changed if only its name is the same.
pub fn reconcile<W: Eq + Hash>(running: &[(Slot, Candidate<'_, W>)], wanted: &[Candidate<'_, W>]) -> Plan {
    let mut plan = Plan::default();
    let mut left: BTreeSet<Slot> = running.iter().map(|(slot, _)| *slot).collect();
    // Several tunnels may do the same, each under its own name: the first one in the list goes first.
    let mut same_work: HashMap<&W, VecDeque<Slot>> = HashMap::new();
    for (slot, old) in running {
        same_work.entry(&old.work).or_default().push_back(*slot);
    }
    let by_name: HashMap<&str, Slot> = running.iter().map(|(slot, old)| (old.name, *slot)).collect();
    let mut open = Vec::new();
    for (index, new) in wanted.iter().enumerate() {
        match same_work.get_mut(&new.work).and_then(VecDeque::pop_front) {
            Some(slot) => {
                left.remove(&slot);
                plan.unchanged.push((slot, index));
            }
            None => open.push(index),
        }
    }
    for index in open {
        match by_name.get(wanted[index].name).filter(|slot| left.remove(slot)) {
            Some(slot) => plan.changed.push((*slot, index)),
            None => plan.added.push(index),
        }
    }
    plan.removed = left.into_iter().collect();
    plan
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tunnel<'t>(name: &'t str, work: &'t str) -> Candidate<'t, &'t str> {
        Candidate { name, work }
    }

    #[test]
    fn a_renamed_tunnel_is_unchanged_and_one_with_other_work_is_changed() {
        let running = [
            (Slot(1), tunnel("database", "d")),
            (Slot(2), tunnel("web", "w")),
            (Slot(3), tunnel("old", "o")),
        ];
        let wanted = [tunnel("web", "other"), tunnel("db", "d"), tunnel("new", "n")];
        assert_eq!(
            reconcile(&running, &wanted),
            Plan {
                added: vec![2],
                removed: vec![Slot(3)],
                changed: vec![(Slot(2), 0)],
                unchanged: vec![(Slot(1), 1)],
            }
        );
    }

    proptest! {
        #[test]
        fn every_tunnel_has_exactly_one_fate(
            running in proptest::collection::btree_map("[a-f]", "[p-u]", 0..6),
            wanted in proptest::collection::btree_map("[a-f]", "[p-u]", 0..6),
        ) {
            let running: Vec<_> = running.iter().map(|(name, program)| tunnel(name, program)).collect();
            let wanted: Vec<_> = wanted.iter().map(|(name, program)| tunnel(name, program)).collect();
            let slots: Vec<_> = (0u64..).map(Slot).zip(running.iter().copied()).collect();
            let plan = reconcile(&slots, &wanted);

            let mut kept: Vec<_> = plan.changed.iter().chain(&plan.unchanged).map(|(slot, _)| *slot).collect();
            kept.extend(&plan.removed);
            kept.sort();
            prop_assert_eq!(kept, slots.iter().map(|(slot, _)| *slot).collect::<Vec<_>>());
            let mut served: Vec<_> = plan.changed.iter().chain(&plan.unchanged).map(|(_, index)| *index).collect();
            served.extend(&plan.added);
            served.sort_unstable();
            prop_assert_eq!(served, (0..wanted.len()).collect::<Vec<_>>());
        }

        #[test]
        fn reordering_changes_nothing(names in proptest::collection::btree_set("[a-z]{3}", 1..8), turn in 0usize..8) {
            let running: Vec<_> = names.iter().map(|name| tunnel(name, name)).collect();
            let mut wanted = running.clone();
            wanted.rotate_left(turn % running.len());
            let slots: Vec<_> = (0u64..).map(Slot).zip(running.iter().copied()).collect();
            let plan = reconcile(&slots, &wanted);
            prop_assert_eq!(plan.unchanged.len(), running.len());
        }
    }
}
