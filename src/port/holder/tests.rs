use super::*;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use tempfile::TempDir;

fn a_proc() -> (TempDir, Processes) {
    let root = TempDir::new().unwrap();
    let processes = Processes { root: root.path().to_owned() };
    (root, processes)
}

fn a_process(root: &TempDir, pid: u32, files: &[(&str, &[u8])], sockets: &[u32]) {
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

/// The holder of one socket; there are no cgroups.
fn describe(processes: &Processes, inode: u32, uid: u32) -> Holder {
    let owned = Owned { inode, uid, cgroup: None };
    processes.describe(&[owned], &Cgroups::at(Path::new("/nonexistent"))).remove(0)
}

#[test]
fn all_processes_with_the_socket_are_its_owners() {
    let (root, processes) = a_proc();
    a_process(&root, 1000, &[], &[7, 7]);
    a_process(&root, 200, &[], &[7, 9]);
    fs::create_dir(root.path().join("sys")).unwrap();
    let owners = processes.owners(&BTreeSet::from([7, 9, 11]));
    assert_eq!(owners, BTreeMap::from([(7, vec![200, 1000]), (9, vec![200])]));
    let holder = describe(&processes, 7, 0);
    assert_eq!((holder.pid, holder.others), (Some(200), vec![1000]));
}

#[test]
fn a_holder_has_pid_command_user_start_unit_and_container() {
    let id = "a".repeat(64);
    let (root, processes) = a_proc();
    fs::write(root.path().join("stat"), "cpu 1 2\nbtime 1700000000\nprocesses 3\n").unwrap();
    let cgroup = format!("0::/system.slice/docker-{id}.scope\n");
    let stat = b"42 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 9 9";
    let files: [(&str, &[u8]); 3] =
        [("cmdline", b"nginx\0-c\0a b\0"), ("cgroup", cgroup.as_bytes()), ("stat", stat)];
    a_process(&root, 42, &files, &[7]);
    assert_eq!(
        describe(&processes, 7, 0),
        Holder {
            pid: Some(42),
            others: Vec::new(),
            command: Some("nginx -c a b".into()),
            uid: 0,
            user: Some("root".into()),
            started: Some("2023-11-14T22:15:23.45Z".parse().unwrap()),
            unit: Some(format!("docker-{id}.scope")),
            cgroup: Some(format!("/system.slice/docker-{id}.scope")),
            container: Some(id),
            orphaned: false,
        }
    );
}

#[test]
fn of_a_hidden_process_uid_user_and_unit_are_known() {
    let (_root, processes) = a_proc();
    let tree = TempDir::new().unwrap();
    let nginx = tree.path().join("system.slice/nginx.service");
    fs::create_dir_all(&nginx).unwrap();
    let cgroup = Some(fs::metadata(&nginx).unwrap().ino());
    let owned = Owned { inode: 7, uid: 0, cgroup };
    let holder = processes.describe(&[owned], &Cgroups::at(tree.path())).remove(0);
    let expected = Holder {
        uid: 0,
        user: Some("root".into()),
        unit: Some("nginx.service".into()),
        cgroup: Some("/system.slice/nginx.service".into()),
        ..Holder::default()
    };
    assert_eq!(holder, expected);
    assert_eq!(
        holder.to_string(),
        "a process of user root in nginx.service; this user may not see its pid and command line, root may (`sudo \
         portward who`)"
    );
}

#[test]
fn a_socket_without_inode_belongs_to_no_process() {
    let (root, processes) = a_proc();
    a_process(&root, 42, &[], &[0]);
    let holder = describe(&processes, 0, 0);
    assert_eq!((holder.pid, holder.orphaned), (None, true));
    assert_eq!(holder.to_string(), "the kernel, which closes a connection of user root");
}

#[test]
fn a_holder_is_shown_with_all_its_processes_and_its_container() {
    let holder = Holder {
        pid: Some(42),
        others: vec![43, 44],
        command: Some("nginx".into()),
        uid: 33,
        user: Some("www-data".into()),
        unit: Some("nginx.service".into()),
        container: Some("0123456789abcdef".into()),
        ..Holder::default()
    };
    assert_eq!(
        holder.to_string(),
        "pid 42 (nginx) and pids 43, 44 of user www-data in nginx.service, container 0123456789ab"
    );
}

#[test]
fn a_command_line_cannot_write_on_the_terminal() {
    let (root, processes) = a_proc();
    a_process(&root, 42, &[("cmdline", b"x\x1b[2J\n\xff\xe2\x80\xaey\0")], &[]);
    let shown = processes.command(42).unwrap();
    assert_eq!(shown, "x\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}y");
}

#[test]
fn a_long_command_line_is_cut_at_256_characters() {
    let (root, processes) = a_proc();
    a_process(&root, 42, &[("cmdline", "ä".repeat(1000).as_bytes())], &[]);
    assert_eq!(processes.command(42).unwrap().chars().count(), 256);
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

#[test]
fn the_real_proc_shows_our_own_socket() {
    let (socket, _peer) = UnixStream::pair().unwrap();
    let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
    let inode = socket_inode(link.as_os_str()).unwrap();
    let pid = std::process::id();
    assert!(pid_owns(pid, inode));
    assert_eq!(owners(&BTreeSet::from([inode])).get(&inode), Some(&pid));
    let started = Processes::system().started(pid).unwrap();
    let age = Timestamp::now().duration_since(started);
    assert!(age > SignedDuration::from_secs(-2) && age < SignedDuration::from_hours(1), "{started}");
    drop(socket);
    assert!(!pid_owns(pid, inode));
    assert!(is_descendant_of(pid, std::os::unix::process::parent_id()));
}
