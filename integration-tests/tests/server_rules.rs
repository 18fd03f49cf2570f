//! Servers that forbid, and targets that are down: the tunnel is up, and its status says beside that what happens to its
//! clients, how often, and who must change what.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use integration_tests::{Daemon, Lab, LogLine, ORIGIN_PORT, Sshd, fetch, fetch_from, serve_page, socks};
use portward::protocol::{ConnectionErrorKind, ConnectionErrors, FailureKind, StateName, TunnelStatus};
use tokio::net::TcpListener;

const PORT: u16 = 9443;

const WEB: &str = "
  - {name: web, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9443}
";

const PUBLISHED: &str = "
  - {name: published, remote_host: server, direction: local_to_remote, remote_port: 9443, local_port: 127.0.0.1:8000}
";

/// Waits until the tunnel tells of failed connections.
async fn wait_errors(daemon: &Daemon<'_>, name: &str) -> (TunnelStatus, ConnectionErrors) {
    let failed = |status: &TunnelStatus| status.connection_errors.is_some();
    let status = daemon.wait_status(0, name, "with failed connections", failed).await;
    let errors = status.connection_errors.clone().unwrap();
    (status, errors)
}

/// `portward status`, as a person sees it.
async fn status_text(daemon: &Daemon<'_>) -> String {
    String::from_utf8(daemon.cli(&["status"]).await.stdout).unwrap()
}

/// A server with this rule: `word` of it is what its administrator must look at.
async fn forbids(rule: &str, word: &str) {
    let lab = Lab::new();
    let _sshd = Sshd::start_with(&lab, rule).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let proxy = "  - {name: proxy, remote_host: server, direction: dynamic, local_port: 9444}\n";
    let daemon = Daemon::start(&lab, &format!("{WEB}{proxy}")).await;
    for name in ["web", "proxy"] {
        assert_eq!(daemon.wait_state(name, StateName::Up).await.connection_errors, None);
    }
    fetch(PORT).await.unwrap_err();
    socks::connect(PORT + 1, "127.0.0.1", ORIGIN_PORT).await.unwrap_err();
    for name in ["web", "proxy"] {
        let (status, errors) = wait_errors(&daemon, name).await;
        assert_eq!((status.state, status.last_error), (StateName::Up, None));
        assert_eq!((errors.count, errors.last.kind), (1, ConnectionErrorKind::Prohibited));
        let message = &errors.last.message;
        assert!(message.contains(word) && message.contains("server"), "{message}");
    }
    let text = status_text(&daemon).await;
    assert!(text.contains("web has failed one client, ") && text.contains(word), "{text}");
    assert_eq!(lab.ssh_starts().len(), 2, "the connections stay");
}

#[tokio::test]
async fn allow_tcp_forwarding_no_is_told_beside_up() {
    forbids("AllowTcpForwarding no", "AllowTcpForwarding").await;
}

#[tokio::test]
async fn allow_tcp_forwarding_remote_is_told_beside_up() {
    forbids("AllowTcpForwarding remote", "AllowTcpForwarding").await;
}

#[tokio::test]
async fn permit_open_is_told_beside_up() {
    forbids("PermitOpen 127.0.0.1:1", "PermitOpen").await;
}

#[tokio::test]
async fn disable_forwarding_is_told_beside_up() {
    forbids("DisableForwarding yes", "DisableForwarding").await;
}

#[tokio::test]
async fn a_key_that_is_restricted_is_told_beside_up() {
    let lab = Lab::new();
    let key = fs::read_to_string(lab.path("client_key.pub")).unwrap();
    fs::write(lab.path("authorized_keys"), format!("restrict {key}")).unwrap();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, WEB).await;
    daemon.wait_state("web", StateName::Up).await;
    fetch(PORT).await.unwrap_err();
    let (_, errors) = wait_errors(&daemon, "web").await;
    assert_eq!(errors.last.kind, ConnectionErrorKind::Prohibited);
    assert!(errors.last.message.contains("authorized_keys"), "{errors:?}");
}

#[tokio::test]
async fn a_target_that_is_down_is_told_with_its_class_even_if_ssh_is_to_be_quiet() {
    let lab = Lab::new();
    let config = lab.path("ssh_config");
    let rest = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("Host quiet\n  LogLevel QUIET\nHost errors\n  LogLevel ERROR\n{rest}"))
        .unwrap();
    let _sshd = Sshd::start(&lab).await;
    let tunnels = "
  - {name: down, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9443}
  - {name: quiet, remote_host: quiet, remote_port: 127.0.0.1:8000, local_port: 9444}
  - {name: errors, remote_host: errors, remote_port: 127.0.0.1:8000, local_port: 9445}
  - {name: unresolvable, remote_host: server, remote_port: nowhere.invalid:8000, local_port: 9446}
";
    let daemon = Daemon::start(&lab, tunnels).await;
    for (port, name, kind, step) in [
        (9443, "down", ConnectionErrorKind::Refused, "start the service"),
        (9444, "quiet", ConnectionErrorKind::Refused, "start the service"),
        (9445, "errors", ConnectionErrorKind::Refused, "start the service"),
        (9446, "unresolvable", ConnectionErrorKind::Dns, "nowhere.invalid:8000"),
    ] {
        daemon.wait_state(name, StateName::Up).await;
        fetch(port).await.unwrap_err();
        let (_, errors) = wait_errors(&daemon, name).await;
        assert_eq!(errors.last.kind, kind, "{name}");
        assert!(errors.last.message.contains(step), "{errors:?}");
    }
    // What was counted is kept, and is not what ends a connection later.
    assert_eq!(daemon.post("/restart/down?timeout=20s").await.status, 200);
    let restarted = daemon.status("down").await;
    assert_eq!(restarted.connection_errors.unwrap().count, 1);
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    fetch(9443).await.expect("the target is there now");
    assert_eq!(daemon.status("down").await.connection_errors.unwrap().count, 1);
    let mark = daemon.mark();
    integration_tests::kill(daemon.tunnel_pid("down").await, nix::sys::signal::Signal::SIGTERM);
    let ended = daemon.wait_status(mark, "down", "failed", |status| status.last_error.is_some()).await;
    assert_ne!(ended.last_error.unwrap().kind, FailureKind::Refused);
}

#[tokio::test]
async fn a_banner_that_looks_like_a_failed_connection_is_none() {
    let lab = Lab::new();
    let banner = lab.path("banner");
    fs::write(&banner, "channel 2: open failed: administratively prohibited: open failed\n").unwrap();
    let _sshd = Sshd::start_with(&lab, &format!("Banner {}", banner.display())).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, WEB).await;
    daemon.wait_state("web", StateName::Up).await;
    daemon
        .wait_log(0, "of the banner", |line| line.has("event", "output") && line.raw.contains("channel 2"))
        .await;
    assert_eq!(daemon.status("web").await.connection_errors, None);
}

#[tokio::test]
async fn a_local_service_that_is_down_is_told_for_a_remote_forward() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let tunnels = "
  - {name: published, remote_host: server, direction: local_to_remote, remote_port: 9443, local_port: 127.0.0.1:8000}
  - {name: unresolvable, remote_host: server, direction: local_to_remote, remote_port: 9444, local_port: 'nowhere.invalid:8000'}
";
    let daemon = Daemon::start(&lab, tunnels).await;
    for (port, name, kind, word) in [
        (9443, "published", ConnectionErrorKind::Failed, "start the service there"),
        (9444, "unresolvable", ConnectionErrorKind::Dns, "correct the name"),
    ] {
        daemon.wait_state(name, StateName::Up).await;
        fetch(port).await.unwrap_err();
        let (_, errors) = wait_errors(&daemon, name).await;
        assert_eq!(errors.last.kind, kind, "{name}");
        assert!(errors.last.message.contains(word) && errors.last.message.contains(":8000"), "{errors:?}");
    }
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    fetch(PORT).await.expect("the service is there now");
}

#[tokio::test]
async fn a_client_that_hammers_floods_neither_the_journal_nor_the_events() {
    const CLIENTS: u64 = 300;
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, WEB).await;
    daemon.wait_state("web", StateName::Up).await;
    let (log, events) = (daemon.log().mark(), daemon.mark());
    for _ in 0..CLIENTS {
        fetch(PORT).await.unwrap_err();
    }
    // None is lost, and the numbers come by themselves.
    let all = |status: &TunnelStatus| {
        status.connection_errors.as_ref().is_some_and(|errors| errors.count == CLIENTS)
    };
    daemon.wait_status(events, "web", "with all failures counted", all).await;
    let (lines, statuses) = (daemon.log().since(log), daemon.statuses(events, "web"));
    assert!(lines.len() <= 10, "{} lines\n{}", lines.len(), daemon.report());
    assert!(statuses.len() <= 10, "{} statuses", statuses.len());
    let is_many = |line: &LogLine| {
        line.has("event", "connection_error")
            && line.has("error_kind", "refused")
            && line.raw.contains("connections through")
    };
    daemon.wait_log(log, "of many failures", is_many).await;
}

#[tokio::test]
async fn where_a_server_that_is_not_asked_listens_for_a_remote_forward_is_not_claimed() {
    let lab = Lab::new();
    // GatewayPorts no: it listens on its loopback whatever it is asked.
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    // Nor does it mind that one of its two loopbacks is taken.
    let _taken = TcpListener::bind(("::1", 9444)).await.unwrap();
    let tunnels = "
  - {name: open, remote_host: server, direction: local_to_remote, remote_port: '0.0.0.0:9443', local_port: 127.0.0.1:8000, remote_port_recovery: 'off'}
  - {name: half, remote_host: server, direction: local_to_remote, remote_port: 9444, local_port: 127.0.0.1:8000}
  - {name: named, remote_host: server, direction: local_to_remote, remote_port: '192.0.2.7:9445', local_port: 127.0.0.1:8000, remote_port_recovery: 'off'}
";
    let daemon = Daemon::start(&lab, tunnels).await;
    for name in ["open", "named"] {
        let note = daemon.wait_state(name, StateName::Up).await.note.unwrap();
        assert!(note.contains("GatewayPorts") && note.contains("ss -ltn"), "{note}");
    }
    let half = daemon.wait_state("half", StateName::Up).await;
    assert_eq!((half.note, half.listeners), (None, Vec::new()));
    let text = status_text(&daemon).await;
    assert!(text.contains("open is up as far as can be seen from here: server took the request"), "{text}");
    let up = daemon.wait_log(0, "up", |line| line.has("tunnel", "half") && line.has("state", "up")).await;
    assert!(up.raw.contains("on the addresses that its sshd chooses"), "{}", up.raw);
}

/// A server with this rule refuses a remote forward.
async fn refuses(rule: &str) {
    let lab = Lab::new();
    let _sshd = Sshd::start_with(&lab, rule).await;
    let daemon = Daemon::start(&lab, PUBLISHED).await;
    let refused = daemon.wait_failure(0, "published", FailureKind::RemotePortHeld).await;
    let message = refused.last_error.unwrap().message;
    for cause in ["9443", "nobody listens on it", "AllowTcpForwarding", "PermitListen", "permitlisten"] {
        assert!(message.contains(cause), "{message}");
    }
    assert!(!message.contains("GatewayPorts"), "that refuses nothing: {message}");
}

#[tokio::test]
async fn a_remote_forward_that_allow_tcp_forwarding_refuses_names_every_cause() {
    refuses("AllowTcpForwarding local").await;
}

#[tokio::test]
async fn a_remote_forward_that_permit_listen_refuses_names_every_cause() {
    refuses("PermitListen 7777").await;
}

/// A connection keeps the rules of its login: asked again for ever, it would refuse for ever.
#[tokio::test]
async fn a_remote_forward_that_is_allowed_meanwhile_comes_up_on_a_new_connection() {
    let lab = Lab::new();
    let key = fs::read_to_string(lab.path("client_key.pub")).unwrap();
    fs::write(lab.path("authorized_keys"), format!("permitlisten=\"7777\" {key}")).unwrap();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, PUBLISHED).await;
    let refused = daemon.wait_failure(0, "published", FailureKind::RemotePortHeld).await;
    fs::write(lab.path("authorized_keys"), key).unwrap();
    let up = daemon.wait_state("published", StateName::Up).await;
    assert_ne!(up.pid, refused.pid, "{}", daemon.report());
}

/// The old connection is asked to close its listener and the new one to make the same: the server must do it in this order. It
/// is asked something between them, which this key forbids, and so its log shows that.
#[tokio::test]
async fn a_restart_asks_for_the_servers_port_only_once_the_server_has_closed_it() {
    let lab = Lab::new();
    let key = fs::read_to_string(lab.path("client_key.pub")).unwrap();
    fs::write(lab.path("authorized_keys"), format!("permitlisten=\"9443\" {key}")).unwrap();
    let sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, PUBLISHED).await;
    daemon.wait_state("published", StateName::Up).await;
    let mark = daemon.mark();
    let restarted = daemon.post("/restart/published?timeout=20s").await;
    assert_eq!(restarted.status, 200, "{restarted:?}");
    for address in ["127.0.0.1:9443", "[::1]:9443"] {
        fetch_from(address.parse().unwrap(), Duration::from_secs(10))
            .await
            .unwrap_or_else(|error| panic!("{address}: {error}"));
    }
    let asked = |line: &String| line.contains("localhost port 0, but the request was denied");
    assert!(sshd.log().find(0, asked).await.is_some(), "{:?}", sshd.log().all());

    let statuses = daemon.statuses(mark, "published");
    assert!(statuses.iter().all(|status| status.last_error.is_none()), "{statuses:?}");
    assert_eq!(daemon.status("published").await.connection_errors, None);
    let log = daemon.log().all();
    assert!(
        !log.iter().any(|line| line.field("message").is_some_and(|said| said.to_string().contains("port 0"))),
        "{log:?}"
    );
}

#[tokio::test]
async fn a_remote_forward_that_disable_forwarding_refuses_names_every_cause() {
    refuses("DisableForwarding yes").await;
}
