//! `share: true`: tunnels with the same destination and ssh settings use one connection.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeSet;

use integration_tests::{
    Choices, Daemon, Lab, ORIGIN_PORT, Squatter, Sshd, fetch, kill, process_end, serve_page,
};
use nix::sys::signal::Signal;
use portward::protocol::{StateName, TunnelStatus};

/// A tunnel to the web server beyond the server.
fn tunnel(name: &str, port: u16) -> String {
    format!(
        "  - {{name: {name}, remote_host: server, remote_port: \"127.0.0.1:8000\", local_port: {port}, share: true}}\n"
    )
}

const ONE: u16 = 9441;
const TWO: u16 = 9442;
const THREE: u16 = 9443;

fn three() -> String {
    ["one", "two", "three"].iter().zip([ONE, TWO, THREE]).map(|(name, port)| tunnel(name, port)).collect()
}

async fn all_up(daemon: &Daemon<'_>) -> [TunnelStatus; 3] {
    [
        daemon.wait_state("one", StateName::Up).await,
        daemon.wait_state("two", StateName::Up).await,
        daemon.wait_state("three", StateName::Up).await,
    ]
}

#[tokio::test]
async fn tunnels_share_one_login_and_a_restart_moves_only_the_one_that_it_is_for() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &three()).await;
    let up = all_up(&daemon).await;
    let first = up[0].pid.unwrap();
    assert!(up.iter().all(|tunnel| (tunnel.pid, tunnel.shared_by) == (Some(first), Some(3))), "{up:?}");
    assert_eq!(lab.sshs(), BTreeSet::from([first]));
    for port in [ONE, TWO, THREE] {
        fetch(port).await.unwrap();
    }

    let mark = daemon.mark();
    let (before, second) = daemon.restart("one").await;
    assert_eq!(before, first);
    let moved = daemon.wait_up_anew(mark, "one", Some(first)).await;
    assert_eq!((moved.pid, moved.restarts), (Some(second), 1));
    let others = all_up(&daemon).await;
    assert!(others[1..].iter().all(|tunnel| (tunnel.pid, tunnel.restarts) == (Some(first), 0)), "{others:?}");
    assert_eq!(lab.sshs(), BTreeSet::from([first, second]));

    // The old connection ends, and those that were on it move to the present one without a login.
    let mark = daemon.mark();
    kill(first, Signal::SIGKILL);
    for name in ["two", "three"] {
        let after = daemon.wait_up_anew(mark, name, Some(first)).await;
        assert_eq!(after.pid, Some(second));
    }
    for port in [ONE, TWO, THREE] {
        fetch(port).await.unwrap();
    }
    assert_eq!(lab.sshs(), BTreeSet::from([second]));
    assert_eq!(daemon.post("/stop/three?timeout=20s").await.status, 200);
    assert_eq!(daemon.status("three").await.pid, None, "the others have the connection");
    let ended = daemon.stop().await;
    assert!(ended.status.success());
    process_end(second).await;
}

#[tokio::test]
async fn the_end_of_the_connection_is_one_login_for_all() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &three()).await;
    let first = all_up(&daemon).await[0].pid;
    let mark = daemon.mark();
    kill(first.unwrap(), Signal::SIGKILL);
    let mut pids = BTreeSet::new();
    for name in ["one", "two", "three"] {
        let after = daemon.wait_up_anew(mark, name, first).await;
        assert_eq!(after.restarts, 1);
        pids.insert(after.pid.unwrap());
    }
    assert_eq!(pids, lab.sshs());
    assert_eq!(pids.len(), 1);
    assert_eq!(lab.ssh_starts().len(), 2);
    daemon.stop().await;
}

#[tokio::test]
async fn what_is_held_or_refused_for_one_tunnel_concerns_no_other() {
    let lab = Lab::new();
    let _sshd = Sshd::start_with(&lab, "PermitListen none\n").await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let squatter = Squatter::listen(&lab, "127.0.0.1", TWO).await;
    // Nobody listens there.
    let remote =
        tunnel("three", THREE).replace("8000", "9999").replace("name", "direction: local_to_remote, name");
    let config = tunnel("one", ONE) + &tunnel("two", TWO) + &remote;
    let daemon = Daemon::start(&lab, &config).await;
    let one = daemon.wait_state("one", StateName::Up).await;
    daemon.wait_state("two", StateName::AwaitingPort).await;
    let refused = daemon
        .wait_status(0, "three", "refused", |tunnel| {
            tunnel.state == StateName::Backoff && tunnel.last_error.is_some()
        })
        .await;
    assert!(refused.last_error.unwrap().message.contains("PermitListen"));
    squatter.leave().await;
    let two = daemon.wait_state("two", StateName::Up).await;
    assert_eq!(two.pid, one.pid, "the same connection");
    let after = daemon.wait_state("one", StateName::Up).await;
    assert_eq!((after.restarts, after.since), (0, one.since));
    daemon.stop().await;
}

#[tokio::test]
async fn tunnels_come_go_and_change_beside_the_others() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &(tunnel("one", ONE) + &tunnel("two", TWO))).await;
    let one = daemon.wait_state("one", StateName::Up).await;
    daemon.wait_state("two", StateName::Up).await;

    // Another port for one, and a third tunnel: the connection stays.
    let mark = daemon.mark();
    lab.write_config(&(tunnel("one", ONE) + &tunnel("two", 9450) + &tunnel("three", THREE)));
    let three = daemon.wait_status(mark, "three", "up", |tunnel| tunnel.state == StateName::Up).await;
    assert_eq!((three.pid, three.shared_by), (one.pid, Some(3)));
    daemon
        .wait_status(mark, "two", "up on another port", |tunnel| {
            tunnel.state == StateName::Up && tunnel.listeners.iter().all(|address| address.port() == 9450)
        })
        .await;
    fetch(9450).await.unwrap();
    fetch(TWO).await.unwrap_err();

    // One leaves for a connection of its own, and another one goes.
    let mark = daemon.mark();
    let alone = tunnel("two", 9450).replace("share: true", "share: false");
    lab.write_config(&(tunnel("one", ONE) + &alone));
    let two = daemon
        .wait_status(mark, "two", "up alone", |tunnel| {
            tunnel.state == StateName::Up && tunnel.shared_by.is_none()
        })
        .await;
    assert_ne!(two.pid, one.pid);
    let after = daemon.wait_status(mark, "one", "the only one", |tunnel| tunnel.shared_by == Some(1)).await;
    assert_eq!((after.pid, after.restarts, after.since), (one.pid, 0, one.since));
    fetch(THREE).await.unwrap_err();
    for port in [ONE, 9450] {
        fetch(port).await.unwrap();
    }

    // The last one goes, and with it the connection.
    lab.write_config(&alone);
    process_end(one.pid.unwrap()).await;
    let stopped = daemon.cli(&["stop", "two"]).await;
    assert!(stopped.status.success());
    assert_eq!(lab.sshs(), BTreeSet::new());
    daemon.stop().await;
}

#[tokio::test]
async fn tunnels_with_other_settings_have_a_connection_of_their_own() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let other =
        tunnel("two", TWO).replace("share: true", "share: true, ssh: {options: {Compression: \"yes\"}}");
    let alone = tunnel("three", THREE).replace(", share: true", "");
    let daemon = Daemon::start(&lab, &(tunnel("one", ONE) + &other + &alone)).await;
    let up = all_up(&daemon).await;
    let pids: BTreeSet<_> = up.iter().map(|tunnel| tunnel.pid.unwrap()).collect();
    assert_eq!(pids.len(), 3);
    assert_eq!(up.map(|tunnel| tunnel.shared_by), [Some(1), Some(1), None]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_shared_connection_carries_held_listeners_and_has_a_spare() {
    let lab = Lab::new();
    let mut sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let held = |name: &str, port| {
        tunnel(name, port).replace("share: true", "share: true, listener: portward, standby: true")
    };
    let daemon = Daemon::start(&lab, &(held("one", ONE) + &held("two", TWO))).await;
    let covered = |tunnel: &TunnelStatus| {
        tunnel.state == StateName::Up && tunnel.standby == Some(portward::protocol::Standby::Ready)
    };
    let one = daemon.wait_status(0, "one", "covered", covered).await;
    daemon.wait_status(0, "two", "covered", covered).await;
    assert_eq!(lab.sshs().len(), 2, "one that serves, and its spare");
    sshd.stop_listening().await;
    let mark = daemon.mark();
    kill(one.pid.unwrap(), Signal::SIGKILL);
    process_end(one.pid.unwrap()).await;
    for (name, port) in [("one", ONE), ("two", TWO)] {
        fetch(port).await.unwrap();
        daemon.wait_up_anew(mark, name, one.pid).await;
    }
    sshd.start_again().await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_failed_client_of_a_shared_connection_is_logged_and_ascribed_to_no_tunnel() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, &(tunnel("one", ONE) + &tunnel("two", TWO))).await;
    daemon.wait_state("one", StateName::Up).await;
    daemon.wait_state("two", StateName::Up).await;
    // Nobody serves there.
    fetch(TWO).await.unwrap_err();
    let line = daemon.wait_log(0, "the failed client", |line| line.has("event", "connection_error")).await;
    assert!(line.raw.contains("one of the 2 tunnels that share a connection to server"), "{}", line.raw);
    for name in ["one", "two"] {
        assert_eq!(daemon.status(name).await.connection_errors, None);
    }
    daemon.stop().await;
}

/// A configuration of up to five tunnels, of which some share and some do not.
fn any_configuration(choices: &mut Choices) -> Vec<(String, u16, bool)> {
    // Two tunnels may change their ports with each other.
    let mut ports: Vec<u16> = (ONE..ONE + 5).collect();
    ports.rotate_left(choices.below(5));
    let names = ["a", "b", "c", "d", "e"].into_iter().zip(ports);
    let mut tunnels: Vec<_> =
        names.map(|(name, port)| (name.to_owned(), port, choices.below(3) > 0)).collect();
    tunnels.truncate(1 + choices.below(5));
    tunnels
}

#[tokio::test]
async fn whatever_is_edited_restarted_and_killed_what_runs_in_the_end_is_what_the_file_says() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    for seed in [1, 2, 3] {
        let mut choices = Choices::new(seed);
        let text = |tunnels: &[(String, u16, bool)]| -> String {
            let line = |(name, port, shares): &(String, u16, bool)| {
                tunnel(name, *port).replace("share: true", &format!("share: {shares}"))
            };
            tunnels.iter().map(line).collect()
        };
        let mut wanted = any_configuration(&mut choices);
        let daemon = Daemon::start(&lab, &text(&wanted)).await;
        for _ in 0..40 {
            match choices.below(4) {
                0 | 1 => {
                    wanted = any_configuration(&mut choices);
                    lab.write_config(&text(&wanted));
                    daemon.post("/reload").await;
                }
                2 => {
                    let (name, ..) = &wanted[choices.below(wanted.len())];
                    daemon.post(&format!("/restart/{name}?timeout=0s")).await;
                }
                _ => {
                    let running: Vec<u32> = lab.sshs().into_iter().collect();
                    if !running.is_empty() {
                        kill(running[choices.below(running.len())], Signal::SIGKILL);
                    }
                }
            }
        }
        // None is on its way any more.
        for (name, ..) in &wanted {
            let answer = daemon.post(&format!("/restart/{name}?timeout=20s")).await;
            assert_eq!(answer.status, 200, "seed {seed}: {answer:?}\n{}", daemon.report());
        }
        let mut pids = BTreeSet::new();
        for (name, port, shares) in &wanted {
            let status = daemon.status(name).await;
            assert_eq!(status.state, StateName::Up, "seed {seed}: {status:?}");
            assert!(
                status.listeners.iter().all(|address| address.port() == *port),
                "seed {seed}: {status:?}"
            );
            assert_eq!(status.shared_by.is_some(), *shares, "seed {seed}: {status:?}");
            fetch(*port).await.unwrap();
            pids.extend(status.pid);
        }
        for other in lab.sshs().difference(&pids) {
            process_end(*other).await;
        }
        daemon.stop().await;
    }
}
