//! The API over a real unix socket, with a scripted event loop at the other end of its [`Handle`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::{Listeners, serve};
use crate::daemon::handle::{Change, Command, Handle, Outcome, ReloadReport, Took, Verb};
use crate::daemon::snapshot::{AncestorStatus, Snapshot, TunnelStatus};
use crate::observe::recent::RecentLogs;
use crate::port::Holder;
use crate::tunnel::{Failure, FailureKind, StateName};

const HASH: &str = "0123456789abcdef0123456789abcdef";

/// A tunnel that is up.
pub(super) fn tunnel(name: &str) -> TunnelStatus {
    TunnelStatus {
        name: name.to_owned(),
        status: AncestorStatus::Running,
        local_port: "13306".to_owned(),
        remote_host: "user@db-server".to_owned(),
        remote_port: "3306".to_owned(),
        hash: HASH.to_owned(),
        log_id: "89abcdef".to_owned(),
        state: StateName::Up,
        direction: "remote_to_local".to_owned(),
        interactive: false,
        pid: Some(4711),
        since: "2026-11-24T10:00:00Z".to_owned(),
        restarts: 2,
        last_error: None,
        holder: None,
        listeners: vec!["127.0.0.1:13306".to_owned(), "[::1]:13306".to_owned()],
    }
}

fn three_tunnels() -> Snapshot {
    let web =
        TunnelStatus { hash: format!("{}1", &HASH[..31]), log_id: "11111111".to_owned(), ..tunnel("web") };
    let login = TunnelStatus {
        hash: "fedcba9876543210fedcba9876543210".to_owned(),
        log_id: "22222222".to_owned(),
        interactive: true,
        ..tunnel("by hand")
    };
    Snapshot {
        tunnels: vec![tunnel("database"), web, login],
        config_path: "/etc/portward/config.yaml".to_owned(),
        config_error: None,
    }
}

/// The API, served from a directory of its own, and the ends of the handle that an event loop would hold.
struct Served {
    directory: tempfile::TempDir,
    snapshot: watch::Sender<Arc<Snapshot>>,
    changes: broadcast::Sender<Change>,
    logs: Arc<RecentLogs>,
    shutdown: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

impl Served {
    /// Serves three tunnels; `outcome` is what becomes of every request to act, by the tunnel's name.
    fn with(outcome: impl Fn(Verb, &TunnelStatus) -> Option<Outcome> + Send + 'static) -> Self {
        let (commands, mut orders) = mpsc::channel(8);
        let (snapshot, latest) = watch::channel(Arc::new(three_tunnels()));
        let changes = broadcast::Sender::new(4);
        let logs = Arc::new(RecentLogs::default());
        let handle = Handle::new(commands, latest.clone(), changes.clone(), logs.clone());
        tokio::spawn(async move {
            while let Some(order) = orders.recv().await {
                // Who has asked may be gone.
                match order {
                    Command::Act { verb, hash, reply, .. } => {
                        let snapshot = latest.borrow().clone();
                        let tunnel = snapshot.tunnels.iter().find(|tunnel| tunnel.hash == hash).unwrap();
                        let _ = reply.send(outcome(verb, tunnel));
                    }
                    Command::Refresh { reply } => drop(reply.send(latest.borrow().clone())),
                    Command::Reload { dry_run: true, reply } => {
                        let report =
                            ReloadReport { added: vec!["new".to_owned()], ..ReloadReport::default() };
                        let _ = reply.send(Ok(report));
                    }
                    Command::Reload { dry_run: false, reply } => {
                        let _ = reply.send(Err("config.yaml:3:5: unknown key `remote_prot`".to_owned()));
                    }
                }
            }
        });
        let directory = tempfile::tempdir().unwrap();
        let listeners = Listeners::bind(&directory.path().join("portward.sock"), None).unwrap();
        let (shutdown, ended) = oneshot::channel::<()>();
        let serving = tokio::spawn(serve(listeners, handle, async { drop(ended.await) }));
        Self { directory, snapshot, changes, logs, shutdown: Some(shutdown), serving }
    }

    fn new() -> Self {
        Self::with(|_, status| Some(Outcome::Done { status: status.clone(), took: TOOK }))
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("portward.sock")
    }

    /// Sends these bytes and reads until the daemon closes the connection.
    async fn exchange(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Status, head and body of one request.
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String, Value) {
        let length = body.len();
        let request = format!("{method} {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}");
        let answer = self.exchange(request.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
        (status, head.to_owned(), body)
    }

    async fn get(&self, path: &str) -> Value {
        let (status, _, body) = self.ask("GET", path, "").await;
        assert_eq!(status, 200, "{body}");
        body
    }

    async fn post(&self, path: &str) -> (u16, Value) {
        let (status, _, body) = self.ask("POST", path, "").await;
        (status, body)
    }

    /// Status and error of a request that must be refused.
    async fn refused(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let (status, _, body) = self.ask(method, path, body).await;
        (status, body["error"].as_str().unwrap().to_owned())
    }

    async fn follow(&self, path: &str) -> Follower {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut follower = Follower(BufReader::new(stream).lines());
        while follower.0.next_line().await.unwrap().is_some_and(|line| !line.is_empty()) {}
        follower
    }
}

struct Follower(tokio::io::Lines<BufReader<UnixStream>>);

impl Follower {
    /// The lines of the next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Vec<String>> {
        let mut lines = Vec::new();
        while let Some(line) = self.0.next_line().await.unwrap() {
            if line.is_empty() {
                return Some(lines);
            }
            lines.push(line);
        }
        None
    }

    /// Name and data of the next event.
    async fn event(&mut self) -> (String, Value) {
        let lines = self.next().await.unwrap();
        let field = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)).unwrap();
        (field("event: ").to_owned(), serde_json::from_str(field("data: ")).unwrap())
    }
}

const TOOK: Took = Took { connect_ms: 181.25, release_ms: 0.125, forward_ms: 0.25, total_ms: 182.0 };

#[tokio::test]
async fn status_has_the_ancestors_fields_and_ours() {
    let served = Served::new();
    let statuses = served.get("/status").await;
    assert_eq!(
        statuses[0],
        json!({
            "name": "database", "status": "RUNNING", "local_port": "13306", "remote_host": "user@db-server",
            "remote_port": "3306", "hash": HASH, "log_id": "89abcdef", "state": "up",
            "direction": "remote_to_local", "interactive": false, "pid": 4711, "since": "2026-11-24T10:00:00Z",
            "restarts": 2, "last_error": null, "holder": null,
            "listeners": ["127.0.0.1:13306", "[::1]:13306"],
        })
    );
}

#[tokio::test]
async fn list_and_config_have_the_ancestors_shapes() {
    let served = Served::new();
    let list = served.get("/list").await;
    assert_eq!(
        list[0],
        json!({
            "name": "database", "status": "NORMAL", "local_port": "13306", "remote_host": "user@db-server",
            "remote_port": "3306", "hash": HASH,
        })
    );
    assert_eq!(list[2]["status"], "INTERACTIVE");

    let configured = json!({
        "name": "database", "remote_host": "user@db-server", "remote_port": "3306", "local_port": "13306",
        "direction": "remote_to_local", "interactive": false, "hash": HASH,
    });
    assert_eq!(served.get("/config").await["tunnels"][0], configured);
    assert_eq!(served.get("/config/database").await, configured);
}

#[tokio::test]
async fn health_tells_of_a_bad_file() {
    let served = Served::new();
    let health = served.get("/health").await;
    assert_eq!(
        (&health["status"], &health["up"], &health["config_error"]),
        (&json!("ok"), &json!(3), &Value::Null)
    );
    let error = Some("line 3: unknown key".to_owned());
    served.snapshot.send_replace(Arc::new(Snapshot { config_error: error, ..three_tunnels() }));
    assert_eq!(served.get("/health").await["config_error"], "line 3: unknown key");
}

#[tokio::test]
async fn a_done_request_answers_in_the_ancestors_words_and_with_the_phases() {
    let served = Served::new();
    let (status, body) = served.post("/restart/database?timeout=5s").await;
    let message = "database is up after 182.0 ms (connect 181.2, release 0.1, forward 0.2)";
    let mut expected = json!({
        "status": "success", "success": true, "name": "database", "tunnel_hash": HASH, "log_id": "89abcdef",
        "message": message, "output": message, "state": "up", "holder": null, "last_error": null,
        "took": {"connect_ms": 181.25, "release_ms": 0.125, "forward_ms": 0.25, "total_ms": 182.0},
    });
    assert_eq!((status, &body), (200, &expected));

    let (status, body) = served.post("/stop/89abcdef").await;
    let message = "database is stopped after 182.0 ms";
    expected["message"] = message.into();
    expected["output"] = message.into();
    assert_eq!((status, body), (200, expected));
}

#[tokio::test]
async fn an_unfinished_request_answers_202_and_names_the_holder() {
    let served = Served::with(|_, status| {
        let holder = Some(Holder { pid: Some(7), command: Some("squat".to_owned()), ..Holder::default() });
        Some(Outcome::Unfinished {
            status: TunnelStatus { state: StateName::AwaitingPort, holder, ..status.clone() },
        })
    });
    let (status, body) = served.post("/start/database?timeout=0s").await;
    assert_eq!((status, &body["status"], &body["success"]), (202, &json!("pending"), &json!(false)));
    assert_eq!((&body["state"], &body["holder"]["pid"]), (&json!("awaiting_port"), &json!(7)));
    assert_eq!(body.get("error"), None);
    let message = body["message"].as_str().unwrap();
    assert!(
        message.starts_with("database is not up yet, but awaiting_port: it waits for port 13306"),
        "{message}"
    );
}

#[tokio::test]
async fn a_failed_request_answers_502_and_why() {
    let served = Served::with(|_, status| {
        let failure = Failure::new(FailureKind::Auth, "db-server refused all keys: try `ssh user@db-server`");
        Some(Outcome::NotDone { status: status.clone(), failure })
    });
    let (status, body) = served.post("/restart/database").await;
    assert_eq!((status, &body["state"], &body["last_error"]["kind"]), (502, &json!("up"), &json!("auth")));
    assert_eq!(
        body["error"],
        "database was not restarted: auth: db-server refused all keys: try `ssh user@db-server`"
    );
}

#[tokio::test]
async fn all_means_all_that_are_not_interactive() {
    let served = Served::new();
    let (status, body) = served.post("/start").await;
    assert_eq!((status, &body["status"]), (200, &json!("success")));
    assert_eq!(body["message"], "2 of 2 tunnels started");
    assert_eq!(body["output"].as_str().unwrap().lines().count(), 2);
    let names: Vec<_> = body["tunnels"].as_array().unwrap().iter().map(|tunnel| &tunnel["name"]).collect();
    assert_eq!(names, ["database", "web"]);
}

#[tokio::test]
async fn one_failure_among_all_is_the_answer_for_all() {
    let served = Served::with(|_, status| {
        Some(if status.name == "web" {
            let failure = Failure::new(FailureKind::Dns, "db-server does not resolve");
            Outcome::NotDone { status: status.clone(), failure }
        } else {
            Outcome::Done { status: status.clone(), took: TOOK }
        })
    });
    let (status, body) = served.post("/restart").await;
    assert_eq!((status, &body["status"]), (502, &json!("error")));
    let error = "1 of 2 tunnels restarted. web was not restarted: dns: db-server does not resolve";
    assert_eq!(body["error"], error);
    assert_eq!(body["tunnels"][0]["status"], "success");
}

#[tokio::test]
async fn a_tunnel_that_a_reload_removes_meanwhile_is_unknown() {
    let served = Served::with(|_, _| None);
    assert_eq!(served.refused("POST", "/stop/database", "").await.0, 404);
}

#[tokio::test]
async fn wrong_requests_are_refused_with_json() {
    let served = Served::new();
    let long = "1".repeat(64 * 1024 + 1);
    let very_long = "1".repeat(500 * 1024);
    let ambiguous = format!("/restart/{}", &HASH[..8]);
    let requests = [
        ("GET", "/nothing", "", 404, "there is no /nothing: GET has /list"),
        ("POST", "/start/nothing", "", 404, "no tunnel is called `nothing`"),
        ("GET", "/logs/0123456", "", 404, "needs 8 digits or more"),
        ("POST", ambiguous.as_str(), "", 409, "may be any of database, web"),
        ("GET", "/start", "", 405, "GET does not go with /start"),
        ("DELETE", "/status", "", 405, "DELETE does not go with /status"),
        ("POST", "/start/database?timeout=5", "", 400, "`5` is not a duration"),
        ("POST", "/start/database?timeout=6m", "", 400, "`6m` is too long"),
        ("POST", "/start/database?timeuot=5s", "", 400, "unknown field `timeuot`"),
        ("POST", "/start?timeout=soon", "", 400, "`soon` is not a duration"),
        ("POST", "/start/%ff", "", 400, "Invalid UTF-8"),
        ("POST", "/reload?dry_run=perhaps", "", 400, "dry_run"),
        ("GET", "/logs/database?lines=-1", "", 400, "lines"),
        ("POST", "/start/database", "{\"a\":", 400, "is not JSON"),
        ("POST", "/start/database", long.as_str(), 413, "longer than 65536 bytes"),
        ("POST", "/nothing", very_long.as_str(), 413, "longer than 65536 bytes"),
    ];
    for (method, path, body, status, error) in requests {
        let (told, text) = served.refused(method, path, body).await;
        assert_eq!(told, status, "{method} {path}: {text}");
        assert!(text.contains(error), "{method} {path}: {text}");
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_one() {
    let served = Served::new();
    let (_, head, _) = served.ask("PUT", "/restart/database", "").await;
    assert!(head.to_lowercase().contains("allow: post"), "{head}");
}

#[tokio::test]
async fn what_is_not_http_gets_400() {
    let served = Served::new();
    let answer = served.exchange(b"\x16\x03\x01\x02\x00\x01\x00 garbage\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_finish_its_request_is_closed_by_a_deadline() {
    let served = Served::new();
    let answer = served.exchange(b"GET /status HTTP/1.1\r\nHost: ").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    let answer = served.exchange(b"POST /start HTTP/1.0\r\nContent-Length: 10\r\n\r\n{").await;
    assert!(answer.starts_with("HTTP/1.0 408"), "{answer}");
}

#[tokio::test]
async fn reload_tells_the_difference_or_the_errors() {
    let served = Served::new();
    let (status, body) = served.post("/reload?dry_run=true").await;
    assert_eq!(status, 200);
    assert_eq!(
        body,
        json!({"status": "success", "dry_run": true, "added": ["new"], "removed": [], "changed": [], "unchanged": []})
    );
    let (status, error) = served.refused("POST", "/reload", "").await;
    assert_eq!((status, error.as_str()), (422, "config.yaml:3:5: unknown key `remote_prot`"));
}

#[tokio::test]
async fn events_are_a_snapshot_and_then_changes() {
    let served = Served::new();
    let mut events = served.follow("/events").await;
    let (name, snapshot) = events.event().await;
    assert_eq!(name, "snapshot");
    assert_eq!(snapshot, serde_json::to_value(three_tunnels()).unwrap());

    served.changes.send(Change::Tunnel(Arc::new(tunnel("database")))).unwrap();
    let (name, changed) = events.event().await;
    assert_eq!((name.as_str(), &changed["name"]), ("tunnel", &json!("database")));

    served.changes.send(Change::Removed { hash: HASH.to_owned() }).unwrap();
    assert_eq!(events.event().await, ("removed".to_owned(), json!({"hash": HASH})));
    served.changes.send(Change::Config { error: None }).unwrap();
    assert_eq!(events.event().await, ("config".to_owned(), json!({"error": null})));
}

#[tokio::test]
async fn who_falls_behind_gets_a_fresh_snapshot() {
    let served = Served::new();
    let mut events = served.follow("/events").await;
    events.event().await;
    let only_web = Snapshot { tunnels: vec![tunnel("web")], ..three_tunnels() };
    served.snapshot.send_replace(Arc::new(only_web));
    // More than the channel holds, with no chance to read in between.
    for _ in 0..10 {
        served.changes.send(Change::Config { error: None }).unwrap();
    }
    let (name, snapshot) = events.event().await;
    assert_eq!((name.as_str(), snapshot["tunnels"].as_array().unwrap().len()), ("snapshot", 1));
    served.changes.send(Change::Removed { hash: HASH.to_owned() }).unwrap();
    assert_eq!(events.event().await.0, "removed");
}

#[tokio::test]
async fn logs_have_both_ancestral_forms() {
    let served = Served::new();
    let at = jiff::Timestamp::UNIX_EPOCH;
    for line in ["one", "two", "three"] {
        served.logs.push(HASH, at, line.to_owned());
    }
    assert_eq!(
        served.get("/logs/database?lines=2").await,
        json!({
            "status": "success", "tunnel_hash": HASH, "log": "two\nthree", "lines": ["two", "three"],
            "log_id": "89abcdef",
        })
    );
    let summaries = served.get("/logs").await;
    assert_eq!(summaries.as_array().unwrap().len(), 1);
    assert_eq!(
        (&summaries[0]["hash"], &summaries[0]["filename"], &summaries[0]["size"]),
        (&json!(HASH), &json!(format!("tunnel-{HASH}.log")), &json!("14"))
    );
}

#[tokio::test]
async fn a_followed_log_goes_on_until_its_tunnel_is_removed() {
    let served = Served::new();
    let at = jiff::Timestamp::UNIX_EPOCH;
    served.logs.push(HASH, at, "before".to_owned());
    let mut log = served.follow("/logs/database?follow=true&lines=5").await;
    assert_eq!(log.next().await.unwrap(), ["data: before"]);
    served.logs.push("another", at, "not ours".to_owned());
    served.logs.push(HASH, at, "split\r\nline".to_owned());
    assert_eq!(log.next().await.unwrap(), ["data: split  line"]);
    served.changes.send(Change::Removed { hash: HASH.to_owned() }).unwrap();
    assert_eq!(log.next().await, None);
}

#[tokio::test]
async fn shutdown_ends_streams_and_removes_the_socket() {
    let mut served = Served::new();
    let mut events = served.follow("/events").await;
    events.event().await;
    served.shutdown.take().unwrap().send(()).unwrap();
    assert_eq!(events.next().await, None);
    tokio::time::timeout(Duration::from_secs(60), &mut served.serving).await.unwrap().unwrap();
    assert!(!served.socket().exists());
}
