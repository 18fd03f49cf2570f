use super::*;
use crate::port::{Endpoint, HoldKind};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
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

fn held(inode: u32, uid: u32) -> HeldBy {
    let endpoint = Endpoint::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 80);
    HeldBy {
        endpoint,
        bound: endpoint.address,
        kind: HoldKind::Listener,
        inode,
        uid,
        cookie: 0,
        cgroup: None,
    }
}

#[test]
fn of_several_processes_with_the_socket_the_lowest_pid_is_its_owner() {
    let (root, processes) = a_proc();
    a_process(&root, 1000, &[], &[7]);
    a_process(&root, 200, &[], &[7, 9]);
    fs::create_dir(root.path().join("sys")).unwrap();
    let owners = processes.owners(&BTreeSet::from([7, 9, 11]));
    assert_eq!(owners, HashMap::from([(7, 200), (9, 200)]));
}

#[test]
fn a_holder_has_pid_command_user_and_unit() {
    let (root, processes) = a_proc();
    let files: [(&str, &[u8]); 2] =
        [("cmdline", b"nginx\0-c\0a b\0"), ("cgroup", b"0::/system.slice/nginx.service\n")];
    a_process(&root, 42, &files, &[7]);
    let holder = processes.describe(&held(7, 0));
    assert_eq!(
        holder,
        Holder {
            pid: Some(42),
            command: Some("nginx -c a b".into()),
            uid: 0,
            user: Some("root".into()),
            unit: Some("nginx.service".into()),
        }
    );
}

#[test]
fn of_a_hidden_process_uid_and_user_are_known() {
    let (_root, processes) = a_proc();
    let holder = processes.describe(&held(7, 0));
    let expected = Holder { uid: 0, user: Some("root".into()), ..Holder::default() };
    assert_eq!(holder, expected);
}

#[test]
fn a_socket_without_inode_belongs_to_no_process() {
    let (root, processes) = a_proc();
    a_process(&root, 42, &[], &[0]);
    assert_eq!(processes.describe(&held(0, 0)).pid, None);
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
fn the_innermost_unit_is_the_unit() {
    let nested = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox.scope/sub\n";
    assert_eq!(unit_of(nested).as_deref(), Some("app-firefox.scope"));
    let v1 = "12:cpu,cpuacct:/x.service\n1:name=systemd:/system.slice/cron.service\n";
    assert_eq!(unit_of(v1).as_deref(), Some("cron.service"));
    assert_eq!(unit_of("0::/\n"), None);
    assert_eq!(unit_of("0::/user.slice\n"), None);
    assert_eq!(unit_of("0::/.service\n"), None);
    assert_eq!(unit_of("nonsense"), None);
}

#[test]
fn a_parent_is_found_whatever_the_name_holds() {
    assert_eq!(parent_in("42 (bash) S 7 42 42"), Some(7));
    assert_eq!(parent_in("42 (a) R 1 (b) S 7 42 42"), Some(7));
    assert_eq!(parent_in("42 (bash"), None);
    assert_eq!(parent_in(""), None);
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
    drop(socket);
    assert!(!pid_owns(pid, inode));
    assert!(is_descendant_of(pid, std::os::unix::process::parent_id()));
}
