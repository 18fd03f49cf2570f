//! Unix sockets on either side of a tunnel: a path is held, stale or free, and a tunnel waits for it as for a port.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use integration_tests::{Daemon, Lab, ORIGIN_PORT, Sshd, fetch, kill, python, serve_page, within_deadline};
use nix::sys::signal::Signal;
use portward::core::Standby;
use portward::protocol::{FailureKind, StateName, TunnelStatus};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

const PORT: u16 = 9443;

/// A tunnel from the socket `app.sock` of the lab to the page, with these keys besides.
fn app(lab: &Lab, keys: &str) -> String {
    format!(
        "\n  - {{name: app, remote_host: server, remote_port: 127.0.0.1:{ORIGIN_PORT}, local_port: {}{keys}}}\n",
        path(lab).display()
    )
}

fn path(lab: &Lab) -> PathBuf {
    lab.path("app.sock")
}

/// Fetches the page through a unix socket.
async fn fetch_over(path: &Path) -> io::Result<()> {
    let exchange = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        Ok(response)
    };
    let response: io::Result<String> = within_deadline("a response", exchange).await;
    if response?.ends_with("the page\n") { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A program that listens on the path until its input ends; then it closes the socket, leaves the file, and ends.
fn listens(path: &Path) -> String {
    format!(
        "import socket, sys\n\
         s = socket.socket(socket.AF_UNIX)\n\
         s.bind('{}')\n\
         s.listen()\n\
         print('listening', flush=True)\n\
         sys.stdin.read()\n",
        path.display()
    )
}

#[tokio::test]
async fn ssh_listens_on_a_socket_of_the_mode_that_is_asked_for_and_a_stop_leaves_no_file() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let path = path(&lab);
    for (keys, wanted) in [("", 0o600), (", socket_mode: '0660'", 0o660), (", socket_mode: 0777", 0o777)] {
        let daemon = Daemon::start(&lab, &app(&lab, keys)).await;
        daemon.wait_state("app", StateName::Up).await;
        assert_eq!(mode(&path), wanted);
        fetch_over(&path).await.unwrap();
        let (before, after) = daemon.restart("app").await;
        assert_ne!(before, after);
        assert_eq!(mode(&path), wanted, "after a restart");
        fetch_over(&path).await.unwrap();
        let mark = daemon.mark();
        kill(after, Signal::SIGKILL);
        daemon.wait_up_anew(mark, "app", Some(after)).await;
        fetch_over(&path).await.unwrap();
        let who = daemon.cli(&["who", path.to_str().unwrap()]).await;
        let text = String::from_utf8(who.stdout).unwrap();
        let pid = daemon.tunnel_pid("app").await.to_string();
        assert!(who.status.success() && text.contains(&pid) && text.contains("app.sock"), "{text}");
        assert_eq!(daemon.post("/stop/app?timeout=20s").await.status, 200);
        assert!(!path.exists(), "a stop leaves the file");
        let nobody = daemon.cli(&["who", path.to_str().unwrap()]).await;
        assert_eq!(nobody.status.code(), Some(1));
        assert_eq!(daemon.post("/start/app?timeout=20s").await.status, 200);
        daemon.wait_state("app", StateName::Up).await;
        daemon.stop().await;
        assert!(!path.exists(), "the end of portward leaves the file");
    }
}

#[tokio::test]
async fn a_file_on_which_nobody_listens_is_removed_and_one_that_is_no_socket_is_not() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let path = path(&lab);
    drop(UnixListener::bind(&path).unwrap());
    let daemon = Daemon::start(&lab, &app(&lab, "")).await;
    daemon.wait_state("app", StateName::Up).await;
    daemon.wait_log(0, "that tells of the removal", |line| line.has("event", "stale")).await;
    fetch_over(&path).await.unwrap();
    daemon.stop().await;

    fs::write(&path, "precious").unwrap();
    let daemon = Daemon::start(&lab, &app(&lab, "")).await;
    let failed = daemon.wait_failure(0, "app", FailureKind::Config).await;
    let message = failed.last_error.unwrap().message;
    assert!(message.contains("is a regular file, not a socket") && message.contains("app.sock"), "{message}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    // It is looked at again by itself.
    fs::remove_file(&path).unwrap();
    daemon.wait_state("app", StateName::Up).await;
    fetch_over(&path).await.unwrap();
}

#[tokio::test]
async fn a_holder_is_named_and_its_end_or_the_removal_of_its_file_is_enough() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let path = path(&lab);
    for by_removal in [false, true] {
        let (mut holder, _) = python(&lab, &listens(&path)).await;
        let daemon = Daemon::start(&lab, &app(&lab, "")).await;
        let held = daemon.wait_holder("app").await;
        assert_eq!(held.pid, holder.id());
        let status = daemon.status("app").await;
        assert_eq!(status.held_by[0].path.as_deref(), path.to_str());
        let shown = String::from_utf8(daemon.cli(&["status"]).await.stdout).unwrap();
        let named = format!("waits for {}, which is held by pid {}", path.display(), holder.id().unwrap());
        assert!(shown.contains(&named), "{shown}");
        assert_eq!(lab.ssh_starts().len(), usize::from(by_removal), "nothing is started meanwhile");
        if by_removal {
            fs::remove_file(&path).unwrap();
        } else {
            // Its file stays behind.
            holder.kill().await.unwrap();
            daemon.wait_log(0, "that tells of the removal", |line| line.has("event", "stale")).await;
        }
        daemon.wait_state("app", StateName::Up).await;
        fetch_over(&path).await.unwrap();
        daemon.stop().await;
        let _ = holder.kill().await;
    }
}

#[tokio::test]
async fn a_holder_in_another_network_namespace_is_found_by_a_connection() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let path = path(&lab);
    // CLONE_NEWNET
    let program =
        format!("import ctypes\nassert ctypes.CDLL(None).unshare(0x40000000) == 0\n{}", listens(&path));
    let (mut holder, _) = python(&lab, &program).await;
    let daemon = Daemon::start(&lab, &app(&lab, "")).await;
    assert_eq!(daemon.wait_holder("app").await.pid, holder.id());
    assert!(path.exists());
    holder.kill().await.unwrap();
    daemon.wait_state("app", StateName::Up).await;
    fetch_over(&path).await.unwrap();
}

#[tokio::test]
async fn a_holder_that_only_closes_its_socket_is_noticed_when_somebody_asks() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let path = path(&lab);
    // In this process, which lives on.
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let daemon = Daemon::start(&lab, &app(&lab, "")).await;
    assert_eq!(daemon.wait_holder("app").await.pid, Some(std::process::id()));
    drop(listener);
    daemon.cli(&["status"]).await;
    daemon.wait_state("app", StateName::Up).await;
    fetch_over(&path).await.unwrap();
}

#[tokio::test]
async fn a_directory_that_is_missing_is_named_and_waited_for() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let directory = lab.path("later");
    let path = directory.join("app.sock");
    let tunnel = format!(
        "\n  - {{name: app, remote_host: server, remote_port: 127.0.0.1:{ORIGIN_PORT}, local_port: {}}}\n",
        path.display()
    );
    let daemon = Daemon::start(&lab, &tunnel).await;
    let failed = daemon.wait_failure(0, "app", FailureKind::Config).await;
    let message = failed.last_error.unwrap().message;
    assert!(message.contains(&format!("there is no directory {}", directory.display())), "{message}");
    fs::create_dir(&directory).unwrap();
    daemon.wait_state("app", StateName::Up).await;
    fetch_over(&path).await.unwrap();
}

#[tokio::test]
async fn a_socket_that_is_removed_behind_portwards_back_listens_again_without_a_login() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let path = path(&lab);
    let daemon = Daemon::start(&lab, &app(&lab, ", socket_mode: '0666'")).await;
    let up = daemon.wait_state("app", StateName::Up).await;
    for _ in 0..3 {
        let mark = daemon.mark();
        fs::remove_file(&path).unwrap();
        daemon.wait_status(mark, "app", "lost", |status| status.last_error.is_some()).await;
        let again = daemon
            .wait_status(mark, "app", "up again", |status| {
                status.state == StateName::Up && status.last_error.is_none()
            })
            .await;
        assert_eq!(again.pid, up.pid);
        assert_eq!(mode(&path), 0o666);
        fetch_over(&path).await.unwrap();
    }
    assert_eq!(lab.ssh_starts().len(), 1);
    // Another program puts its own in the place: that is not removed, and its holder is named.
    let mark = daemon.mark();
    let other = lab.path("other.sock");
    let listener = std::os::unix::net::UnixListener::bind(&other).unwrap();
    fs::rename(&other, &path).unwrap();
    let is_ours = |status: &TunnelStatus| {
        status.holder.as_ref().is_some_and(|holder| holder.pid == Some(std::process::id()))
    };
    daemon.wait_status(mark, "app", "held", is_ours).await;
    UnixStream::connect(&path).await.expect("the other program is reached");
    drop(listener);
    fs::remove_file(&path).unwrap();
    daemon.wait_state("app", StateName::Up).await;
    fetch_over(&path).await.unwrap();
    assert_eq!(lab.ssh_starts().len(), 1);
}

#[tokio::test]
async fn a_port_leads_to_a_socket_of_the_server() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let target = lab.path("target.sock");
    let listener = UnixListener::bind(&target).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 18];
            let _ = stream.read_exact(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nthe page\n").await;
        }
    });
    for listener in ["ssh", "portward"] {
        let tunnel = format!(
            "\n  - {{name: app, remote_host: server, remote_port: {}, local_port: {PORT}, listener: {listener}}}\n",
            target.display()
        );
        let daemon = Daemon::start(&lab, &tunnel).await;
        daemon.wait_state("app", StateName::Up).await;
        fetch(PORT).await.unwrap();
        daemon.stop().await;
    }
    fs::remove_file(&target).unwrap();
    let tunnel = format!(
        "\n  - {{name: app, remote_host: server, remote_port: {}, local_port: {PORT}}}\n",
        target.display()
    );
    let daemon = Daemon::start(&lab, &tunnel).await;
    daemon.wait_state("app", StateName::Up).await;
    fetch(PORT).await.unwrap_err();
    let failed = |status: &TunnelStatus| status.connection_errors.is_some();
    let status = daemon.wait_status(0, "app", "with a failed client", failed).await;
    let message = status.connection_errors.unwrap().last.message;
    assert!(message.contains("target.sock") && message.contains("correct remote_port"), "{message}");
}

#[tokio::test]
async fn a_server_listens_on_a_socket_and_ssh_connects_to_one_here() {
    let lab = Lab::new();
    let _sshd = Sshd::start_with(&lab, "StreamLocalBindUnlink yes\n").await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let (there, here) = (lab.path("there.sock"), lab.path("here.sock"));
    // What is published listens on a socket itself, which another tunnel leads to the page.
    let tunnels = format!(
        "
  - {{name: here, remote_host: server, remote_port: 127.0.0.1:{ORIGIN_PORT}, local_port: {here}}}
  - name: published
    remote_host: server
    direction: local_to_remote
    remote_port: {there}
    local_port: {here}
",
        here = here.display(),
        there = there.display()
    );
    let daemon = Daemon::start(&lab, &tunnels).await;
    daemon.wait_state("here", StateName::Up).await;
    daemon.wait_state("published", StateName::Up).await;
    for _ in 0..3 {
        fetch_over(&there).await.unwrap();
        daemon.restart("published").await;
    }
    fetch_over(&there).await.unwrap();
    assert_eq!(daemon.post("/stop/here?timeout=20s").await.status, 200);
    fetch_over(&there).await.unwrap_err();
    let failed = |status: &TunnelStatus| status.connection_errors.is_some();
    let status = daemon.wait_status(0, "published", "with a failed client", failed).await;
    let message = status.connection_errors.unwrap().last.message;
    assert!(message.contains("here.sock") && message.contains("No such file"), "{message}");
}

#[tokio::test]
async fn a_spare_connection_takes_the_socket_over() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let path = path(&lab);
    let daemon =
        Daemon::start(&lab, &app(&lab, ", standby: true, restart: {drain: 30s}, socket_mode: '0660'")).await;
    daemon.wait_state("app", StateName::Up).await;
    for _ in 0..3 {
        let mark = daemon.mark();
        let ready = |status: &TunnelStatus| status.standby == Some(Standby::Ready);
        if !ready(&daemon.status("app").await) {
            daemon.wait_status(mark, "app", "with a spare", ready).await;
        }
        let before = daemon.tunnel_pid("app").await;
        kill(before, Signal::SIGKILL);
        daemon.wait_up_anew(mark, "app", Some(before)).await;
        assert_eq!(mode(&path), 0o660);
        fetch_over(&path).await.unwrap();
        daemon.restart("app").await;
        fetch_over(&path).await.unwrap();
    }
    assert_eq!(daemon.post("/stop/app?timeout=20s").await.status, 200);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_crash_of_portward_leaves_a_file_that_the_next_start_removes() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let path = path(&lab);
    let daemon = Daemon::start(&lab, &app(&lab, "")).await;
    daemon.wait_state("app", StateName::Up).await;
    kill(daemon.pid(), Signal::SIGKILL);
    daemon.ended().await;
    assert!(path.exists());
    // If an ssh of the first one lived on, it would be waited for.
    for process in lab.daemon_processes() {
        kill(process.pid, Signal::SIGKILL);
    }
    let daemon = Daemon::start(&lab, &app(&lab, "")).await;
    daemon.wait_state("app", StateName::Up).await;
    fetch_over(&path).await.unwrap();
}

#[tokio::test]
async fn a_file_that_a_server_does_not_remove_is_named_with_what_to_do() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let there = lab.path("there.sock");
    drop(UnixListener::bind(&there).unwrap());
    let tunnel = format!(
        "\n  - {{name: app, remote_host: server, direction: local_to_remote, remote_port: {}, local_port: 127.0.0.1:{ORIGIN_PORT}}}\n",
        there.display()
    );
    let daemon = Daemon::start(&lab, &tunnel).await;
    let failed = daemon.wait_failure(0, "app", FailureKind::RemotePortHeld).await;
    let message = failed.last_error.unwrap().message;
    assert!(message.contains("there.sock") && message.contains("StreamLocalBindUnlink yes"), "{message}");
    assert!(fs::symlink_metadata(&there).unwrap().file_type().is_socket(), "nothing is removed there");
    fs::remove_file(&there).unwrap();
    daemon.wait_state("app", StateName::Up).await;
    fetch_over(&there).await.unwrap();
}
