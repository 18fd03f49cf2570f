//! SIGTERM finds portward with a tunnel in each state.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use integration_tests::{Daemon, Lab, Sshd, stop_signal};
use portward::protocol::StateName;
use tokio::net::TcpListener;

use super::site::{Fault, serve};

/// The longest `stop_grace` of these tunnels.
const GRACE: Duration = Duration::from_secs(3);

/// Where a server accepts nobody.
const SILENT: u16 = 2223;

/// Name, destination, port and further keys of the tunnels over ssh.
const TUNNELS: [(&str, &str, u16, &str); 8] = [
    ("first", "server", 9441, ", share: true"),
    ("forwarding", "server", 9442, ", share: true, direction: local_to_remote"),
    ("awaiting", "server", 9443, ""),
    ("connecting", "silent", 9444, ""),
    ("up", "server", 9445, ""),
    ("replacing", "server", 9446, ""),
    ("backoff", "nowhere", 9447, ", restart: {min_delay: 1h, max_delay: 1h}"),
    ("failed", "server", 9448, ", ssh: {config_file: /nonexistent}"),
];

fn tunnels() -> String {
    let mut tunnels = String::new();
    for (name, destination, port, keys) in TUNNELS {
        let (remote, local) = if keys.contains("local_to_remote") { (port, 8000) } else { (8000, port) };
        writeln!(
            tunnels,
            "  - {{name: {name}, remote_host: {destination}, remote_port: {remote}, local_port: {local}, enabled: false{keys}}}"
        )
        .unwrap();
    }
    // It ignores SIGTERM.
    let program = "import signal, socket; signal.signal(signal.SIGTERM, signal.SIG_IGN); \
                   listener = socket.create_server((\"127.0.0.1\", 9449)); signal.pause()";
    tunnels
        + &format!(
            "  - {{name: stopping, command: [python3, -c, '{program}'], local_port: '127.0.0.1:9449', stop_grace: {}s, \
             enabled: false}}\n",
            GRACE.as_secs()
        )
}

/// Starts this tunnel, and waits until it is in `state`.
async fn start(daemon: &Daemon<'_>, name: &str, state: StateName) {
    daemon.post(&format!("/start/{name}?timeout=1ms")).await;
    daemon.wait_state(name, state).await;
}

#[tokio::test]
async fn sigterm_ends_tunnels_in_all_states_in_time_and_leaves_nothing() {
    let lab = Lab::new();
    let sshd = Sshd::start(&lab).await;
    serve().await;
    let config = fs::read_to_string(lab.path("ssh_config")).unwrap();
    fs::write(lab.path("ssh_config"), format!("Host silent\n  Port {SILENT}\n{config}")).unwrap();
    let _silent = TcpListener::bind(("127.0.0.1", SILENT)).await.unwrap();
    let _squatter = TcpListener::bind(("127.0.0.1", 9443)).await.unwrap();
    let daemon = Daemon::start(&lab, &tunnels()).await;

    // Its server stands still, and does not answer the request of the one that shares its connection.
    start(&daemon, "first", StateName::Up).await;
    for session in lab.sshd_processes().iter().filter(|process| Some(process.pid) != sshd.pid()) {
        stop_signal(session.pid);
    }
    start(&daemon, "up", StateName::Up).await;
    start(&daemon, "replacing", StateName::Up).await;
    start(&daemon, "stopping", StateName::Up).await;
    stop_signal(sshd.pid().unwrap());
    start(&daemon, "awaiting", StateName::AwaitingPort).await;
    start(&daemon, "connecting", StateName::Connecting).await;
    start(&daemon, "backoff", StateName::Backoff).await;
    start(&daemon, "failed", StateName::Failed).await;
    daemon.post("/restart/replacing?timeout=1ms").await;
    daemon.wait_state("replacing", StateName::Replacing).await;
    start(&daemon, "forwarding", StateName::Forwarding).await;
    daemon.post("/stop/stopping?timeout=1ms").await;
    daemon.wait_state("stopping", StateName::Stopping).await;
    let expected = [
        ("first", StateName::Up),
        ("forwarding", StateName::Forwarding),
        ("awaiting", StateName::AwaitingPort),
        ("connecting", StateName::Connecting),
        ("up", StateName::Up),
        ("replacing", StateName::Replacing),
        ("backoff", StateName::Backoff),
        ("failed", StateName::Failed),
        ("stopping", StateName::Stopping),
    ];
    for (name, state) in expected {
        assert_eq!(daemon.status(name).await.state, state, "{name}\n{}", daemon.report());
    }

    let fault = Fault::begins("SIGTERM with a tunnel in each state, `stop_grace` of 3 s at most");
    let ended = daemon.stop().await;
    let took = fault.until("ended");
    assert!(ended.status.success(), "{:?}", ended.status);
    assert!(took < GRACE + Duration::from_secs(2), "{took:?}");
    assert_eq!(lab.daemon_processes().len(), 0, "{:?}", lab.daemon_processes());
    assert_eq!(lab.sockets(), [] as [std::path::PathBuf; 0]);
}
