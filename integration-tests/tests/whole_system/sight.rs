//! What the kernel shows of the daemon: processes, descriptors and listeners.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use portward::port::{Ports, Protocol, holder};

/// The children of `parent`, and those among them that have ended and were not waited for.
pub(crate) fn children(parent: u32) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let (mut children, mut zombies) = (BTreeSet::new(), BTreeSet::new());
    for pid in holder::pids() {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((_, fields)) = stat.rsplit_once(')') else { continue };
        let mut fields = fields.split_ascii_whitespace();
        let state = fields.next();
        if fields.next().and_then(|ppid| ppid.parse().ok()) == Some(parent) {
            children.insert(pid);
            if state == Some("Z") {
                zombies.insert(pid);
            }
        }
    }
    (children, zombies)
}

/// How many descriptors of each kind the process has open.
pub(crate) fn descriptors(pid: u32) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        // It may be closed meanwhile.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        let kind = match target.split_once(":[") {
            Some((kind, _)) => kind.to_owned(),
            None if target.starts_with('/') => "file".to_owned(),
            None => target,
        };
        *found.entry(kind).or_default() += 1;
    }
    found
}

/// The processes that listen on each of `ports`, by port.
pub(crate) fn listeners(ports: &Ports, among: std::ops::Range<u16>) -> BTreeMap<u16, BTreeSet<u32>> {
    let listeners = ports.all_listeners(Protocol::Tcp).unwrap();
    let inodes = listeners.iter().map(|listener| listener.inode).collect();
    let owners = holder::owners(&inodes);
    let mut found: BTreeMap<u16, BTreeSet<u32>> = BTreeMap::new();
    for listener in listeners.iter().filter(|listener| among.contains(&listener.address.port())) {
        // One whose process is just ending has none.
        let owner = owners.get(&listener.inode).copied().unwrap_or_default();
        found.entry(listener.address.port()).or_default().insert(owner);
    }
    found
}
