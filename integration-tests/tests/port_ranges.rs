//! A range of ports is one tunnel with one state: all of its ports are up, or none is.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use integration_tests::{Daemon, Lab, Squatter, Sshd, kill, listens_on, python, within_deadline};
use nix::sys::signal::Signal;
use portward::port::{Endpoint, Ports};
use portward::protocol::{FailureKind, StateName, TunnelStatus};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const FIRST: u16 = 9443;
const TARGET: u16 = 8000;
/// The longest range that the configuration takes.
const LONGEST: u16 = 256;

const RANGE: &str = "
  - {name: range, remote_host: server, remote_port: 127.0.0.1:8000-8002, local_port: 9443-9445}
";
const HELD: &str = "
  - {name: range, remote_host: server, remote_port: 127.0.0.1:8000-8002, local_port: 9443-9445, listener: portward}
";
const PUBLISHED: &str = "
  - name: range
    remote_host: server
    direction: local_to_remote
    remote_port: 9443-9445
    local_port: 127.0.0.1:8000-8002
    restart: {min_delay: 5s, max_delay: 5s}
";

/// Answers each client of these ports of 127.0.0.1 with the number of the port.
async fn serve_numbers(ports: impl IntoIterator<Item = u16>) {
    for port in ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // A client that has gone away is its own affair.
                let _ = stream.write_u16(port).await;
            }
        });
    }
}

/// The number that comes through a port of the tunnel.
async fn number(address: IpAddr, port: u16) -> io::Result<u16> {
    let read = async { TcpStream::connect((address, port)).await?.read_u16().await };
    within_deadline("a number", read).await
}

/// Checks that each port leads to its own target, on both loopback addresses.
async fn all_lead_to_their_own() {
    for offset in 0..3 {
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            assert_eq!(number(address, FIRST + offset).await.unwrap(), TARGET + offset, "{address}");
        }
    }
}

fn held_ports(status: &TunnelStatus) -> BTreeSet<u16> {
    status.held_by.iter().map(|occupant| occupant.port).collect()
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint::new(Ipv4Addr::LOCALHOST.into(), port)
}

/// Waits until nobody listens on the port, as the kernel says.
async fn closed(port: u16) {
    let ports = Ports::new().unwrap();
    let unbound = async { ports.unbound(&[endpoint(port)], |_, _| {}).await };
    within_deadline("the end of the listener", unbound).await.unwrap();
}

#[tokio::test]
async fn every_port_of_a_range_leads_to_its_own_target_before_and_after_a_restart() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_numbers(TARGET..TARGET + 3).await;
    for (tunnel, starts) in [(RANGE, 2), (HELD, 2 + 4)] {
        let daemon = Daemon::start(&lab, tunnel).await;
        let up = daemon.wait_state("range", StateName::Up).await;
        let listeners = listens_on(&up);
        assert_eq!(listeners.len(), 6, "{listeners:?}");
        all_lead_to_their_own().await;
        let shown = String::from_utf8(daemon.cli(&["status"]).await.stdout).unwrap();
        assert!(shown.contains("127.0.0.1:9443-9445 [::1]:9443-9445"), "{shown}");
        let (before, after) = daemon.restart("range").await;
        assert_ne!(before, after);
        all_lead_to_their_own().await;
        if tunnel == HELD {
            for _ in 0..2 {
                let (mark, before) = (daemon.mark(), daemon.tunnel_pid("range").await);
                kill(before, Signal::SIGKILL);
                all_lead_to_their_own().await;
                daemon.wait_up_anew(mark, "range", Some(before)).await;
            }
        }
        assert_eq!(lab.ssh_starts().len(), starts);
        assert_eq!(daemon.post("/stop/range?timeout=20s").await.status, 200);
        for port in FIRST..FIRST + 3 {
            assert!(number(Ipv4Addr::LOCALHOST.into(), port).await.is_err(), "port {port}");
        }
        daemon.stop().await;
    }
}

#[tokio::test]
async fn one_port_that_is_held_keeps_all_from_listening_and_is_named() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_numbers(TARGET..TARGET + 3).await;
    for (tunnel, starts) in [(RANGE, 1), (HELD, 2)] {
        let mut middle = Squatter::listen(&lab, "127.0.0.1", FIRST + 1).await;
        let mut last = Squatter::listen(&lab, "::1", FIRST + 2).await;
        let daemon = Daemon::start(&lab, tunnel).await;
        let both = BTreeSet::from([FIRST + 1, FIRST + 2]);
        let waiting =
            daemon.wait_status(0, "range", "held on two ports", |status| held_ports(status) == both).await;
        assert_eq!((waiting.state, waiting.listeners.len()), (StateName::AwaitingPort, 0));
        assert_eq!(waiting.local_port, "9443-9445");
        TcpListener::bind(("127.0.0.1", FIRST)).await.expect("nobody listens on a part of the range");
        let shown = String::from_utf8(daemon.cli(&["status"]).await.stdout).unwrap();
        let named =
            format!("waits for port {} of 9443-9445, which is held by pid {}", FIRST + 1, middle.pid());
        assert!(shown.contains(&named) && shown.contains("port 9445 is held as well"), "{shown}");
        let told =
            daemon.wait_log(0, "that tells of the holders", |line| line.has("event", "held")).await.raw;
        assert!(told.contains("port 9444 is held by") && told.contains("port 9445 is held by"), "{told}");

        let mark = daemon.mark();
        middle.kill().await;
        let one = BTreeSet::from([FIRST + 2]);
        daemon.wait_status(mark, "range", "held on one port", |status| held_ports(status) == one).await;
        last.kill().await;
        daemon.wait_state("range", StateName::Up).await;
        all_lead_to_their_own().await;
        assert_eq!(lab.ssh_starts().len(), starts, "the connection is made once");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn two_ports_of_one_process_are_both_named() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let program = "import signal, socket\n\
                   held = [socket.create_server(('127.0.0.1', port)) for port in (9443, 9445)]\n\
                   print('listening', flush=True)\n\
                   signal.pause()\n";
    let (_squatter, _) = python(&lab, program).await;
    let daemon = Daemon::start(&lab, RANGE).await;
    let both = BTreeSet::from([FIRST, FIRST + 2]);
    daemon.wait_status(0, "range", "held on two ports", |status| held_ports(status) == both).await;
}

#[tokio::test]
async fn a_server_listens_on_all_ports_or_on_none_and_the_one_that_it_refuses_is_named() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_numbers(TARGET..TARGET + 3).await;
    // One process, for sshd is content with one of its two loopback addresses.
    let program = "import signal, socket\n\
                   held = [socket.create_server(('127.0.0.1', 9445)),\n\
                           socket.create_server(('::1', 9445), family=socket.AF_INET6)]\n\
                   print('listening', flush=True)\n\
                   signal.pause()\n";
    let (mut squatter, _) = python(&lab, program).await;
    let daemon = Daemon::start(&lab, PUBLISHED).await;
    let failed = daemon.wait_failure(0, "range", FailureKind::RemotePortHeld).await;
    let message = failed.last_error.unwrap().message;
    assert!(message.contains("does not listen on its port 9445"), "{message}");
    // The first two were opened before the third was refused. All are asked for again at once, and then after 5 s.
    closed(FIRST).await;
    closed(FIRST + 1).await;
    let refusal = "remote port forwarding failed for listen port 9445";
    let refusals = daemon
        .log()
        .all()
        .iter()
        .filter(|line| line.has("event", "output") && line.raw.contains(refusal))
        .count();
    assert!(
        refusals <= 2,
        "they were not closed before the end of the connection, after {refusals} refusals"
    );
    squatter.kill().await.unwrap();
    let up = daemon.wait_state("range", StateName::Up).await;
    assert_eq!(up.remote_port, "9443-9445");
    all_lead_to_their_own().await;
    assert_eq!(daemon.post("/stop/range?timeout=20s").await.status, 200);
    for port in FIRST..FIRST + 3 {
        closed(port).await;
    }
}

#[tokio::test]
async fn a_listener_of_a_range_that_is_lost_is_opened_again_on_the_same_connection() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_numbers(TARGET..TARGET + 3).await;
    let daemon = Daemon::start(&lab, RANGE).await;
    let up = daemon.wait_state("range", StateName::Up).await;
    let directory = daemon.socket().with_extension("ssh");
    let mut control = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let control = control.find(|path| path.extension().is_none()).expect("a control socket");
    let mark = daemon.mark();
    let mut cancel = lab.command("/usr/bin/ssh");
    cancel.arg("-S").arg(control).args(["-O", "cancel", "-L", "[::1]:9444:127.0.0.1:8001", "server"]);
    let cancelled = within_deadline("ssh -O cancel", cancel.output()).await.unwrap();
    assert!(cancelled.status.success(), "{cancelled:?}");
    daemon.wait_status(mark, "range", "without a listener", |status| status.listeners.is_empty()).await;
    let again = daemon
        .wait_status(mark, "range", "up again", |status| {
            status.state == StateName::Up && status.last_error.is_none()
        })
        .await;
    assert_eq!((again.pid, again.listeners), (up.pid, up.listeners));
    all_lead_to_their_own().await;
    assert_eq!(lab.ssh_starts().len(), 1, "no login was needed");
}

#[tokio::test]
async fn the_longest_range_is_up_and_comes_back_after_kill_9() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let (last, last_target) = (FIRST + LONGEST - 1, TARGET + LONGEST - 1);
    serve_numbers([TARGET, last_target]).await;
    for listener in ["ssh", "portward"] {
        let tunnel = format!(
            "\n  - {{name: range, remote_host: server, remote_port: 127.0.0.1:{TARGET}-{last_target}, \
             local_port: {FIRST}-{last}, listener: {listener}}}\n"
        );
        let daemon = Daemon::start(&lab, &tunnel).await;
        let up = daemon.wait_state("range", StateName::Up).await;
        assert_eq!(up.listeners.len(), 2 * usize::from(LONGEST));
        let mark = daemon.mark();
        kill(up.pid.unwrap(), Signal::SIGKILL);
        daemon.wait_up_anew(mark, "range", up.pid).await;
        for (port, target) in [(FIRST, TARGET), (last, last_target)] {
            assert_eq!(number(Ipv4Addr::LOCALHOST.into(), port).await.unwrap(), target);
        }
        daemon.restart("range").await;
        assert_eq!(number(Ipv6Addr::LOCALHOST.into(), last).await.unwrap(), last_target);
        daemon.stop().await;
    }
}
