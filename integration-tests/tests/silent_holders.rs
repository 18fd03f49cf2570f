//! Holders whose release the kernel does not tell of as it does of others: what waits for them is woken all the same, and nobody
//! is named who has gone.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::process::Stdio;
use std::time::Duration;

use integration_tests::{Daemon, Lab, Squat, Sshd, ip, lines_of, within_deadline};
use portward::port::{Occupant, OccupantKind};
use portward::protocol::StateName;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::process::{Child, Command};

const WEB: &str = "
  - {name: web, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9443}
";
/// The port of a VXLAN device.
const SINK: &str = "
  - name: sink
    command: [/usr/bin/python3, -c, \"import signal, socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('127.0.0.1', 4789)); signal.pause()\"]
    local_port: 4789
    protocol: udp
";

/// A network device with a UDP socket of the kernel's own.
fn add_vxlan() {
    ip("link add vx0 type vxlan id 7 dstport 4789 local 127.0.0.1 dev lo");
    ip("link set vx0 up");
}

fn portward(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = lab.command(lab.path("bin/portward"));
    command.args(arguments).env("PORTWARD_SOCKET", "/nonexistent/portward.sock");
    command
}

/// Exit code and what was said on both streams.
async fn said_by(mut command: Command) -> (Option<i32>, String) {
    let output = within_deadline("portward", command.output()).await.unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// What keeps the tunnel waiting, once that is known.
async fn held_by(daemon: &Daemon<'_>, name: &str) -> Occupant {
    let known = |status: &portward::protocol::TunnelStatus| {
        status.state == StateName::AwaitingPort && !status.held_by.is_empty()
    };
    daemon.wait_status(0, name, "waiting for what is known", known).await.held_by.swap_remove(0)
}

/// A process of python's that says `ready`.
async fn python(lab: &Lab, program: &str) -> Child {
    let mut command = lab.command("/usr/bin/python3");
    let mut child =
        command.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let said = lines_of(child.stdout.take().unwrap());
    assert!(said.find(0, |line| line.starts_with("ready")).await.is_some(), "{program}: {:?}", said.all());
    child
}

async fn a_device_ends_by(release: &str) {
    let lab = Lab::new();
    add_vxlan();
    let daemon = Daemon::start(&lab, SINK).await;
    let held = held_by(&daemon, "sink").await;
    assert_eq!(held.kind, OccupantKind::Bound);
    assert!(held.holder.unwrap().unowned, "no process has it");
    let shown = String::from_utf8(daemon.cli(&["status"]).await.stdout).unwrap();
    assert!(shown.contains("held by a socket that no process here has open"), "{shown}");
    assert!(shown.contains("`ip -details link`"), "{shown}");
    assert!(!shown.contains("sudo"), "root has looked already: {shown}");

    ip(release);
    daemon.wait_state("sink", StateName::Up).await;
    daemon.stop().await;
}

#[tokio::test]
async fn the_removal_of_a_network_device_wakes_whoever_waits_for_its_port() {
    a_device_ends_by("link del vx0").await;
}

#[tokio::test]
async fn a_network_device_that_goes_down_wakes_whoever_waits_for_its_port() {
    a_device_ends_by("link set vx0 down").await;
}

/// Nothing in this namespace tells of it.
#[tokio::test]
async fn a_device_that_ends_in_another_namespace_is_noticed_all_the_same() {
    let lab = Lab::new();
    add_vxlan();
    let mut other = lab.command("unshare");
    let other = other.args(["--net", "sh", "-c", "echo ready; read line"]).stdin(Stdio::piped());
    let mut other = other.stdout(Stdio::piped()).spawn().unwrap();
    lines_of(other.stdout.take().unwrap()).find(0, |line| line == "ready").await.unwrap();
    ip(&format!("link set vx0 netns {}", other.id().unwrap()));
    let inside = other.id().unwrap().to_string();
    let link = |verb: &str| {
        let inside = ["--target", &inside, "--net", "ip", "link"];
        let status = std::process::Command::new("nsenter").args(inside).args(verb.split(' ')).status();
        assert!(status.unwrap().success(), "{verb}");
    };
    link("set vx0 up");
    let daemon = Daemon::start(&lab, SINK).await;
    assert!(held_by(&daemon, "sink").await.holder.unwrap().unowned);
    link("del vx0");
    daemon.wait_state("sink", StateName::Up).await;
    daemon.stop().await;
    other.kill().await.unwrap();
}

#[tokio::test]
async fn wait_ends_with_the_device_and_names_no_process_before_that() {
    let lab = Lab::new();
    add_vxlan();
    let (code, late) = said_by(portward(&lab, &["wait", "4789", "--udp", "--timeout", "200ms"])).await;
    assert_eq!(code, Some(1));
    assert!(late.contains("a socket that no process here has open") && !late.contains("sudo"), "{late}");
    let mut strace = lab.command("strace");
    strace.args(["-f", "-e", "trace=bind"]).arg(lab.path("bin/portward")).args(["wait", "4789", "--udp"]);
    let mut waiting = strace.stderr(Stdio::piped()).spawn().unwrap();
    let calls = lines_of(waiting.stderr.take().unwrap());
    // The third of its netlink sockets: one for queries, one for destroy events, one for links.
    let is_netlink = |line: &String| line.contains("AF_NETLINK");
    let mut mark = 0;
    for _ in 0..3 {
        calls.find(mark, |line| is_netlink(&line.to_owned())).await.expect("a netlink socket");
        mark = calls.all().iter().rposition(is_netlink).unwrap() + 1;
    }
    ip("link del vx0");
    assert!(within_deadline("wait", waiting.wait()).await.unwrap().success());
}

#[tokio::test]
async fn an_address_that_comes_lets_the_tunnel_start() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let tunnels = WEB.replace("9443", "'10.9.9.9:9443'");
    let daemon = Daemon::start(&lab, &tunnels).await;
    assert_eq!(held_by(&daemon, "web").await.kind, OccupantKind::NoAddress);
    let shown = String::from_utf8(daemon.cli(&["status"]).await.stdout).unwrap();
    assert!(shown.contains("this machine has no address 10.9.9.9"), "{shown}");
    ip("address add 10.9.9.9/32 dev lo");
    daemon.wait_state("web", StateName::Up).await;
    daemon.stop().await;
}

/// It may be bound only when the kernel knows that nobody else on the link has it, which takes a second or two.
#[tokio::test]
async fn an_address_that_is_tentative_lets_the_tunnel_start_as_soon_as_it_is_not() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    ip("link add v0 type veth peer name v1");
    ip("link set v0 up");
    ip("link set v1 up");
    ip("address add fd00::9/64 dev v0");
    let tunnels = WEB.replace("9443", "'[fd00::9]:9443'");
    let daemon = Daemon::start(&lab, &tunnels).await;
    assert_eq!(held_by(&daemon, "web").await.kind, OccupantKind::NoAddress);
    daemon.wait_state("web", StateName::Up).await;
    assert_eq!(lab.ssh_starts().len(), 1);
    daemon.stop().await;
}

fn end_time_wait() {
    let ss = std::process::Command::new("ss")
        .args(["-K", "-n", "--tcp", "state", "time-wait", "sport = :9443"])
        .output()
        .expect("starting ss (package iproute2)");
    assert!(ss.status.success());
}

#[tokio::test]
async fn status_asks_once_more_and_so_starts_what_need_not_wait() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let _held = Squat::time_wait(9443);
    let daemon = Daemon::start(&lab, WEB).await;
    let held = held_by(&daemon, "web").await;
    assert_eq!((held.kind, held.holder), (OccupantKind::TimeWait, None));
    end_time_wait();
    let shown = String::from_utf8(daemon.cli(&["status"]).await.stdout).unwrap();
    assert!(!shown.contains("TIME_WAIT"), "{shown}");
    daemon.wait_state("web", StateName::Up).await;
    daemon.stop().await;
}

#[tokio::test]
async fn wait_asks_once_more_before_it_names_anybody() {
    let lab = Lab::new();
    let _held = Squat::time_wait(9443);
    let mut command = portward(&lab, &["wait", "9443", "--timeout", "2s"]);
    let waiting = tokio::spawn(async move { said_by_status(&mut command).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    end_time_wait();
    assert_eq!(waiting.await.unwrap(), Some(0));
}

async fn said_by_status(command: &mut Command) -> Option<i32> {
    within_deadline("portward", command.status()).await.unwrap().code()
}

/// The kernel had chosen the port for the client, and takes it back while the client's socket lives on.
#[tokio::test]
async fn a_connection_that_its_peer_resets_is_noticed_to_have_let_go() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let server = TcpListener::bind(("127.0.0.1", 9500)).unwrap();
    let client = std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let (accepted, _) = server.accept().unwrap();
    let port = client.local_addr().unwrap().port().to_string();
    let daemon = Daemon::start(&lab, &WEB.replace("9443", &port)).await;
    assert_eq!(held_by(&daemon, "web").await.kind, OccupantKind::Connection);
    socket2::SockRef::from(&accepted).set_linger(Some(Duration::ZERO)).unwrap();
    drop(accepted);
    daemon.wait_state("web", StateName::Up).await;
    drop(client);
    daemon.stop().await;
}

/// No process has it open while it is on its way.
#[tokio::test]
async fn a_socket_on_its_way_between_processes_is_nobodys_and_its_end_is_noticed() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 9443)).unwrap();
    let descriptors = [listener.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); 64];
    let mut message = SendAncillaryBuffer::new(&mut space);
    assert!(message.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(&here, &[std::io::IoSlice::new(b"x")], &mut message, SendFlags::empty()).unwrap();
    drop(listener);

    let daemon = Daemon::start(&lab, WEB).await;
    let holder = held_by(&daemon, "web").await.holder.unwrap();
    assert!(holder.unowned && holder.pid.is_none(), "{holder:?}");
    let table = said_by(portward(&lab, &["who", "9443"])).await;
    assert!(
        table.0 == Some(0) && !table.1.contains("sudo portward") && !table.1.contains("Nobody"),
        "{table:?}"
    );
    drop(there);
    daemon.wait_state("web", StateName::Up).await;
    daemon.stop().await;
}

/// Servers in Go listen so by default.
#[tokio::test]
async fn a_listener_of_mptcp_is_its_process_and_its_end_is_noticed() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let listens = "import signal, socket\n\
                   squatter = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\n\
                   squatter.bind(('127.0.0.1', 9443))\n\
                   squatter.listen()\n\
                   print('ready', flush=True)\n\
                   signal.pause()\n";
    let mut squatter = python(&lab, listens).await;
    let daemon = Daemon::start(&lab, WEB).await;
    assert_eq!(held_by(&daemon, "web").await.holder.unwrap().pid, squatter.id());
    squatter.kill().await.unwrap();
    daemon.wait_state("web", StateName::Up).await;
    daemon.stop().await;
}

/// The socket is the same, and the kernel tells of nothing.
#[tokio::test]
async fn a_holder_that_has_passed_the_socket_on_is_not_named_any_more() {
    let lab = Lab::new();
    let forks = "import os, signal, socket, sys\n\
                 squatter = socket.create_server(('127.0.0.1', 9443))\n\
                 child = os.fork()\n\
                 if child == 0:\n    signal.pause()\n\
                 print('ready', child, flush=True)\n\
                 sys.stdin.read()\n\
                 os._exit(0)\n";
    let mut parent = python(&lab, forks).await;
    let daemon = Daemon::start(&lab, WEB).await;
    let holder = held_by(&daemon, "web").await.holder.unwrap();
    let pids: Vec<u32> = holder.pids().collect();
    assert!(pids.len() == 2 && pids.contains(&parent.id().unwrap()), "{holder:?}");
    let child = pids.into_iter().find(|pid| Some(*pid) != parent.id()).unwrap();
    drop(parent.stdin.take());
    parent.wait().await.unwrap();
    let holder = daemon.status("web").await.holder.unwrap();
    assert_eq!(holder.pids().collect::<Vec<_>>(), [child]);
    integration_tests::kill(child, nix::sys::signal::Signal::SIGKILL);
    daemon.stop().await;
}
