//! Requests and their answers, and those that are refused.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Served, TOOK, three_tunnels};
use crate::daemon::handle::Outcome;
use crate::protocol::tests::{HASH, listener};
use crate::protocol::{ConnectionWord, Failure, FailureKind, Holder, Snapshot, StateName, TunnelStatus};

#[tokio::test]
async fn status_has_the_fields_of_autossh_tunnel_and_ours() {
    let served = Served::new();
    let statuses = served.get("/status").await;
    assert_eq!(
        statuses[0],
        json!({
            "name": "database", "status": "RUNNING", "local_port": "13306", "remote_host": "user@db-server",
            "remote_port": "3306", "hash": HASH, "log_id": "89abcdef", "state": "up",
            "direction": "remote_to_local", "interactive": false, "pid": 4711, "since": "2026-11-24T10:00:00Z",
            "restarts": 2, "last_error": null, "holder": null, "held_by": [],
            "listeners": ["127.0.0.1:13306", "[::1]:13306"],
            "note": null,
            "connection_errors": null,
        })
    );
}

#[tokio::test]
async fn list_and_config_have_the_shapes_of_autossh_tunnel() {
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
async fn a_done_request_answers_in_the_words_of_autossh_tunnel_and_with_the_phases() {
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
async fn a_restart_of_a_tunnel_that_sleeps_says_that_there_is_nothing_to_restart() {
    let served = Served::with(|_, status| {
        let connection = Some(ConnectionWord::Asleep);
        Some(Outcome::Done { status: TunnelStatus { connection, ..status.clone() }, took: TOOK })
    });
    let (status, body) = served.post("/restart/database").await;
    let message =
        "database sleeps: there is no connection to restart, and a new one is made when a client comes";
    assert_eq!((status, &body["message"]), (200, &json!(message)));
    let (_, body) = served.post("/start/database").await;
    assert_eq!(body["message"], "database is up after 182.0 ms, and sleeps until a client comes");
}

#[tokio::test]
async fn an_unfinished_request_answers_202_and_names_the_holder() {
    let served = Served::with(|_, status| {
        let holder = Holder { pid: Some(7), command: Some("squat".to_owned()), ..Holder::default() };
        let held_by = vec![listener(holder.clone())];
        let state = StateName::AwaitingPort;
        Some(Outcome::Unfinished {
            status: TunnelStatus { state, holder: Some(holder), held_by, ..status.clone() },
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

/// Clients of autossh-tunnel wait for no more than the answer, and take every 2xx for done.
#[tokio::test]
async fn without_a_timeout_what_is_in_the_way_is_an_error() {
    for (state, is_held, failure, code) in [
        (StateName::AwaitingPort, true, None, 409),
        (StateName::AwaitingPort, false, None, 202),
        (StateName::Backoff, false, Some(FailureKind::Refused), 503),
        (StateName::Connecting, false, Some(FailureKind::Timeout), 503),
        (StateName::Forwarding, false, Some(FailureKind::RemotePortHeld), 503),
        (StateName::Connecting, false, None, 202),
        (StateName::Stopping, false, Some(FailureKind::Killed), 202),
    ] {
        let served = Served::with(move |_, status| {
            let holder = Holder { pid: Some(7), command: Some("squat".to_owned()), ..Holder::default() };
            let held_by = is_held.then(|| listener(holder)).into_iter().collect();
            let last_error = failure.map(|kind| Failure::new(kind, "the server is away"));
            Some(Outcome::Unfinished {
                status: TunnelStatus { state, last_error, held_by, ..status.clone() },
            })
        });
        for (path, expected) in [
            ("/start/database", code),
            ("/restart/database", code),
            ("/start", code),
            ("/start/database?timeout=5s", 202),
            ("/stop/database", 202),
        ] {
            let (status, body) = served.post(path).await;
            assert_eq!(status, expected, "{state} {path}: {body}");
            let is_error = body["status"] == "error" && body["error"].is_string();
            assert_eq!(is_error, expected != 202, "{body}");
        }
    }
}

#[tokio::test]
async fn a_tunnel_that_needs_a_person_answers_409() {
    let served = Served::with(|_, status| {
        let failure = Failure::new(FailureKind::Config, "a person must authenticate");
        let state = StateName::NeedsAuth;
        Some(Outcome::NotDone { status: TunnelStatus { state, ..status.clone() }, failure })
    });
    assert_eq!(served.post("/start/database").await.0, 409);
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
        ("GET", "/nothing", "", 404, "there is no /nothing: DELETE has /config/{id}; GET has /config"),
        ("POST", "/start/nothing", "", 404, "no tunnel is called `nothing`"),
        ("GET", "/logs/0123456", "", 400, "needs 8 digits or more"),
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
async fn doctor_answers_with_the_report_of_the_daemon() {
    let served = Served::new();
    let report = served.get("/doctor?uid=1000").await;
    assert_eq!(report["subject"]["pid"], std::process::id());
    assert_eq!(report["findings"][0]["what"], "DoctorQuery { uid: Some(1000) }");
    assert_eq!(served.refused("GET", "/doctor?uid=me", "").await.0, 400);
    assert_eq!(served.refused("GET", "/doctor?config=/etc/passwd", "").await.0, 400);
}

/// Status and error of a request for a WebSocket that is refused.
async fn refused_login(served: &Served, hash: &str) -> (u16, String) {
    let request = format!(
        "GET /ws/auth/{hash} HTTP/1.1\r\nHost: portward\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let answer = served.exchange(request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body["error"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_login_is_refused_in_the_words_of_autossh_tunnel_before_the_upgrade() {
    let served = Served::new();
    for wrong in ["by%20hand", "FEDCBA9876543210FEDCBA9876543210", "fedcba98"] {
        assert_eq!(refused_login(&served, wrong).await, (400, "Invalid hash format".to_owned()));
    }
    let unknown = "00000000000000000000000000000000";
    assert_eq!(refused_login(&served, unknown).await.0, 404);
    let attended = "fedcba9876543210fedcba9876543210";
    let told = (409, "Session already active for this tunnel".to_owned());
    assert_eq!(refused_login(&served, attended).await, told);
    let (status, error) = refused_login(&served, HASH).await;
    assert!(status == 409 && error.contains("`portward start database`"), "{error}");
    // What is no WebSocket begins no login.
    let (status, error) = served.refused("GET", &format!("/ws/auth/{attended}"), "").await;
    assert!(status == 400 && error.contains("portward auth"), "{error}");
}

#[tokio::test]
async fn a_question_without_a_login_is_gone_and_nobody_else_may_ask() {
    let served = Served::new();
    let question = r#"{"token": "0", "kind": "text", "question": "Password: "}"#;
    let (status, error) = served.refused("POST", "/askpass", question).await;
    assert!(status == 410 && error.contains("portward auth"), "{error}");
    assert_eq!(served.refused("POST", "/askpass", "{}").await.0, 400);
}
