//! Clients of the API that take all the room: whoever sends a short request is answered at once.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use integration_tests::{
    API_PORT, API_TOKEN, Answer, Daemon, Lab, Squatter, request_over_tcp, within_deadline,
};
use portward::protocol::StateName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

const TUNNELS: &str = "
  - {name: web, remote_host: server, remote_port: 8000, local_port: 9443, enabled: false}
";

/// More than there are places.
const CROWD: usize = 300;

/// An answer that had to wait for anybody's deadline comes later.
const AT_ONCE: Duration = Duration::from_secs(3);

async fn ask_over_tcp(path: &str, token: &str) -> Answer {
    request_over_tcp("GET", path, Some(&format!("Bearer {token}"))).await
}

/// `portward status` and `GET /status`, each at once.
async fn assert_answers(daemon: &Daemon<'_>, beside: &str) {
    let asked = Instant::now();
    let answer = within_deadline(beside, daemon.get("/status")).await;
    let took = asked.elapsed();
    assert_eq!(answer.status, 200, "{beside}: {answer:?}");
    assert!(took < AT_ONCE, "{beside}: answered after {took:?}");
    let status = daemon.cli(&["status"]).await;
    assert!(status.status.success(), "{beside}: {status:?}");
    println!("{beside}: answered after {took:?}");
}

async fn crowd_on_unix(daemon: &Daemon<'_>, said: &str) -> Vec<UnixStream> {
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        crowd.push(stream);
    }
    crowd
}

async fn crowd_on_tcp(said: &str) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let mut stream = TcpStream::connect(("127.0.0.1", API_PORT)).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        crowd.push(stream);
    }
    crowd
}

/// The status in the first line of an answer.
async fn status_of(stream: &mut UnixStream) -> String {
    let mut head = [0; 12];
    within_deadline("the head of an answer", stream.read_exact(&mut head)).await.unwrap();
    String::from_utf8_lossy(&head[9..]).into_owned()
}

#[tokio::test]
async fn followers_of_events_lock_nobody_out() {
    followers_lock_nobody_out("/events").await;
}

#[tokio::test]
async fn followers_of_a_log_lock_nobody_out() {
    followers_lock_nobody_out("/logs/web?follow=true").await;
}

async fn followers_lock_nobody_out(path: &str) {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, TUNNELS).await;
    let mut crowd = crowd_on_unix(&daemon, &format!("GET {path} HTTP/1.0\r\n\r\n")).await;
    let mut followers = Vec::new();
    let mut refused = Vec::new();
    for mut stream in crowd.drain(..) {
        match status_of(&mut stream).await.as_str() {
            "200" => followers.push(stream),
            "503" => refused.push(stream),
            other => panic!("{path}: {other}"),
        }
    }
    // The harness follows /events itself.
    assert!((63..=64).contains(&followers.len()), "{path}: {} follow", followers.len());
    assert_answers(&daemon, &format!("{CROWD} followers of {path}")).await;

    let asked = format!("GET {path} HTTP/1.0\r\n\r\n");
    let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
    stream.write_all(asked.as_bytes()).await.unwrap();
    let one_too_many = Answer::read(stream).await;
    assert_eq!(one_too_many.status, 503);
    assert!(one_too_many.head.to_lowercase().contains("retry-after: "), "{one_too_many:?}");
    assert!(one_too_many.json()["error"].as_str().unwrap().contains("64 clients follow"), "{one_too_many:?}");
    let events = daemon.cli(&["events"]).await;
    assert_eq!(events.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&events.stderr).contains("64 clients follow"), "{events:?}");

    // Whoever leaves makes room.
    drop(followers);
    let again = async {
        loop {
            let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
            stream.write_all(asked.as_bytes()).await.unwrap();
            if status_of(&mut stream).await == "200" {
                break;
            }
        }
    };
    within_deadline("following again", again).await;
}

#[tokio::test]
async fn requests_that_wait_lock_nobody_out() {
    let lab = Lab::new();
    let _squatter = Squatter::listen(&lab, "127.0.0.1", 9443).await;
    let daemon = Daemon::start(&lab, TUNNELS).await;
    let mut crowd = crowd_on_unix(&daemon, "POST /start/web?timeout=5m HTTP/1.0\r\n\r\n").await;
    daemon.wait_state("web", StateName::AwaitingPort).await;
    assert_answers(&daemon, "requests that wait").await;
    let last = Answer::read(crowd.pop().unwrap()).await;
    assert_eq!(last.status, 503);
    assert!(last.body.contains("requests wait for tunnels already"), "{last:?}");
}

#[tokio::test]
async fn clients_without_a_complete_request_lock_nobody_out() {
    let lab = Lab::new();
    lab.configure_tcp(TUNNELS);
    let daemon = Daemon::start_as_configured(&lab).await;
    let right = format!("Authorization: Bearer {API_TOKEN}\r\n");
    let incomplete = [
        ("silent clients", String::new()),
        ("clients with half a head", "GET /status HTTP/1.1\r\nHost: localhost\r\n".to_owned()),
        ("clients with half a body", format!("POST /start HTTP/1.1\r\n{right}Content-Length: 10\r\n\r\n{{")),
        ("clients without the token that stay", "GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned()),
        (
            "clients that were answered and stay",
            format!("GET /list HTTP/1.1\r\nHost: localhost\r\n{right}\r\n"),
        ),
    ];
    for (who, said) in incomplete {
        let over_tcp = crowd_on_tcp(&said).await;
        let asked = Instant::now();
        let answer = within_deadline(who, ask_over_tcp("/status", API_TOKEN)).await;
        let took = asked.elapsed();
        println!("{who} on TCP: answered after {took:?}");
        assert_eq!(answer.status, 200, "{who}: {answer:?}");
        assert!(took < AT_ONCE, "{who} on TCP: answered after {took:?}");
        assert_answers(&daemon, &format!("{who} on TCP")).await;
        drop(over_tcp);
        let _on_unix = crowd_on_unix(&daemon, &said).await;
        assert_answers(&daemon, &format!("{who} on the unix socket")).await;
    }
}

#[tokio::test]
async fn one_connection_serves_several_requests() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, TUNNELS).await;
    let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /list HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("}]") {
            let mut bytes = [0; 1024];
            let length = within_deadline("an answer", stream.read(&mut bytes)).await.unwrap();
            assert!(length > 0, "closed after {answer}");
            answer += std::str::from_utf8(&bytes[..length]).unwrap();
        }
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn clients_that_do_not_read_long_answers_lock_nobody_out_and_take_bounded_memory() {
    let lab = Lab::new();
    let mut tunnels = String::new();
    for index in 0..700 {
        writeln!(
            tunnels,
            "  - {{name: t{index}, remote_host: server-{}, remote_port: 8000, local_port: {}, enabled: false}}",
            "x".repeat(230),
            20_000 + index
        )
        .unwrap();
    }
    let daemon = Daemon::start(&lab, &tunnels).await;
    let answer = daemon.get("/config").await.body.len();
    assert!(answer > 250_000, "{answer} bytes fit into the socket");
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
        stream.write_all(b"GET /config HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        assert_eq!(status_of(&mut stream).await, "200");
        crowd.push(stream);
    }
    assert_answers(&daemon, "clients that do not read").await;
    let peak = daemon.peak_memory();
    println!("{CROWD} unread answers of {answer} bytes: peak memory {peak} KiB");
    assert!(peak < 400 * 1024, "{peak} KiB");
    drop(crowd);
}

#[tokio::test]
async fn without_descriptors_the_api_answers_and_does_not_spin() {
    let lab = Lab::new();
    lab.configure_tcp(TUNNELS);
    let daemon = Daemon::start_as_configured(&lab).await;
    let open = || fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    let limit = open() + 10;
    let limited = lab
        .command("prlimit")
        .args([format!("--pid={}", daemon.pid()), format!("--nofile={limit}:{limit}")])
        .status()
        .await
        .expect("starting prlimit (package util-linux)");
    assert!(limited.success());
    // Streams are nobody's to close: with 20 of them there is no descriptor left.
    let mut followers = Vec::new();
    for _ in 0..20 {
        let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
        stream.write_all(b"GET /events HTTP/1.0\r\n\r\n").await.unwrap();
        followers.push(stream);
    }
    daemon.wait_log(0, "of missing descriptors", |line| line.raw.contains("cannot accept connections")).await;
    let before = daemon.processor_time();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = daemon.processor_time().saturating_sub(before);
    assert!(used < Duration::from_millis(200), "{used:?} in 2 s");
    let told =
        daemon.log().all().iter().filter(|line| line.raw.contains("cannot accept connections")).count();
    assert!(told <= 2, "told {told} times, once for each door at most");
    drop(followers);
    assert_answers(&daemon, "after there were no descriptors").await;
}

#[tokio::test]
async fn the_last_descriptor_is_for_the_next_client() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, TUNNELS).await;
    let open = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    // Descriptors of which the limit has no more: any new one fails.
    let limited = lab
        .command("prlimit")
        .args([format!("--pid={}", daemon.pid()), format!("--nofile={open}:{open}")])
        .status()
        .await
        .unwrap();
    assert!(limited.success());
    for _ in 0..3 {
        assert_answers(&daemon, "no descriptor left").await;
    }
}

#[tokio::test]
async fn a_new_token_counts_from_the_next_request_on_and_a_bad_one_lets_nobody_in() {
    let lab = Lab::new();
    lab.configure_tcp(TUNNELS);
    let daemon = Daemon::start_as_configured(&lab).await;
    let status = async |token: &'static str| ask_over_tcp("/list", token).await.status;
    assert_eq!(status(API_TOKEN).await, 200);

    // Replaced in one step, and written over in place.
    fs::write(lab.path("new"), "second-token\n").unwrap();
    fs::set_permissions(lab.path("new"), Permissions::from_mode(0o600)).unwrap();
    fs::rename(lab.path("new"), lab.path("token")).unwrap();
    assert_eq!((status("second-token").await, status(API_TOKEN).await), (200, 401));
    lab.write_token("third-token", 0o600);
    assert_eq!((status("third-token").await, status("second-token").await), (200, 401));

    let token = lab.path("token");
    let spoil: [(&str, &dyn Fn()); 5] = [
        ("mode 0644", &|| lab.write_token("third-token", 0o644)),
        ("must hold a token", &|| lab.write_token("", 0o600)),
        ("must hold a token", &|| lab.write_token(&"x".repeat(5000), 0o600)),
        ("cannot read the API's token file", &|| fs::remove_file(&token).unwrap()),
        ("cannot read the API's token file", &|| {
            fs::remove_file(&token).unwrap();
            fs::create_dir(&token).unwrap();
            fs::set_permissions(&token, Permissions::from_mode(0o700)).unwrap();
        }),
    ];
    for (why, spoil) in spoil {
        assert_eq!(status("third-token").await, 200, "before the file is bad: {why}");
        let mark = daemon.log().mark();
        spoil();
        for token in ["third-token", "second-token", API_TOKEN, "", "x"] {
            assert_eq!(status(token).await, 401, "{token:?} where the file is bad: {why}");
        }
        let told = daemon.wait_log(mark, why, |line| line.raw.contains(why)).await;
        assert!(!told.raw.contains("third-token"), "{}", told.raw);
        let told = daemon.log().since(mark).iter().filter(|line| line.raw.contains(why)).count();
        assert_eq!(told, 1, "{why} is told once, not for each request");
        let _ = fs::remove_dir(&token);
        lab.write_token("third-token", 0o600);
    }
    assert_eq!(status("third-token").await, 200);
}
