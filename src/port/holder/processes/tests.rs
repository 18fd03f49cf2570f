use super::*;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

pub(in crate::port::holder) fn a_proc() -> (TempDir, Processes) {
    let root = TempDir::new().unwrap();
    let processes = Processes { root: root.path().to_owned() };
    (root, processes)
}

pub(in crate::port::holder) fn a_process(root: &TempDir, pid: u32, files: &[(&str, &[u8])], sockets: &[u32]) {
    let directory = root.path().join(pid.to_string());
    fs::create_dir_all(directory.join("fd")).unwrap();
    for (name, content) in files {
        fs::write(directory.join(name), content).unwrap();
    }
    symlink("/dev/null", directory.join("fd/0")).unwrap();
    for (descriptor, inode) in (3..).zip(sockets) {
        symlink(format!("socket:[{inode}]"), directory.join(format!("fd/{descriptor}"))).unwrap();
    }
}

#[test]
fn a_process_without_command_line_is_shown_by_its_name() {
    let (root, processes) = a_proc();
    a_process(&root, 42, &[("cmdline", b""), ("comm", b"kworker/0:1\n")], &[]);
    assert_eq!(processes.command(42).unwrap(), "[kworker/0:1]");
}

#[test]
fn a_parent_is_found_whatever_the_name_holds() {
    assert_eq!(field_in("42 (bash) S 7 42 42", 1), Some("7"));
    assert_eq!(field_in("42 (a) R 1 (b) S 7 42 42", 1), Some("7"));
    assert_eq!(field_in("42 (bash", 1), None);
    assert_eq!(field_in("", 1), None);
}

#[test]
fn descent_goes_through_all_parents_and_ends() {
    let (root, processes) = a_proc();
    a_process(&root, 1, &[("stat", b"1 (init) S 0 1 1")], &[]);
    a_process(&root, 10, &[("stat", b"10 (sh) S 1 1 1")], &[]);
    a_process(&root, 11, &[("stat", b"11 (x) y) S 10 1 1")], &[]);
    assert!(processes.is_descendant_of(11, 11));
    assert!(processes.is_descendant_of(11, 1));
    assert!(!processes.is_descendant_of(10, 11));
    a_process(&root, 20, &[("stat", b"20 (x) S 21 1 1")], &[]);
    a_process(&root, 21, &[("stat", b"21 (y) S 20 1 1")], &[]);
    assert!(!processes.is_descendant_of(20, 1), "a loop of parents ends");
}
