//! -R and -D carry data and outlive a restart, as -L does.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use integration_tests::{
    Daemon, ECHO_PORT, Lab, NumberedStream, ORIGIN_PORT, Sshd, fetch, listens_on, serve_echo, serve_page,
    socks,
};
use portward::protocol::StateName;
use tokio::net::TcpListener;

const PORT: u16 = 9443;

#[tokio::test]
async fn a_remote_forward_carries_data_before_and_after_a_restart() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let tunnels = "
  - name: published
    remote_host: server
    direction: local_to_remote
    remote_port: 9443
    local_port: 127.0.0.1:8000
";
    let daemon = Daemon::start(&lab, tunnels).await;
    let up = daemon.wait_state("published", StateName::Up).await;
    assert_eq!(up.status, portward::protocol::autossh_tunnel::Status::Running);
    for _ in 0..3 {
        fetch(PORT).await.expect("the page comes through the remote forward");
        let (before, after) = daemon.restart("published").await;
        assert_ne!(before, after);
    }
    fetch(PORT).await.expect("the page comes through the remote forward");
    assert_eq!(lab.ssh_starts().len(), 4);
    assert_eq!(daemon.post("/stop/published?timeout=20s").await.status, 200);
    assert!(fetch(PORT).await.is_err());
}

#[tokio::test]
async fn a_dynamic_forward_is_a_socks_proxy_before_and_after_a_restart() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let tunnels = "
  - name: proxy
    remote_host: server
    direction: dynamic
    local_port: 9443
";
    let daemon = Daemon::start(&lab, tunnels).await;
    daemon.wait_state("proxy", StateName::Up).await;
    for _ in 0..3 {
        let connection = socks::connect(PORT, "localhost", ECHO_PORT).await.expect("the proxy connects");
        assert!(NumberedStream::over(connection).await.finish().await > 0);
        let (before, after) = daemon.restart("proxy").await;
        assert_ne!(before, after);
    }
    let connection = socks::connect(PORT, "localhost", ECHO_PORT).await.expect("the proxy connects");
    assert!(NumberedStream::over(connection).await.finish().await > 0);
    assert_eq!(lab.ssh_starts().len(), 4);
}

#[tokio::test]
async fn a_bare_port_listens_on_both_loopbacks_and_an_address_on_itself_only() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let tunnels = "
  - {name: both, remote_host: server, remote_port: 127.0.0.1:8000, local_port: 9443}
  - {name: one, remote_host: server, remote_port: 127.0.0.1:8000, local_port: '127.0.0.2:9443'}
";
    let daemon = Daemon::start(&lab, tunnels).await;
    let both = daemon.wait_state("both", StateName::Up).await;
    assert_eq!(listens_on(&both), ["127.0.0.1:9443", "[::1]:9443"]);
    let one = daemon.wait_state("one", StateName::Up).await;
    assert_eq!(listens_on(&one), ["127.0.0.2:9443"]);
    TcpListener::bind("127.0.0.3:9443").await.expect("nobody listens on an address that was not asked for");
    fetch(PORT).await.unwrap();
}
