//! kill -9 and SIGSTOP of ssh, of the server's process of one connection, and of the sshd that listens.

use std::collections::BTreeSet;

use integration_tests::{Daemon, Lab, Sshd, fetch, kill, stop_signal};
use nix::sys::signal::Signal;
use portward::protocol::{FailureKind, StateName, TunnelStatus};

use super::site::{Fault, PORT, is_well, start, start_others};

/// Has ssh notice a server that is silent within 2 to 3 s, where it would be 45 to 60 s.
const ALIVE: &str = ", ssh: {options: {ServerAliveInterval: 1, ServerAliveCountMax: 2}}";

#[tokio::test]
async fn an_ssh_that_is_killed_is_made_anew_and_nobody_else_notices() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let (daemon, web, others) = start(&lab, "").await;
    let mark = daemon.mark();
    let fault = Fault::begins("kill -9 of ssh");
    kill(web.pid.unwrap(), Signal::SIGKILL);
    fault.is_shown(&daemon, mark, FailureKind::Killed).await;
    fault.is_over(&daemon, mark, &web).await;
    is_well(&lab, daemon, others).await;
}

#[tokio::test]
async fn an_ssh_that_is_stopped_says_so_at_once_and_is_replaced_after_the_grace() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let (daemon, web, others) = start(&lab, ", stop_grace: 1s").await;
    let mark = daemon.mark();
    let fault = Fault::begins("SIGSTOP of ssh, `stop_grace` of 1 s");
    stop_signal(web.pid.unwrap());
    let shown = fault.is_shown(&daemon, mark, FailureKind::Timeout).await;
    assert!(shown.last_error.unwrap().message.contains("kill -CONT"));
    fault.is_over(&daemon, mark, &web).await;
    is_well(&lab, daemon, others).await;
}

/// Starts the tunnel `web`, which is not yet, and returns its status and the processes that serve it on the server.
async fn session_of_web(lab: &Lab, daemon: &Daemon<'_>) -> (TunnelStatus, BTreeSet<u32>) {
    let sessions = || lab.sshd_processes().iter().map(|process| process.pid).collect::<BTreeSet<u32>>();
    let before = sessions();
    let started = daemon.post("/start/web?timeout=20s").await;
    assert_eq!(started.status, 200, "{started:?}");
    let web = daemon.wait_state("web", StateName::Up).await;
    fetch(PORT).await.expect("the tunnel carries");
    (web, sessions().difference(&before).copied().collect())
}

#[tokio::test]
async fn a_session_that_is_killed_on_the_server_is_made_anew() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let (daemon, others) = start_others(&lab, "").await;
    let (web, session) = session_of_web(&lab, &daemon).await;
    assert!(!session.is_empty());
    let mark = daemon.mark();
    let fault = Fault::begins("kill -9 of the server's session");
    for pid in session {
        kill(pid, Signal::SIGKILL);
    }
    fault.is_shown(&daemon, mark, FailureKind::Network).await;
    fault.is_over(&daemon, mark, &web).await;
    is_well(&lab, daemon, others).await;
}

#[tokio::test]
async fn a_session_that_is_stopped_on_the_server_is_noticed_by_ssh_and_made_anew() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let (daemon, others) = start_others(&lab, ALIVE).await;
    let (web, session) = session_of_web(&lab, &daemon).await;
    let mark = daemon.mark();
    let fault = Fault::begins("SIGSTOP of the server's session, ServerAliveInterval 1, CountMax 2");
    for pid in &session {
        stop_signal(*pid);
    }
    // The class is that of any server that does not answer.
    fault.is_shown(&daemon, mark, FailureKind::Timeout).await;
    fault.is_over(&daemon, mark, &web).await;
    for pid in session {
        kill(pid, Signal::SIGCONT);
    }
    is_well(&lab, daemon, others).await;
}

#[tokio::test]
async fn a_server_that_accepts_nobody_costs_no_connection_and_a_restart_keeps_the_old_one() {
    let lab = Lab::new();
    let sshd = Sshd::start(&lab).await;
    let (daemon, web, others) = start(&lab, ", ssh: {connect_timeout: 1s}").await;
    let fault = Fault::begins("SIGSTOP of the sshd that listens, `connect_timeout` of 1 s");
    stop_signal(sshd.pid().unwrap());
    let answer = daemon.post("/restart/web?timeout=20s").await;
    fault.until("the failure of a restart reported");
    assert_ne!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains("timeout"), "{answer:?}");
    let status = daemon.status("web").await;
    assert_eq!((status.state, status.pid), (StateName::Up, web.pid), "{}", daemon.report());
    fetch(PORT).await.expect("the old connection carries");
    others.go_on().await;
    kill(sshd.pid().unwrap(), Signal::SIGCONT);
    let (before, after) = daemon.restart("web").await;
    assert!(Some(before) == web.pid && before != after);
    fetch(PORT).await.expect("the new connection carries");
    is_well(&lab, daemon, others).await;
}

#[tokio::test]
async fn a_listening_sshd_that_is_killed_costs_no_connection_and_what_is_lost_meanwhile_comes_back_with_it() {
    let lab = Lab::new();
    let mut sshd = Sshd::start(&lab).await;
    let (daemon, web, others) = start(&lab, "").await;
    let mark = daemon.mark();
    kill(sshd.pid().unwrap(), Signal::SIGKILL);
    sshd.stop_listening().await;
    others.go_on().await;
    kill(web.pid.unwrap(), Signal::SIGKILL);
    daemon.wait_failure(mark, "web", FailureKind::Refused).await;
    let fault = Fault::begins("the server listens again, `max_delay` of 500 ms");
    sshd.start_again().await;
    fault.is_over(&daemon, mark, &web).await;
    is_well(&lab, daemon, others).await;
}
