//! Nothing polls: a daemon with nothing to do makes no system call.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::time::Duration;

use integration_tests::{Daemon, Lab, ORIGIN_PORT, Squatter, Sshd, Trace, fetch_patiently, serve_page};
use portward::protocol::{Standby, StateName, TunnelStatus};

/// tokio's idle helper threads end by themselves after 10 s: that is the last thing that an idle daemon does.
const HELPER_THREADS_END: Duration = Duration::from_secs(11);

#[tokio::test]
async fn tunnels_of_all_kinds_that_are_up_wait_or_sleep_make_no_system_call() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let squatter = Squatter::listen(&lab, "127.0.0.1", 9470).await;
    let program = env!("CARGO_BIN_EXE_listening-process");
    let mut tunnels = String::from(
        "  - {name: waits, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9470}\n  \
         - {name: sleeps, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9471, listener: portward, on_demand: 1s}\n  \
         - {name: unused, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9472, listener: portward, on_demand: 1s}\n",
    );
    for index in 0..10 {
        writeln!(
            tunnels,
            "  - {{name: ssh{index}, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 944{index}}}\n  \
             - {{name: command{index}, command: [{program}, '945{index}'], local_port: 945{index}}}"
        )
        .unwrap();
    }
    let (socket, held) = (lab.path("app.sock"), lab.path("held.sock"));
    let _holder = std::os::unix::net::UnixListener::bind(&held).unwrap();
    writeln!(
        tunnels,
        "  - {{name: range, remote_host: server, remote_port: 127.0.0.1:8000-8009, local_port: 9480-9489}}\n  \
         - {{name: one, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9473, share: true, standby: true}}\n  \
         - {{name: other, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9474, share: true}}\n  \
         - {{name: socket, remote_host: server, remote_port: 127.0.0.1:8000, local_port: {}}}\n  \
         - {{name: waits-for-a-path, remote_host: server, remote_port: 127.0.0.1:8000, local_port: {}}}",
        socket.display(),
        held.display()
    )
    .unwrap();
    let daemon = Daemon::start(&lab, &tunnels).await;
    is_as_wanted(&daemon).await;
    // One has been awake before.
    let mark = daemon.mark();
    fetch_patiently(9471).await.unwrap();
    daemon.wait_status(mark, "sleeps", "asleep again", TunnelStatus::is_asleep).await;
    makes_no_system_call(&lab, &daemon).await;
    assert_eq!(lab.ssh_starts().len(), 15);

    // Nor does one that has taken all of that over.
    daemon.crash().await;
    let daemon = Daemon::start_as_configured(&lab).await;
    is_as_wanted(&daemon).await;
    makes_no_system_call(&lab, &daemon).await;
    assert_eq!(lab.ssh_starts().len(), 15);

    squatter.leave().await;
    daemon.wait_state("waits", StateName::Up).await;
}

async fn is_as_wanted(daemon: &Daemon<'_>) {
    for index in 0..10 {
        daemon.wait_state(&format!("ssh{index}"), StateName::Up).await;
        daemon.wait_state(&format!("command{index}"), StateName::Up).await;
    }
    for name in ["range", "socket", "one", "other"] {
        daemon.wait_state(name, StateName::Up).await;
    }
    for name in ["waits", "waits-for-a-path"] {
        daemon.wait_holder(name).await;
    }
    let covered = |status: &TunnelStatus| status.standby == Some(Standby::Ready);
    daemon.wait_status(0, "one", "covered", covered).await;
    daemon.wait_status(0, "unused", "asleep", TunnelStatus::is_asleep).await;
}

async fn makes_no_system_call(lab: &Lab, daemon: &Daemon<'_>) {
    tokio::time::sleep(HELPER_THREADS_END).await;
    let calls = Trace::attach(lab, daemon.pid()).await.calls_during(Duration::from_secs(20)).await;
    assert_eq!(calls, Vec::<String>::new());
}
