//! `standby: true`: a second connection, logged in, takes over when the first one is lost.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeSet;

use integration_tests::{Daemon, Lab, ORIGIN_PORT, Squatter, Sshd, fetch, kill, process_end, serve_page};
use nix::sys::signal::Signal;
use portward::protocol::{Standby, StateName, TunnelStatus};

const PORT: u16 = 9443;
const WEB: &str = "
  - name: web
    remote_host: server
    remote_port: 127.0.0.1:8000
    local_port: 9443
    standby: true
    restart: {min_delay: 2s, max_delay: 2s}
";

fn is_covered(status: &TunnelStatus) -> bool {
    status.state == StateName::Up && status.standby == Some(Standby::Ready)
}

#[tokio::test]
async fn the_standby_connection_takes_over_when_no_login_is_possible_and_is_made_again_when_one_is() {
    let lab = Lab::new();
    let mut sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    for listener in ["ssh", "portward"] {
        let daemon = Daemon::start(&lab, &format!("{WEB}    listener: {listener}\n")).await;
        let up = daemon.wait_status(0, "web", "covered", is_covered).await;
        let mut spares = lab.sshs();
        assert!(spares.remove(&up.pid.unwrap()));
        let [spare] = spares.into_iter().collect::<Vec<_>>()[..] else { panic!("one stands by") };

        sshd.stop_listening().await;
        let mark = daemon.mark();
        kill(up.pid.unwrap(), Signal::SIGKILL);
        let after = daemon.wait_up_anew(mark, "web", up.pid).await;
        assert_eq!((after.pid, after.restarts), (Some(spare), 1));
        fetch(PORT).await.unwrap();
        daemon.wait_log(0, "the takeover", |line| line.has("event", "takeover")).await;
        let uncovered = daemon
            .wait_status(mark, "web", "without a spare", |status| status.standby == Some(Standby::Backoff))
            .await;
        assert_eq!((uncovered.state, uncovered.last_error), (StateName::Up, None), "no client notices");
        let said = daemon.cli(&["status"]).await;
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.contains("has no standby connection"), "{said}");

        let mark = daemon.mark();
        sshd.start_again().await;
        let covered = daemon.wait_status(mark, "web", "covered again", is_covered).await;
        assert_eq!((covered.pid, covered.restarts), (Some(spare), 1));
        daemon.stop().await;
    }
}

#[tokio::test]
async fn the_standby_connection_is_ready_for_a_port_that_is_held() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    let daemon = Daemon::start(&lab, WEB).await;
    let held = daemon
        .wait_status(0, "web", "held, and ready", |status| {
            status.state == StateName::AwaitingPort && status.standby == Some(Standby::Ready)
        })
        .await;
    assert_eq!((held.pid, held.holder.unwrap().pid), (None, Some(squatter.pid())));
    let ready = lab.sshs();
    squatter.leave().await;
    let up = daemon.wait_state("web", StateName::Up).await;
    assert_eq!(BTreeSet::from([up.pid.unwrap()]), ready, "it is the one that was ready");
    daemon.stop().await;
}

#[tokio::test]
async fn a_spare_that_ends_is_replaced_and_an_edit_makes_and_ends_one_beside_the_same_connection() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, WEB).await;
    let up = daemon.wait_status(0, "web", "covered", is_covered).await;
    for pid in lab.sshs().into_iter().filter(|pid| Some(*pid) != up.pid) {
        let mark = daemon.mark();
        kill(pid, Signal::SIGKILL);
        daemon.wait_status(mark, "web", "uncovered", |status| status.standby != Some(Standby::Ready)).await;
        daemon.wait_status(mark, "web", "covered again", is_covered).await;
    }
    let spares = lab.sshs().into_iter().filter(|pid| Some(*pid) != up.pid);

    let mark = daemon.mark();
    lab.write_config(&WEB.replace("standby: true", "standby: false"));
    let alone = daemon.wait_status(mark, "web", "without standby", |status| status.standby.is_none()).await;
    assert_eq!((alone.pid, alone.restarts), (up.pid, 0));
    for pid in spares {
        process_end(pid).await;
    }

    let mark = daemon.mark();
    lab.write_config(WEB);
    let covered = daemon.wait_status(mark, "web", "covered anew", is_covered).await;
    assert_eq!((covered.pid, covered.restarts), (up.pid, 0));
    let ended = daemon.stop().await;
    assert!(ended.status.success());
}

#[tokio::test]
async fn a_restart_makes_both_connections_anew() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, WEB).await;
    daemon.wait_status(0, "web", "covered", is_covered).await;
    let before = lab.sshs();
    let mark = daemon.mark();
    daemon.restart("web").await;
    daemon.wait_status(mark, "web", "covered", is_covered).await;
    for pid in &before {
        process_end(*pid).await;
    }
    let after = lab.sshs();
    assert_eq!((after.len(), after.intersection(&before).count()), (2, 0));
    daemon.stop().await;
}
