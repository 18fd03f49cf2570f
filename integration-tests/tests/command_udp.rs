//! `command:` tunnels with `protocol: udp`.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::net::UdpSocket;

use integration_tests::{Daemon, Lab, kill, listens_on};
use nix::sys::signal::Signal;
use portward::protocol::{FailureKind, StateName};

const ADDRESS: &str = "127.0.0.1:5353";
/// Answers each datagram with itself.
const ECHO: &str = "
  - name: echo
    command:
      - /usr/bin/python3
      - -c
      - |
        import socket
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(('127.0.0.1', 5353))
        while True:
            server.sendto(*server.recvfrom(1500))
    local_port: 5353
    protocol: udp
";

fn echoes() {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(integration_tests::DEADLINE)).unwrap();
    client.send_to(b"hello", ADDRESS).unwrap();
    let mut answer = [0; 16];
    let (length, sender) = client.recv_from(&mut answer).expect("an answer through the command");
    assert_eq!((&answer[..length], sender.to_string().as_str()), (&b"hello"[..], ADDRESS));
}

#[tokio::test]
async fn a_udp_command_waits_for_its_port_and_is_up_once_it_is_bound() {
    let lab = Lab::new();
    let squatter = UdpSocket::bind(ADDRESS).unwrap();
    // The TCP port of the same number is none of its business.
    let _other = std::net::TcpListener::bind(ADDRESS).unwrap();
    let daemon = Daemon::start(&lab, ECHO).await;
    let holder = daemon.wait_holder("echo").await;
    assert_eq!(holder.pid, Some(std::process::id()));

    drop(squatter);
    let up = daemon.wait_state("echo", StateName::Up).await;
    assert_eq!(listens_on(&up), [ADDRESS]);
    echoes();
}

#[tokio::test]
async fn a_udp_command_that_dies_is_started_again() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, ECHO).await;
    let up = daemon.wait_state("echo", StateName::Up).await;
    let mark = daemon.mark();
    kill(up.pid.unwrap(), Signal::SIGKILL);
    daemon.wait_failure(mark, "echo", FailureKind::Killed).await;
    daemon.wait_up_anew(mark, "echo", up.pid).await;
    echoes();
}
