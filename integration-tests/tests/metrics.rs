//! The metrics, read by promtool and by a real Prometheus, and the alerts and the dashboard that are shipped for them.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use integration_tests::{
    API_PORT, Daemon, Lab, ORIGIN_PORT, Squatter, Sshd, fetch, get_of_other, kill, process_end, request_with,
    serve_page,
};
use nix::sys::signal::Signal;
use portward::protocol::StateName;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep};

const TUNNELS: &str = r#"
  - {name: web, remote_host: server, remote_port: '127.0.0.1:8000', local_port: 9442}
  - {name: 'held "one" \', remote_host: server, remote_port: '127.0.0.1:8000', local_port: 9443, listener: portward}
  - {name: waiting, remote_host: server, remote_port: '127.0.0.1:8000', local_port: 9444}
"#;

/// Where Prometheus listens, inside the lab.
const PROMETHEUS_PORT: u16 = 9090;

const DEADLINE: Duration = Duration::from_secs(60);

/// The expressions of the shipped dashboard.
fn panels() -> Vec<String> {
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(shipped("dashboard.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/prometheus").join(name)
}

/// The value of a sample, which is named as in the text.
fn value(text: &str, sample: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {sample} in\n{text}")).parse().unwrap()
}

#[tokio::test]
async fn what_is_counted_is_what_has_happened() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let squatter = Squatter::listen(&lab, "127.0.0.1", 9444).await;
    let daemon = Daemon::start(&lab, TUNNELS).await;
    let first = daemon.wait_state("web", StateName::Up).await.pid.unwrap();
    daemon.wait_state(r#"held "one" \"#, StateName::Up).await;
    daemon.wait_holder("waiting").await;
    fetch(9443).await.unwrap();
    let mark = daemon.mark();
    kill(first, Signal::SIGKILL);
    process_end(first).await;
    daemon.wait_status(mark, "web", "down", |status| status.state != StateName::Up).await;
    daemon.wait_state("web", StateName::Up).await;
    daemon.restart("web").await;
    lab.write_config(&format!("{TUNNELS}  - {{name: broken, local_port: 1}}\n"));
    assert_eq!(daemon.post("/reload").await.status, 422);

    let text = daemon.get("/metrics").await.body;
    for (sample, expected) in [
        (r#"portward_tunnel_up{tunnel="web"}"#, 1.0),
        (r#"portward_tunnel_state{tunnel="web",state="up"}"#, 1.0),
        (r#"portward_tunnel_state{tunnel="waiting",state="awaiting_port"}"#, 1.0),
        (r#"portward_tunnel_up{tunnel="waiting"}"#, 0.0),
        (r#"portward_tunnel_restarts_total{tunnel="web",cause="killed"}"#, 1.0),
        (r#"portward_tunnel_restarts_total{tunnel="web",cause="requested"}"#, 1.0),
        (r#"portward_tunnel_waits_total{tunnel="waiting",holder="listener"}"#, 1.0),
        (r#"portward_tunnel_clients{tunnel="held \"one\" \\"}"#, 0.0),
        ("portward_login_seconds_count", 4.0),
        ("portward_config_valid", 0.0),
        (r#"portward_tunnel_state{tunnel="broken",state="failed"}"#, 1.0),
        ("portward_log_lines_dropped_total", 0.0),
    ] {
        assert_eq!(value(&text, sample).to_string(), expected.to_string(), "{sample}\n{text}");
    }
    for sample in [
        r#"portward_tunnel_down_seconds_total{tunnel="web"}"#,
        r#"portward_tunnel_down_seconds_total{tunnel="waiting"}"#,
        r#"portward_tunnel_client_bytes_total{tunnel="held \"one\" \\",direction="received"}"#,
        r#"portward_reloads_total{result="partly"}"#,
        "portward_verdict_seconds_count",
        "portward_login_seconds_sum",
    ] {
        assert!(value(&text, sample) > 0.0, "{sample}\n{text}");
    }
    drop(squatter);

    let headers = "Accept: text/plain\r\n";
    let older = request_with(daemon.socket(), "GET", "/metrics", headers, "").await;
    let mut promtool = lab.command("promtool");
    let promtool = promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut promtool =
        promtool.stderr(Stdio::piped()).spawn().expect("starting promtool (package prometheus)");
    promtool.stdin.take().unwrap().write_all(older.body.as_bytes()).await.unwrap();
    let judged = promtool.wait_with_output().await.unwrap();
    let said =
        String::from_utf8_lossy(&judged.stdout).into_owned() + &String::from_utf8_lossy(&judged.stderr);
    assert!(judged.status.success() && said.is_empty(), "{said}\n{}", older.body);
}

/// A Prometheus that scrapes the daemon, with the shipped rules.
struct Prometheus(#[expect(dead_code, reason = "it ends with this")] tokio::process::Child);

impl Prometheus {
    fn start(lab: &Lab) -> Self {
        let config = fs::read_to_string(shipped("prometheus.yaml")).unwrap();
        let config = config
            .replace("/etc/prometheus/portward-token", lab.path("token").to_str().unwrap())
            .replace("8080", &API_PORT.to_string())
            .replace("alerts.yaml", shipped("alerts.yaml").to_str().unwrap());
        let global = "global: {scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}\n";
        let path = lab.path("prometheus.yaml");
        fs::write(&path, format!("{global}{config}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let child = lab
            .command("prometheus")
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", lab.path("prometheus").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("starting prometheus (package prometheus)");
        Self(child)
    }

    /// What it answers to an expression; nothing as long as it is on its way.
    async fn query(&self, expression: &str) -> Option<Vec<Value>> {
        let path = format!("/api/v1/query?query={}", percent(expression));
        let answer = get_of_other(PROMETHEUS_PORT, &path).await.filter(|answer| answer.status != 503)?.json();
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().cloned()
    }

    /// The shipped alerts, by their names.
    async fn alerts(&self) -> BTreeMap<String, String> {
        let answer = get_of_other(PROMETHEUS_PORT, "/api/v1/rules").await.unwrap().json();
        let rules = answer["data"]["groups"][0]["rules"].as_array().unwrap().clone();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        rules.iter().map(|rule| (text(&rule["name"]), text(&rule["query"]))).collect()
    }

    /// Prometheus tells nobody when it has scraped: it is asked until the answer is as it should be.
    async fn wait(&self, expression: &str, is_right: impl Fn(&[Value]) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let answer = self.query(expression).await;
            if answer.as_deref().is_some_and(&is_right) {
                return;
            }
            assert!(Instant::now() < deadline, "{expression}: {answer:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>().concat()
}

#[tokio::test]
async fn prometheus_understands_all_that_is_shipped_and_alerts_of_each_fault() {
    let lab = Lab::new();
    let sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    lab.configure_tcp(TUNNELS);
    let daemon = Daemon::start_as_configured(&lab).await;
    for name in ["web", r#"held "one" \"#, "waiting"] {
        daemon.wait_state(name, StateName::Up).await;
    }
    let prometheus = Prometheus::start(&lab);
    prometheus.wait("portward_tunnel_up == 1", |found| found.len() == 3).await;
    let alerts = prometheus.alerts().await;
    assert_eq!(alerts.len(), 7);
    for (name, expression) in &alerts {
        assert_eq!(prometheus.query(expression).await.unwrap(), [] as [Value; 0], "{name} without a fault");
    }
    fetch(9443).await.unwrap();
    daemon.restart("web").await;
    prometheus.wait("portward_tunnel_restarts_total", |found| !found.is_empty()).await;
    let squatter = {
        daemon.post("/stop/waiting?timeout=20s").await;
        Squatter::listen(&lab, "127.0.0.1", 9444).await
    };
    daemon.post("/start/waiting?timeout=0s").await;
    prometheus.wait("portward_tunnel_waits_total", |found| !found.is_empty()).await;
    for expression in &panels() {
        // A rate needs two scrapes.
        prometheus.wait(expression, |found| !found.is_empty()).await;
    }

    prometheus.wait(&alerts["PortwardPortHeld"], |found| found.len() == 1).await;
    prometheus.wait(&alerts["PortwardTunnelDown"], |found| found.len() == 1).await;
    let valid = fs::read_to_string(lab.config_path()).unwrap();
    fs::write(
        lab.config_path(),
        valid
            .replace("defaults:\n", "  # one is wrong\ndefaults:\n")
            .replace("tunnels:\n", "tunnels:\n  - {name: broken, local_port: 1}\n"),
    )
    .unwrap();
    prometheus.wait(&alerts["PortwardConfigInvalid"], |found| found.len() == 1).await;
    prometheus.wait(&alerts["PortwardTunnelFailed"], |found| found.len() == 1).await;
    fs::write(lab.config_path(), valid).unwrap();
    prometheus.wait(&alerts["PortwardConfigInvalid"], <[Value]>::is_empty).await;
    for _ in 0..5 {
        let pid = daemon.wait_state("web", StateName::Up).await.pid.unwrap();
        let mark = daemon.mark();
        kill(pid, Signal::SIGKILL);
        process_end(pid).await;
        daemon.wait_status(mark, "web", "down", |status| status.state != StateName::Up).await;
    }
    prometheus.wait(&alerts["PortwardTunnelFlaps"], |found| found.len() == 1).await;
    drop((squatter, sshd));
    daemon.stop().await;
    prometheus.wait(&alerts["PortwardAbsent"], |found| found.len() == 1).await;
}
