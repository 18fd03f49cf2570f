//! The difference between the tunnels that run and those that are wanted.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::Slot;
use crate::config::desired::{self, Work};

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

/// Compares what runs with what is wanted. A tunnel is unchanged if what it runs is, whatever it is called and wherever
/// it stands in the file; it is changed if only its name is the same.
pub fn reconcile(running: &[(Slot, &desired::Tunnel)], wanted: &[desired::Tunnel]) -> Plan {
    let mut plan = Plan::default();
    let mut left: BTreeSet<Slot> = running.iter().map(|(slot, _)| *slot).collect();
    // Several tunnels may do the same, each under its own name: the first one in the list goes first.
    let mut same_work: HashMap<_, VecDeque<Slot>> = HashMap::new();
    for (slot, tunnel) in running {
        same_work.entry(work_of(tunnel)).or_default().push_back(*slot);
    }
    let by_name: HashMap<&str, Slot> = running.iter().map(|(slot, old)| (old.name.as_str(), *slot)).collect();
    let mut open = Vec::new();
    for (index, tunnel) in wanted.iter().enumerate() {
        match same_work.get_mut(&work_of(tunnel)).and_then(VecDeque::pop_front) {
            Some(slot) => {
                left.remove(&slot);
                plan.unchanged.push((slot, index));
            }
            None => open.push(index),
        }
    }
    for index in open {
        match by_name.get(wanted[index].name.as_str()).filter(|slot| left.remove(slot)) {
            Some(slot) => plan.changed.push((*slot, index)),
            None => plan.added.push(index),
        }
    }
    plan.removed = left.into_iter().collect();
    plan
}

/// What must be the same for a tunnel to be left running.
fn work_of(tunnel: &desired::Tunnel) -> (&Work, bool, bool) {
    (&tunnel.work, tunnel.enabled, tunnel.interactive)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::desired::{CommandTunnel, Written};
    use crate::config::environment::Environment;
    use crate::core::{Kind, OnConflict, Policy};

    fn tunnel(name: &str, program: &str) -> desired::Tunnel {
        desired::Tunnel {
            name: name.to_owned(),
            hash: format!("hash of {name}"),
            log_id: String::new(),
            written: Written::default(),
            enabled: true,
            interactive: false,
            work: Work::Command(CommandTunnel {
                argv: vec![program.to_owned()],
                working_directory: None,
                env: Environment::default(),
                listen: Vec::new(),
            }),
            timeout: Duration::from_secs(30),
            policy: Policy {
                kind: Kind::Command,
                min_delay: Duration::ZERO,
                max_delay: Duration::ZERO,
                reset_after: Duration::ZERO,
                ready_timeout: Duration::ZERO,
                stop_grace: Duration::ZERO,
                on_conflict: OnConflict::Wait,
            },
        }
    }

    #[test]
    fn a_renamed_tunnel_is_unchanged_and_one_with_other_work_is_changed() {
        let (database, web, old) = (tunnel("database", "d"), tunnel("web", "w"), tunnel("old", "o"));
        let running = [(Slot(1), &database), (Slot(2), &web), (Slot(3), &old)];
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
            let slots: Vec<_> = (0u64..).map(Slot).zip(&running).collect();
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
            let slots: Vec<_> = (0u64..).map(Slot).zip(&running).collect();
            let plan = reconcile(&slots, &wanted);
            prop_assert_eq!(plan.unchanged.len(), running.len());
        }
    }
}
