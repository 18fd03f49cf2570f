//! Health checks, through real tunnels and by programs.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use integration_tests::{
    Daemon, Lab, LogLine, ORIGIN_PORT, Record, Sshd, kill, run, serve_page, within_deadline,
};
use nix::sys::signal::Signal;
use portward::protocol::{CheckErrorKind, HealthState, StateName, TunnelHealth, TunnelStatus};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Where a check tells that it runs.
const TELLING_PORT: u16 = 7001;

/// The tunnel `web` over ssh to the origin, with these health checks.
fn web(health: &str) -> String {
    format!(
        "
  - name: web
    remote_host: server
    remote_port: 127.0.0.1:8000
    local_port: 9443
    health: {health}
"
    )
}

fn health(status: &TunnelStatus) -> &TunnelHealth {
    status.health.as_ref().unwrap_or_else(|| panic!("no health in {status:?}"))
}

/// Waits until the checks of `web` have shown `state`, at or after `mark`.
async fn wait_health(daemon: &Daemon<'_>, mark: usize, state: HealthState) -> TunnelStatus {
    let what = format!("with health.state {state:?}");
    daemon.wait_status(mark, "web", &what, |status| health(status).state == state).await
}

fn is_told(line: &LogLine, words: &str) -> bool {
    line.has("event", "health") && line.raw.contains(words)
}

/// The connections to port 9443 that keep a port in TIME_WAIT.
async fn time_waits(lab: &Lab) -> String {
    run(lab.command("ss").args(["-Htan", "state", "time-wait", "( dport = :9443 )"]), 0).await
}

/// A web service whose answers the test chooses.
struct Service {
    /// The status that it answers with; 0: none at all.
    answer: Arc<AtomicU16>,
    requests: Record<String>,
}

impl Service {
    async fn start(answer: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", ORIGIN_PORT)).await.unwrap();
        let service = Self { answer: Arc::new(AtomicU16::new(answer)), requests: Record::default() };
        let (answer, requests) = (service.answer.clone(), service.requests.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), requests.clone()));
            }
        });
        service
    }

    fn answers(&self, status: u16) {
        self.answer.store(status, Ordering::Relaxed);
    }
}

async fn serve(mut stream: TcpStream, answer: Arc<AtomicU16>, requests: Record<String>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut request).await, Ok(1..)) {
            return;
        }
    }
    requests.push(String::from_utf8(request).unwrap());
    let status = answer.load(Ordering::Relaxed);
    if status == 0 {
        // Until the client has had enough.
        let _ = stream.read(&mut [0; 1]).await;
        return;
    }
    // The body is far longer than anybody wants to read.
    let head = format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 1000000000\r\n\r\n");
    let _ = stream.write_all(head.as_bytes()).await;
    while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
}

#[tokio::test]
async fn a_tunnel_that_leads_nowhere_is_restarted_after_so_many_failed_checks_and_passes_once_it_leads_somewhere()
 {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, &web("{connect: true, every: 1s, failures: 2}")).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    assert_eq!(
        health(&up),
        &TunnelHealth { state: HealthState::Unknown, failures: 0, last_error: None, checked: None }
    );
    let first =
        daemon.wait_status(0, "web", "with a failed check", |status| health(status).failures == 1).await;
    assert_eq!(
        (first.pid, health(&first).state),
        (up.pid, HealthState::Unknown),
        "one failure means nothing yet"
    );
    let error = health(&first).last_error.clone().unwrap();
    assert_eq!(error.kind, CheckErrorKind::Closed, "{error:?}");
    for words in
        ["127.0.0.1:9443 accepted the connection and ", "check from server whether 127.0.0.1:8000 answers"]
    {
        assert!(error.message.contains(words), "{error:?}");
    }

    let anew = daemon.wait_up_anew(0, "web", up.pid).await;
    let states: Vec<_> =
        daemon.statuses(0, "web").iter().map(|status| (status.state, health(status).state)).collect();
    let order = [
        (StateName::Up, HealthState::Unknown),
        (StateName::Replacing, HealthState::Failing),
        (StateName::Up, HealthState::Unknown),
    ];
    let mut seen = states.iter();
    assert!(order.iter().all(|state| seen.any(|one| one == state)), "{states:?}");
    assert!(!states.iter().any(|(state, _)| *state == StateName::Connecting) || states[0].0 != StateName::Up);
    assert_eq!((health(&anew).failures, anew.restarts), (0, 1));
    let told = daemon.wait_log(0, "about the restart", |line| is_told(line, "; it is restarted")).await;
    assert!(told.raw.contains("2 health checks in a row of port 9443 failed: "), "{}", told.raw);
    assert!(
        told.has("tunnel", "web") && told.has("error_kind", "closed") && told.raw.contains("\"port\":9443"),
        "{}",
        told.raw
    );

    // It does not help: the next one waits.
    daemon.wait_log(0, "about the wait", |line| is_told(line, "the last restart did not help")).await;
    let mark = daemon.mark();
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let passing = wait_health(&daemon, mark, HealthState::Passing).await;
    assert_eq!((health(&passing).failures, &health(&passing).last_error), (0, &None));
    let told = daemon
        .wait_log(0, "about the recovery", |line| is_told(line, "the health checks of port 9443 pass"))
        .await;
    assert!(told.has("tunnel", "web"), "{}", told.raw);
    assert_eq!(health(&daemon.status("web").await).state, HealthState::Passing);
    assert_eq!(time_waits(&lab).await, "", "a check keeps no port");
}

#[tokio::test]
async fn a_restart_for_health_that_fails_leaves_the_old_connection_up_and_failing() {
    let lab = Lab::new();
    let mut sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, &web("{connect: true, every: 1s, failures: 1}")).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    sshd.stop_listening().await;
    daemon.wait_log(0, "about the failed restart", |line| line.has("event", "restart_failed")).await;
    let mark = daemon.mark();
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let passing = wait_health(&daemon, mark, HealthState::Passing).await;
    assert_eq!((passing.state, passing.pid), (StateName::Up, up.pid));
    sshd.start_again().await;
}

#[tokio::test]
async fn an_answer_of_500_marks_the_tunnel_and_one_of_200_or_a_redirection_passes() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let service = Service::start(200).await;
    let checks = "{http: '/healthz?deep=1', every: 1s, timeout: 1s, failures: 2, action: mark}";
    let daemon = Daemon::start(&lab, &web(checks)).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    wait_health(&daemon, 0, HealthState::Passing).await;
    let request = service.requests.all()[0].to_ascii_lowercase();
    for words in ["get /healthz?deep=1 http/1.1\r\n", "host: 127.0.0.1:8000\r\n", "connection: close\r\n"] {
        assert!(request.contains(words), "{request}");
    }

    for (bad, good) in [(500, 302), (404, 204)] {
        let (mark, log) = (daemon.mark(), daemon.log().mark());
        service.answers(bad);
        let failing = wait_health(&daemon, mark, HealthState::Failing).await;
        let error = health(&failing).last_error.clone().unwrap();
        assert_eq!((error.kind, health(&failing).failures), (CheckErrorKind::Answer, 2));
        let words = format!("GET /healthz?deep=1 on 127.0.0.1:9443 was answered with {bad} ");
        assert!(error.message.starts_with(&words), "{error:?}");
        let told = daemon.wait_log(log, "about it", |line| is_told(line, &words)).await;
        assert!(told.raw.contains("it is left as it is (`action: mark`)"), "{}", told.raw);

        // That it goes on failing is no news.
        let (told, seen) = (daemon.statuses(0, "web").len(), service.requests.mark());
        assert!(service.requests.find(seen + 1, |_| true).await.is_some());
        assert_eq!(daemon.statuses(0, "web").len(), told, "{}", daemon.report());
        let shown = String::from_utf8(daemon.cli(&["status"]).await.stdout).unwrap();
        assert!(shown.contains("! web") && shown.contains("up, failing"), "{shown}");
        assert!(shown.contains("web fails its health check, ") && shown.contains(&words), "{shown}");
        let answer = daemon.get("/health").await.json();
        assert_eq!((&answer["up"], &answer["failing"]), (&1.into(), &1.into()));

        let mark = daemon.mark();
        service.answers(good);
        let passing = wait_health(&daemon, mark, HealthState::Passing).await;
        assert_eq!((passing.state, passing.pid, passing.restarts), (StateName::Up, up.pid, 0));
    }
    assert_eq!(daemon.get("/health").await.json()["failing"], 0);
    assert_eq!(time_waits(&lab).await, "", "a check keeps no port");
    let healths = daemon.statuses(0, "web").len();
    // The service has seen more checks than /events has told of: one that changes nothing is no news.
    let seen = service.requests.mark();
    let next = service.requests.find(seen + 1, |_| true).await;
    assert!(next.is_some());
    assert_eq!(daemon.statuses(0, "web").len(), healths);
    assert!(health(&daemon.status("web").await).checked > health(&up).checked);
}

#[tokio::test]
async fn a_service_that_does_not_answer_in_time_and_one_that_speaks_no_http_fail() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let service = Service::start(0).await;
    let daemon =
        Daemon::start(&lab, &web("{http: /, every: 1s, timeout: 200ms, failures: 1, action: mark}")).await;
    let failing = wait_health(&daemon, 0, HealthState::Failing).await;
    let error = health(&failing).last_error.clone().unwrap();
    assert_eq!(error.kind, CheckErrorKind::Timeout);
    assert!(
        error.message.starts_with("GET / on 127.0.0.1:9443 was not answered within 200ms: "),
        "{error:?}"
    );
    // Its connection is closed, or the service would wait for more.
    service.answers(200);
    wait_health(&daemon, 0, HealthState::Passing).await;

    let mark = daemon.mark();
    let config = web("{http: /, every: 1s, failures: 1, action: mark}").replace("8000", "2222");
    lab.write_config(&config);
    let failing = wait_health(&daemon, mark, HealthState::Failing).await;
    let error = health(&failing).last_error.clone().unwrap();
    assert_eq!(error.kind, CheckErrorKind::Answer, "sshd greets: {error:?}");
}

#[tokio::test]
async fn a_program_says_whether_the_tunnel_is_well_and_nothing_that_it_starts_is_left() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let file = lab.path("well");
    let script = format!(
        "test -e {} || {{ setsid sleep 1000 & (trap \"\" TERM; sleep 1000) & echo first; echo $PORTWARD_TUNNEL at \
         $PORTWARD_LISTEN $OWN >&2; exit 3; }}",
        file.display()
    );
    let tunnel = format!(
        "{}    env: {{OWN: is ill}}\n",
        web(&format!("{{command: [/bin/sh, -c, '{script}'], every: 2s, failures: 1, action: mark}}"))
    );
    let daemon = Daemon::start(&lab, &tunnel).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    let failing = wait_health(&daemon, 0, HealthState::Failing).await;
    let error = health(&failing).last_error.clone().unwrap();
    assert_eq!(error.kind, CheckErrorKind::Exited);
    let words = "/bin/sh ended with status 3, and said: web at 127.0.0.1:9443 is ill; run it by hand with \
                 PORTWARD_LISTEN=127.0.0.1:9443";
    assert!(error.message.starts_with(words), "{error:?}");

    let mark = daemon.mark();
    fs::write(&file, "").unwrap();
    let passing = wait_health(&daemon, mark, HealthState::Passing).await;
    assert_eq!((passing.pid, passing.restarts), (up.pid, 0), "a mark restarts nothing");
    // A check begins when nothing of the one before is left, and the last one has started nothing.
    let left = lab.daemon_processes().into_iter().filter(|process| process.executable.ends_with("sleep"));
    assert_eq!(left.map(|process| process.to_string()).collect::<Vec<_>>(), Vec::<String>::new());
    assert_eq!(daemon.post("/stop/web?timeout=20s").await.status, 200);
    daemon.assert_alone();
    let stopped = daemon.status("web").await;
    assert_eq!(
        health(&stopped),
        &TunnelHealth { state: HealthState::Unknown, failures: 0, last_error: None, checked: None }
    );
}

/// A check that tells the test that it runs, and does not end.
const ENDLESS: &str = "{command: [/bin/sh, -c, 'setsid sleep 1000 & exec socat -u TCP:127.0.0.1:7001 -'], every: 1s, failures: 1, action: mark}";

#[tokio::test]
async fn a_program_that_does_not_end_in_time_is_killed_with_all_that_it_has_started() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let telling = TcpListener::bind(("127.0.0.1", TELLING_PORT)).await.unwrap();
    let daemon = Daemon::start(&lab, &web(ENDLESS)).await;
    let (mut first, _) = within_deadline("a check", telling.accept()).await.unwrap();
    let failing = wait_health(&daemon, 0, HealthState::Failing).await;
    let error = health(&failing).last_error.clone().unwrap();
    assert_eq!(error.kind, CheckErrorKind::Timeout);
    assert!(error.message.starts_with("/bin/sh did not end within 1s and was killed; "), "{error:?}");
    let read = within_deadline("its end", first.read(&mut [0; 1])).await;
    assert!(!matches!(read, Ok(1..)), "{read:?}");

    // One at a time, and none is left by a stop in its midst.
    let (_second, _) = within_deadline("the next check", telling.accept()).await.unwrap();
    assert_eq!(daemon.post("/stop/web?timeout=20s").await.status, 200);
    daemon.assert_alone();

    // Nor by the end of the daemon.
    assert_eq!(daemon.post("/start/web?timeout=20s").await.status, 200);
    let (_third, _) = within_deadline("a check", telling.accept()).await.unwrap();
    let ended = daemon.stop().await;
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(lab.daemon_processes().len(), 0, "{:?}", lab.daemon_processes());
}

#[tokio::test]
async fn a_command_that_leads_nowhere_is_started_again() {
    let lab = Lab::new();
    let tunnel = "
  - name: web
    command: [socat, 'TCP-LISTEN:9443,fork,reuseaddr', 'TCP:127.0.0.1:8000']
    local_port: 9443
    health: {connect: true, every: 1s, failures: 2}
";
    let daemon = Daemon::start(&lab, tunnel).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    let anew = daemon.wait_up_anew(0, "web", up.pid).await;
    assert_eq!(health(&anew).last_error.as_ref().map(|error| error.kind), Some(CheckErrorKind::Closed));
    let mark = daemon.mark();
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    wait_health(&daemon, mark, HealthState::Passing).await;
}

#[tokio::test]
async fn a_socks_proxy_is_asked_whether_it_answers() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let tunnel = "
  - name: web
    remote_host: server
    direction: dynamic
    local_port: 9443
    stop_grace: 60s
    health: {connect: true, every: 1s, timeout: 200ms, failures: 1, action: mark}
";
    let daemon = Daemon::start(&lab, tunnel).await;
    let passing = wait_health(&daemon, 0, HealthState::Passing).await;
    assert_eq!(time_waits(&lab).await, "", "a check keeps no port");
    let mark = daemon.mark();
    kill(passing.pid.unwrap(), Signal::SIGSTOP);
    let failing = wait_health(&daemon, mark, HealthState::Failing).await;
    assert_eq!(health(&failing).last_error.as_ref().map(|error| error.kind), Some(CheckErrorKind::Timeout));
    let mark = daemon.mark();
    kill(passing.pid.unwrap(), Signal::SIGCONT);
    let again = wait_health(&daemon, mark, HealthState::Passing).await;
    assert_eq!((again.pid, again.restarts), (passing.pid, 0));
}

#[tokio::test]
async fn a_remote_forward_is_checked_by_a_program_that_is_told_of_no_listener() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let tunnel = "
  - name: web
    remote_host: server
    direction: local_to_remote
    remote_port: 9443
    local_port: 127.0.0.1:8000
    env: {PORTWARD_LISTEN: leaked}
    health: {command: [/bin/sh, -c, 'echo $PORTWARD_TUNNEL at ${PORTWARD_LISTEN-nowhere}; exit 1'], every: 1s, failures: 1, action: mark}
";
    let daemon = Daemon::start(&lab, tunnel).await;
    let failing = wait_health(&daemon, 0, HealthState::Failing).await;
    let message = health(&failing).last_error.clone().unwrap().message;
    assert!(message.contains("and said: web at nowhere; run it by hand to see more"), "{message}");
}

#[tokio::test]
async fn a_change_of_the_checks_restarts_nothing_and_without_any_there_is_no_health() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, &web("{connect: true, every: 1s, failures: 1, action: mark}")).await;
    let failing = wait_health(&daemon, 0, HealthState::Failing).await;

    let mark = daemon.mark();
    lab.write_config(&web("{command: [/bin/true], every: 1s, failures: 1, action: mark}"));
    let unknown = wait_health(&daemon, mark, HealthState::Unknown).await;
    assert_eq!(health(&unknown).last_error, None, "what was found before is no finding of these");
    wait_health(&daemon, mark, HealthState::Passing).await;

    let (mark, log) = (daemon.mark(), daemon.log().mark());
    lab.write_config(
        &web("connect").lines().filter(|line| !line.contains("health:")).collect::<Vec<_>>().join("\n"),
    );
    let without = daemon.wait_status(mark, "web", "without health", |status| status.health.is_none()).await;
    let answer = daemon.get("/status").await;
    assert!(!answer.body.contains("\"health\""), "{answer:?}");

    let mark = daemon.mark();
    lab.write_config(&web("{command: [/bin/true], every: 1s}"));
    let passing = wait_health(&daemon, mark, HealthState::Passing).await;
    for status in [&unknown, &without, &passing] {
        assert_eq!((status.state, status.pid), (StateName::Up, failing.pid));
    }
    assert_eq!(lab.ssh_starts().len(), 1);
    assert!(!daemon.log().since(log).iter().any(|line| is_told(line, "failed")));
}
