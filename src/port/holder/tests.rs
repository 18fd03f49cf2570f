use super::processes::tests::{a_proc, a_process};
use super::*;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use tempfile::TempDir;

/// The holder of one socket; there are no cgroups.
fn describe(processes: &Processes, inode: u32, uid: u32) -> Holder {
    let owned = Owned { inode, uid, cgroup: None };
    let cgroups = Cgroups::at(Path::new("/nonexistent"));
    describe_by(processes, &cgroups, &Daemons::default(), &[owned]).remove(0)
}

#[test]
fn all_processes_with_the_socket_are_its_owners() {
    let (root, processes) = a_proc();
    a_process(&root, 1000, &[], &[7, 7]);
    a_process(&root, 200, &[], &[7, 9]);
    fs::create_dir(root.path().join("sys")).unwrap();
    let owners = processes.owners(&BTreeSet::from([7, 9, 11]));
    assert_eq!(owners.pids, BTreeMap::from([(7, vec![200, 1000]), (9, vec![200])]));
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
            ..Holder::default()
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
    let holder = describe_by(&processes, &Cgroups::at(tree.path()), &Daemons::default(), &[owned]).remove(0);
    let expected = Holder {
        uid: 0,
        user: Some("root".into()),
        unit: Some("nginx.service".into()),
        cgroup: Some("/system.slice/nginx.service".into()),
        ..Holder::default()
    };
    assert_eq!(holder, expected);
    assert_eq!(holder.to_string(), "a process that portward may not see, of user root in nginx.service");
}

#[test]
fn a_socket_has_no_process_only_where_all_could_be_looked_into() {
    let (root, processes) = a_proc();
    a_process(&root, 42, &[], &[9]);
    assert!(describe(&processes, 7, 0).is_hidden(), "pid 1 is not even listed");
    a_process(&root, 1, &[], &[]);
    let holder = describe(&processes, 7, 0);
    assert!(holder.unowned && !holder.is_hidden());
    assert_eq!(holder.to_string(), "a socket that no process here has open");
    // Where a directory should be, there is none: as if it might not be read.
    fs::write(root.path().join("42/not"), "").unwrap();
    fs::remove_dir_all(root.path().join("42/fd")).unwrap();
    fs::write(root.path().join("42/fd"), "").unwrap();
    assert!(describe(&processes, 7, 0).is_hidden());
}

#[test]
fn a_service_manager_holds_a_socket_for_a_unit() {
    let (root, processes) = a_proc();
    a_process(&root, 1, &[("cgroup", b"0::/init.scope\n"), ("cmdline", b"/sbin/init\0")], &[7]);
    a_process(&root, 42, &[("cgroup", b"0::/system.slice/web.service\n")], &[8]);
    let tree = TempDir::new().unwrap();
    let unit = tree.path().join("system.slice/web.socket");
    fs::create_dir_all(&unit).unwrap();
    let cgroup = Some(fs::metadata(&unit).unwrap().ino());
    let of = |inode| {
        let owned = Owned { inode, uid: 0, cgroup };
        describe_by(&processes, &Cgroups::at(tree.path()), &Daemons::default(), &[owned]).remove(0)
    };
    assert_eq!(of(7).socket_unit.as_deref(), Some("web.socket"));
    assert_eq!(of(7).unit.as_deref(), Some("init.scope"));
    assert_eq!(of(8).socket_unit, None, "the service has taken it over");
    let hidden = of(9);
    assert_eq!(
        (hidden.socket_unit.as_deref(), hidden.unit.as_deref()),
        (Some("web.socket"), Some("web.socket"))
    );
}

#[test]
fn what_a_process_is_to_this_one_is_told() {
    let (root, processes) = a_proc();
    let ours = std::process::id();
    let stat = |pid: u32, parent: u32| format!("{pid} (x) S {parent} 1 1");
    let put = |pid: u32, parent: u32, name: &str| {
        a_process(&root, pid, &[("stat", stat(pid, parent).as_bytes()), ("comm", name.as_bytes())], &[]);
    };
    let (parent, child, portward, its) = (4_000_001, 4_000_002, 4_000_003, 4_000_004);
    put(parent, 1, "sh\n");
    put(ours, parent, "tests\n");
    put(child, ours, "ssh\n");
    put(portward, 1, "portward\n");
    put(its, portward, "ssh\n");
    for (pids, expected) in [
        (&[ours][..], Kinship::Itself),
        (&[parent], Kinship::Ancestor),
        (&[child], Kinship::Child),
        (&[portward], Kinship::Portward),
        (&[its], Kinship::Portward),
        (&[4_000_005], Kinship::Stranger),
        (&[], Kinship::Stranger),
        (&[its, parent], Kinship::Ancestor),
    ] {
        assert_eq!(kinship(&processes, pids), expected, "{pids:?}");
    }
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
    a_process(&root, 42, &[("cmdline", b"x\x1b[2J\n\xff\xe2\x80\xaey\0")], &[7]);
    let shown = describe(&processes, 7, 0).command.unwrap();
    assert_eq!(shown, "x\\u{1b}[2J\\n\u{fffd}\\u{202e}y");
}

#[test]
fn a_long_command_line_is_cut_at_256_bytes_after_escaping() {
    for letter in ["x", "\u{e4}", "\u{1b}", "\u{202e}"] {
        let (root, processes) = a_proc();
        a_process(&root, 42, &[("cmdline", letter.repeat(100_000).as_bytes())], &[7]);
        let shown = describe(&processes, 7, 0).command.unwrap();
        assert!((250..=256).contains(&shown.len()) && shown.ends_with('\u{2026}'), "{shown}");
    }
}

#[test]
fn the_real_proc_shows_our_own_socket() {
    let (socket, _peer) = UnixStream::pair().unwrap();
    let inode = u32::try_from(nix::sys::stat::fstat(&socket).unwrap().st_ino).unwrap();
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
