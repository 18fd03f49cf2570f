//! API requests of every wrong kind, over the unix socket and over TCP, against the real daemon: each is refused with JSON that
//! says why, and the daemon goes on.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};

use integration_tests::{
    API_TOKEN, Answer, Daemon, Lab, NOBODY, request_over_tcp, request_over_tcp_with, run,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// No tunnel needs to be up to be asked for in a wrong way. The hashes of the last two both begin with `0ee8eec7`.
const TUNNELS: &str = "
  - {name: web, remote_host: server, remote_port: 8000, local_port: 9442, enabled: false}
  - {name: t34178, remote_host: server, remote_port: 8000, local_port: 9443, enabled: false}
  - {name: t30524, remote_host: server, remote_port: 8000, local_port: 9444, enabled: false}
";

#[tokio::test]
async fn each_is_refused_with_its_status_and_a_reason() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, TUNNELS).await;
    let too_long = "1".repeat(64 * 1024 + 1);
    let far_too_long = "1".repeat(512 * 1024);
    let requests = [
        ("GET", "/", "", 404, "there is no /"),
        ("POST", "/statuss", "", 404, "there is no /statuss"),
        ("POST", "/start/", "", 404, "there is no /start/"),
        ("POST", "/restart/wbe", "", 404, "no tunnel is called `wbe`"),
        ("GET", "/logs/0ee8eec", "", 400, "8 digits or more"),
        ("GET", "/config/nothing", "", 404, "no tunnel is called `nothing`"),
        ("POST", "/stop/0ee8eec7", "", 409, "t34178, t30524"),
        ("GET", "/restart/web", "", 405, "GET does not go with /restart/web"),
        ("POST", "/status", "", 405, "POST does not go with /status"),
        ("DELETE", "/logs/web", "", 405, "DELETE does not go with /logs/web"),
        ("POST", "/restart/web?timeout=5", "", 400, "`5` is not a duration"),
        ("POST", "/restart/web?timeout=-5s", "", 400, "`-5s` is not a duration"),
        ("POST", "/restart?timeout=1h", "", 400, "`1h` is too long: 5m is the most"),
        ("POST", "/restart/web?tiemout=5s", "", 400, "unknown field `tiemout`"),
        ("POST", "/restart/web?timeout=5s&timeout=6s", "", 400, "duplicate field `timeout`"),
        ("GET", "/logs/web?lines=many", "", 400, "lines"),
        ("GET", "/logs/web?follow=yes", "", 400, "follow"),
        ("POST", "/reload?dry_run=1", "", 400, "dry_run"),
        ("POST", "/stop/%ff%fe", "", 400, "UTF-8"),
        ("POST", "/restart/web", "{\"timeout\":", 400, "the body is not JSON"),
        ("POST", "/restart/web", &too_long, 413, "longer than 65536 bytes"),
        ("POST", "/nothing", &far_too_long, 413, "longer than 65536 bytes"),
    ];
    for (method, path, body, status, reason) in requests {
        let answer = integration_tests::request(daemon.socket(), method, path, body).await;
        assert_refused(&answer, status, reason, &format!("{method} {path}"));
    }
    assert_goes_on(&daemon).await;
}

#[tokio::test]
async fn what_is_no_http_is_closed_and_nobody_else_notices() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, TUNNELS).await;
    let long_header = format!("GET /status HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(128 * 1024));
    let garbage: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"GET /status HTTP/9.9\r\n\r\n",
        b"GET /sta tus HTTP/1.1\r\nHost: x\r\n\r\n",
        long_header.as_bytes(),
    ];
    for bytes in garbage {
        let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
        // The daemon may have closed the connection before all of it is written.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    // A client that goes away in the middle of its request.
    let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
    stream.write_all(b"POST /restart/web HTTP/1.1\r\nContent-Length: 10\r\n\r\n{").await.unwrap();
    drop(stream);
    assert_goes_on(&daemon).await;
}

#[tokio::test]
async fn over_tcp_nothing_is_told_without_the_token() {
    let lab = Lab::new();
    lab.configure_tcp(TUNNELS);
    let daemon = Daemon::start_as_configured(&lab).await;
    let wrong_tokens = [
        None,
        Some("Bearer"),
        Some("Bearer "),
        Some("Bearer a-token-for-this-tesT"),
        Some("Bearer a-token-for-this-test-and-more"),
        Some("Basic YTphLXRva2VuLWZvci10aGlzLXRlc3Q="),
    ];
    for wrong in wrong_tokens {
        for (method, path) in [("GET", "/status"), ("GET", "/health"), ("POST", "/stop"), ("GET", "/nothing")]
        {
            let answer = request_over_tcp(method, path, wrong).await;
            assert_refused(&answer, 401, "Unauthorized", &format!("{method} {path} with {wrong:?}"));
            assert!(answer.json()["message"].as_str().unwrap().contains("api.token_file"), "{answer:?}");
            assert!(answer.head.to_lowercase().contains("www-authenticate: bearer"), "{answer:?}");
        }
    }
    let right = Some("Bearer a-token-for-this-test");
    let answer = request_over_tcp("GET", "/status", right).await;
    assert_eq!((answer.status, answer.json().as_array().unwrap().len()), (200, 3));
    assert!(!answer.head.to_lowercase().contains("access-control-"), "no CORS: {answer:?}");
    assert_refused(&request_over_tcp("PUT", "/status", right).await, 405, "PUT does not go with", "PUT");
    assert_goes_on(&daemon).await;
}

/// DNS rebinding: the page's own name resolves to 127.0.0.1, and to the browser it is one site with the API.
#[tokio::test]
async fn over_tcp_a_page_whose_name_leads_here_is_refused_whatever_it_sends() {
    let lab = Lab::new();
    lab.configure_tcp(TUNNELS);
    let daemon = Daemon::start_as_configured(&lab).await;
    let token = format!("Authorization: Bearer {API_TOKEN}\r\n");
    for (host, status) in [
        ("Host: rebound.example\r\n", 403),
        ("Host: rebound.example:5002\r\nOrigin: http://rebound.example:5002\r\n", 403),
        ("Host: 127.0.0.1\r\nHost: rebound.example\r\n", 403),
        ("Host: localhost:5002\r\n", 200),
        ("Host: [::1]:5002\r\n", 200),
        ("", 200),
    ] {
        for (method, path) in [("GET", "/status"), ("POST", "/nothing")] {
            let answer = request_over_tcp_with(method, path, &format!("{host}{token}")).await;
            match (status, method) {
                (403, _) => assert_refused(&answer, 403, "rebound.example", host),
                (status, "GET") => assert_eq!(answer.status, status, "{host}: {answer:?}"),
                _ => assert_eq!(answer.status, 404, "{host}: {answer:?}"),
            }
        }
    }
    let token = format!("Bearer {API_TOKEN}");
    let absolute = request_over_tcp("GET", "http://rebound.example/status", Some(&token)).await;
    assert_refused(&absolute, 403, "rebound.example", "the absolute form");
    assert_goes_on(&daemon).await;
}

/// A page of another site may only send `Authorization` if the API agrees before.
#[tokio::test]
async fn over_tcp_a_browser_gets_no_permission_to_send_the_token_for_a_page() {
    let lab = Lab::new();
    lab.configure_tcp(TUNNELS);
    let daemon = Daemon::start_as_configured(&lab).await;
    let page = "Host: 127.0.0.1:5002\r\nOrigin: https://page.example\r\n";
    let question = format!(
        "{page}Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n"
    );
    for headers in [question.clone(), format!("{question}Authorization: Bearer {API_TOKEN}\r\n")] {
        let answer = request_over_tcp_with("OPTIONS", "/stop", &headers).await;
        assert!([401, 405].contains(&answer.status), "{answer:?}");
        assert!(!answer.head.to_lowercase().contains("access-control-"), "{answer:?}");
    }
    // What a form of a page can send without asking.
    let answer = request_over_tcp_with("POST", "/stop", page).await;
    assert_refused(&answer, 401, "Unauthorized", "a form");
    assert_goes_on(&daemon).await;
}

/// Panels of autossh-tunnel up to v2.3.0 call from the browser, and answer to names.
#[tokio::test]
async fn over_tcp_pages_and_names_of_the_configuration_may_call_with_any_of_the_tokens() {
    let lab = Lab::new();
    lab.configure_tcp(TUNNELS);
    let config = fs::read_to_string(lab.config_path()).unwrap();
    let rules = ", hosts: [panel.example], cors_origins: ['http://panel.example:5000']}";
    fs::write(lab.config_path(), config.trim_end().strip_suffix('}').unwrap().to_owned() + rules).unwrap();
    lab.write_token(&format!("{API_TOKEN}\nanother\n"), 0o600);
    let daemon = Daemon::start_as_configured(&lab).await;
    let origin = |origin: &str| format!("Host: panel.example:5002\r\nOrigin: {origin}\r\n");
    let asked = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n";
    let allowed = "access-control-allow-origin: http://panel.example:5000";
    for (page, is_allowed) in
        [("http://panel.example:5000", true), ("http://panel.example", false), ("null", false)]
    {
        let beforehand = request_over_tcp_with("OPTIONS", "/stop", &(origin(page) + asked)).await;
        assert_eq!((beforehand.status, beforehand.body.as_str()), (204, ""), "{beforehand:?}");
        for (token, status) in [(API_TOKEN, 200), ("another", 200), ("a third", 401)] {
            let headers = format!("{}Authorization: Bearer {token}\r\n", origin(page));
            let answer = request_over_tcp_with("GET", "/status", &headers).await;
            assert_eq!(answer.status, status, "{answer:?}");
            for head in [&answer.head, &beforehand.head] {
                assert_eq!(head.to_lowercase().contains(allowed), is_allowed, "{head}");
            }
        }
    }
    let other = format!("Host: rebound.example\r\nAuthorization: Bearer {API_TOKEN}\r\n");
    assert_eq!(request_over_tcp_with("GET", "/status", &other).await.status, 403);
    assert_goes_on(&daemon).await;
}

#[tokio::test]
async fn a_token_file_that_guards_nothing_keeps_the_daemon_from_starting() {
    let lab = Lab::new();
    let token = lab.path("token");
    lab.configure_tcp(TUNNELS);
    for (content, mode, reason) in [
        (API_TOKEN, 0o644, "mode 0644"),
        ("\n", 0o600, "must hold a token"),
        ("two words", 0o600, "must hold a token"),
    ] {
        lab.write_token(content, mode);
        assert_does_not_start(&lab, reason).await;
    }
    fs::remove_file(&token).unwrap();
    assert_does_not_start(&lab, "cannot read the API's token file").await;
}

#[tokio::test]
async fn another_user_is_kept_out_by_the_socket_and_by_the_daemon() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, TUNNELS).await;
    assert_eq!(fs::metadata(daemon.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    // First the directories are in the way, then the socket's mode, at last only the daemon itself.
    assert!(!ask_as_stranger(&lab, daemon.socket()).await.status.success());
    for directory in [lab.path(""), daemon.socket().parent().unwrap().to_owned()] {
        fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    }
    let refused = ask_as_stranger(&lab, daemon.socket()).await;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("Permission denied"), "{said}");

    fs::set_permissions(daemon.socket(), Permissions::from_mode(0o666)).unwrap();
    let answered = ask_as_stranger(&lab, daemon.socket()).await;
    let answer = String::from_utf8_lossy(&answered.stdout);
    assert!(answer.starts_with("HTTP/1.0 403") && answer.contains("use sudo"), "{answer}");
    assert!(!answer.contains("web"), "nothing is told: {answer}");
    assert_goes_on(&daemon).await;
}

#[tokio::test]
async fn a_second_daemon_on_the_same_socket_is_told_of_the_first() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, TUNNELS).await;
    assert_does_not_start(&lab, &format!("another portward (pid {}) is running", daemon.pid())).await;
    assert_goes_on(&daemon).await;
}

/// The answer has this status and is a JSON object whose `error` says `reason`.
fn assert_refused(answer: &Answer, status: u16, reason: &str, request: &str) {
    assert_eq!(answer.status, status, "{request}: {answer:?}");
    let body = answer.json();
    let error = body["error"].as_str().unwrap_or_else(|| panic!("{request}: no error in {answer:?}"));
    assert!(error.contains(reason), "{request}: {error}");
}

/// The daemon answers as before, and no tunnel was touched.
async fn assert_goes_on(daemon: &Daemon<'_>) {
    let answer = daemon.get("/status").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let statuses = answer.json();
    let states: Vec<_> = statuses.as_array().unwrap().iter().map(|status| &status["state"]).collect();
    assert_eq!(states, ["stopped", "stopped", "stopped"]);
}

/// `GET /status` on the unix socket by a process of another user.
async fn ask_as_stranger(lab: &Lab, socket: &Path) -> Output {
    let mut socat = lab
        .command("socat")
        // Once the daemon has ended the connection, there is nothing left to wait for.
        .args(["-t", "0.1", "-"])
        .arg(format!("UNIX-CONNECT:{}", socket.display()))
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starting socat");
    let mut input = socat.stdin.take().unwrap();
    // socat may have given up before it reads.
    let _ = input.write_all(b"GET /status HTTP/1.0\r\n\r\n").await;
    let output = socat.wait_with_output().await.unwrap();
    // Kept open until here: the daemon takes a client that has stopped sending for one that is gone.
    drop(input);
    output
}

/// `portward run` on the lab's configuration ends by itself with exit code 1 and says `reason`.
async fn assert_does_not_start(lab: &Lab, reason: &str) {
    let mut portward = lab.portward(&["run", "--log", "text"]);
    let said = run(&mut portward, 1).await;
    assert!(said.contains(reason), "{said}");
}
