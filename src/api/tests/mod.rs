//! The API over a real unix socket, with a scripted event loop at the other end of its [`Handle`].

mod answers;
mod description;
mod streams;

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::{Examine, Listeners, serve};
use crate::daemon::handle::{Command, Handle, NoLogin, Outcome};
use crate::observe::recent::RecentLogs;
use crate::protocol::doctor::{DoctorQuery, Finding, Report, Subject};
use crate::protocol::tests::{HASH, tunnel};
use crate::protocol::{Change, ReloadReport, Snapshot, Took, TunnelStatus, Verb};

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
        ..Snapshot::default()
    }
}

/// What the daemon of these tests finds when it examines itself: the query.
fn examined(query: DoctorQuery) -> Report {
    let subject = Subject::Daemon { pid: std::process::id(), user: "root".to_owned() };
    Report { subject, findings: vec![Finding::ok(format!("{query:?}"))] }
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
        let handle = Handle::new(commands, changes.clone(), logs.clone());
        tokio::spawn(async move {
            while let Some(order) = orders.recv().await {
                // Who has asked may be gone.
                match order {
                    Command::Act { verb, hash, reply, .. } => {
                        let snapshot = latest.borrow().clone();
                        let tunnel = snapshot.tunnels.iter().find(|tunnel| tunnel.hash == hash).unwrap();
                        let _ = reply.send(outcome(verb, tunnel));
                    }
                    Command::LogIn { hash, reply } => {
                        let snapshot = latest.borrow().clone();
                        let tunnel = snapshot.tunnels.iter().find(|tunnel| tunnel.hash == hash).unwrap();
                        let refused = if tunnel.interactive {
                            NoLogin::Attended
                        } else {
                            NoLogin::NotInteractive { name: tunnel.name.clone() }
                        };
                        let _ = reply.send(Err(refused));
                    }
                    Command::Ask { reply, .. } => drop(reply.send(None)),
                    Command::AskAgain { reply } => drop(reply.send(())),
                    Command::Metrics { reply } => drop(reply.send("# EOF\n".to_owned())),
                    Command::Snapshot { reply, .. } => drop(reply.send(Snapshot::clone(&latest.borrow()))),
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
        let serving =
            tokio::spawn(serve(listeners, handle, Examine::new(examined), async { drop(ended.await) }));
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
