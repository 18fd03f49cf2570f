//! What is looked at, and what differs.

use std::collections::HashMap;
use std::time::Duration;

use integration_tests::{Answer, DEADLINE, Daemon, Lab, fetch_from, listens_on, process_end, request};
use portward::protocol::{FailureKind, StateName, TunnelStatus};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::row::{Outcome, Row};
use crate::world::World;

/// For so long the starts of ssh are counted.
const WINDOW: Duration = Duration::from_secs(20);
/// How long the processes of a stopped tunnel may be on their way out: the server's learn of it from the network.
const END_GRACE: Duration = Duration::from_secs(5);
/// So many tunnels are started or restarted at once: more would all be slow on a loaded machine.
pub(crate) const AT_A_TIME: usize = 12;
/// A restart of a tunnel that is being retried is not answered before this.
const RETRIED_TIMEOUT: &str = "100ms";
/// Other restarts are answered as soon as they are done.
const TIMEOUT: &str = "30s";

pub(crate) struct Checks<'a> {
    lab: &'a Lab,
    daemon: &'a Daemon<'a>,
    world: &'a World<'a>,
    /// When the start of each tunnel was asked for.
    asked: HashMap<&'static str, Instant>,
    /// The process of each tunnel that was up after the start.
    pids: HashMap<&'static str, u32>,
    problems: Vec<String>,
}

/// How a tunnel was before it was restarted.
struct Before {
    mark: usize,
    log_mark: usize,
    starts: usize,
    state: StateName,
}

impl<'a> Checks<'a> {
    pub(crate) fn new(lab: &'a Lab, daemon: &'a Daemon<'a>, world: &'a World<'a>) -> Self {
        Self { lab, daemon, world, asked: HashMap::new(), pids: HashMap::new(), problems: Vec::new() }
    }

    pub(crate) fn into_problems(self) -> Vec<String> {
        self.problems
    }

    /// Starts all tunnels, some at a time. When this returns, the first ssh of each that is to be up has got somewhere.
    pub(crate) async fn start(&mut self) {
        for rows in self.world.rows().chunks(AT_A_TIME) {
            for row in rows {
                self.asked.insert(row.name, Instant::now());
                let answer = self.daemon.post(&format!("/start/{}?timeout=0s", row.name)).await;
                let is_taken = [200, 202, 502].contains(&answer.status);
                self.expect(row, is_taken, || format!("the start was answered with {}", answer.body));
            }
            let deadline = Instant::now() + DEADLINE;
            for row in rows.iter().filter(|row| row.outcome.is_up()) {
                let is_somewhere = |status: &TunnelStatus| {
                    matches!(status.state, StateName::Up | StateName::Backoff | StateName::Failed)
                };
                // What is nowhere by then is found below.
                let _ = self.daemon.find_status(0, row.name, deadline, is_somewhere).await;
            }
        }
    }

    /// Looks at tunnels that were started, once their time is over.
    pub(crate) async fn started(&mut self, rows: &[Row]) {
        let last = rows.iter().map(|row| self.asked[row.name]).max().expect("some rows");
        // Not a wait for something: what a tunnel does in this time is what is looked at.
        tokio::time::sleep_until(last + WINDOW).await;
        let counted = self.starts_of_all();
        let now = Instant::now();
        // By now all are where they belong, unless the machine is loaded.
        let deadline = now + DEADLINE;
        for row in rows {
            let (starts, elapsed) = (counted[row.name], now - self.asked[row.name]);
            match row.outcome {
                Outcome::Carries | Outcome::Refuses => {
                    if let Some(status) = self.up(row, 0, deadline, "after the start", |_| true).await {
                        self.pids.extend(status.pid.map(|pid| (row.name, pid)));
                    }
                    let starts = self.starts_of(row);
                    self.expect(row, starts == 1, || format!("{starts} ssh started, expected 1"));
                }
                Outcome::Retried(class, pace) => {
                    self.retried(row, class, 0, deadline, "after the start").await;
                    let most = pace.most_starts(elapsed);
                    self.expect(row, starts <= most, || {
                        format!("{starts} ssh started within {elapsed:?}, expected {most} at most")
                    });
                    let fewest = pace.fewest_starts();
                    let retried = self.starts_at_least(row, fewest, deadline).await;
                    self.expect(row, retried, || {
                        format!("never tried again: {starts} ssh started, expected {fewest} at least")
                    });
                }
                Outcome::Failed => {
                    self.failed(row, deadline, "after the start").await;
                    self.expect(row, starts == 1, || format!("{starts} ssh started, expected 1"));
                }
            }
        }
    }

    /// Restarts tunnels through the API, all of them at once.
    pub(crate) async fn restarted(&mut self, rows: &[Row]) {
        let mut before = Vec::new();
        for row in rows {
            before.push(self.before_restart(row).await);
        }
        let asked: Vec<_> = rows
            .iter()
            .map(|row| {
                let timeout = match row.outcome {
                    Outcome::Retried(..) => RETRIED_TIMEOUT,
                    Outcome::Carries | Outcome::Refuses | Outcome::Failed => TIMEOUT,
                };
                let path = format!("/restart/{}?timeout={timeout}", row.name);
                let socket = self.daemon.socket().to_owned();
                tokio::spawn(async move { request(&socket, "POST", &path, "").await })
            })
            .collect();
        let deadline = Instant::now() + DEADLINE;
        for ((row, before), answer) in rows.iter().zip(before).zip(asked) {
            let answer = answer.await.expect("a restart is answered");
            self.check_restart(row, &answer, &before, deadline).await;
        }
    }

    async fn before_restart(&self, row: &Row) -> Before {
        Before {
            mark: self.daemon.mark(),
            log_mark: self.daemon.log().mark(),
            starts: self.starts_of(row),
            state: self.daemon.status(row.name).await.state,
        }
    }

    async fn check_restart(&mut self, row: &Row, answer: &Answer, before: &Before, deadline: Instant) {
        const WHEN: &str = "after the restart";
        let code = answer.status;
        match row.outcome {
            Outcome::Carries | Outcome::Refuses => {
                self.expect(row, code == 200, || format!("the restart was answered with {}", answer.body));
                let old = self.pids.get(row.name).copied();
                self.up(row, before.mark, deadline, WHEN, |status| status.pid != old).await;
                let starts = self.starts_of(row) - before.starts;
                self.expect(row, starts == 1, || format!("{starts} ssh started by the restart, expected 1"));
            }
            Outcome::Retried(class, _) => {
                self.expect(row, code != 200, || format!("the restart was answered with {}", answer.body));
                // One that is under way already is not made twice.
                let shares = before.state != StateName::Backoff;
                let again = shares || self.log_of(row, before.log_mark, "starting", deadline).await;
                self.expect(row, again, || "the restart started no ssh".to_owned());
                self.retried(row, class, before.mark, deadline, WHEN).await;
            }
            Outcome::Failed => {
                self.expect(row, code == 502, || format!("the restart was answered with {}", answer.body));
                self.failed(row, deadline, WHEN).await;
                let starts = self.starts_of(row) - before.starts;
                self.expect(row, starts == 1, || format!("{starts} ssh started by the restart, expected 1"));
            }
        }
    }

    /// Stops all tunnels: nothing of them is left, here or on the servers.
    pub(crate) async fn stopped(&mut self) {
        let answer = self.daemon.post(&format!("/stop?timeout={TIMEOUT}")).await;
        if answer.status != 200 {
            self.problems.push(format!("the stop was answered with {}", answer.body));
        }
        let rows = self.world.rows();
        for process in self.lab.daemon_processes() {
            if process.pid != self.daemon.pid() && !self.ends(process.pid).await {
                let owner =
                    rows.iter().find(|row| process.command.split([' ', ':']).any(|word| word == row.name));
                let owner = owner.map_or("a row", |row| row.name);
                self.problems.push(format!("{owner}: left after the stop: {process}"));
            }
        }
        self.world.end_half_logins();
        let listening = self.world.listening_sshds();
        for process in self.lab.sshd_processes() {
            if !listening.contains(&process.pid) && !self.ends(process.pid).await {
                self.problems.push(format!("a session is left on a server after the stop: {process}"));
            }
        }
        for socket in self.lab.sockets() {
            if socket != self.daemon.socket() {
                self.problems.push(format!("left after the stop: {}", socket.display()));
            }
        }
        for row in rows {
            let port = self.world.port(row);
            for address in ["127.0.0.1", "::1"] {
                let is_free = std::net::TcpListener::bind((address, port)).is_ok();
                self.expect(row, is_free, || format!("{address} port {port} is not free after the stop"));
            }
        }
    }

    async fn ends(&self, pid: u32) -> bool {
        tokio::time::timeout(END_GRACE, process_end(pid)).await.is_ok()
    }

    /// Expects that the tunnel is up, for the first time after `mark` with a status that is `wanted`, and does its work.
    async fn up(
        &mut self,
        row: &Row,
        mark: usize,
        deadline: Instant,
        when: &str,
        wanted: impl Fn(&TunnelStatus) -> bool,
    ) -> Option<TunnelStatus> {
        let is_up = |status: &TunnelStatus| status.state == StateName::Up && wanted(status);
        if self.daemon.find_status(mark, row.name, deadline, is_up).await.is_none() {
            let status = self.daemon.status(row.name).await;
            self.problem(row, &format!("{when} expected up, seen {}", described(&status)));
            return None;
        }
        let page = fetch_from(self.world.entrance(row), DEADLINE).await;
        let shown = if row.outcome == Outcome::Refuses {
            let is_refused = page.as_ref().is_err_and(|error| error.kind() != std::io::ErrorKind::TimedOut);
            self.expect(row, is_refused, || format!("{when} a client was not refused: {page:?}"));
            // What ssh says of a connection comes when it likes.
            let says = |status: &TunnelStatus| {
                is_up(status) && row.says.iter().all(|word| text(status).contains(word))
            };
            self.daemon.find_status(mark, row.name, deadline.min(Instant::now() + END_GRACE), says).await
        } else {
            self.expect(row, page.is_ok(), || format!("{when} the page does not come through: {page:?}"));
            None
        };
        let status = match shown {
            Some(status) => status,
            None => self.daemon.status(row.name).await,
        };
        self.expect(row, status.state == StateName::Up, || {
            format!("{when} expected up, seen {}", described(&status))
        });
        if row.outcome == Outcome::Carries {
            self.expect(row, status.last_error.is_none(), || {
                format!("{when} expected no error, seen {}", described(&status))
            });
        }
        let listeners = self.world.listeners(row);
        self.expect(row, listens_on(&status) == listeners, || {
            format!("{when} listens on {:?}, expected {listeners:?}", status.listeners)
        });
        self.check_words(row, &text(&status), when);
        for port in row.closed {
            let is_open = TcpStream::connect(("127.0.0.1", *port)).await.is_ok();
            self.expect(row, !is_open, || format!("{when} somebody listens on {port}"));
        }
        let is_there = row.absent.filter(|name| self.lab.path(name).exists());
        self.expect(row, is_there.is_none(), || format!("{when} there is {is_there:?}"));
        Some(status)
    }

    /// Expects that the tunnel failed after `mark` with this class, is tried again, and was never up.
    async fn retried(&mut self, row: &Row, class: FailureKind, mark: usize, deadline: Instant, when: &str) {
        let has_failed = |status: &TunnelStatus| {
            status.state == StateName::Backoff
                && status.last_error.as_ref().is_some_and(|failure| failure.kind == class)
        };
        let found = self.daemon.find_status(mark, row.name, deadline, has_failed).await;
        let status = self.daemon.status(row.name).await;
        self.expect(row, found.is_some(), || {
            format!("{when} expected backoff with {class}, seen {}", described(&status))
        });
        let other = self
            .daemon
            .statuses(mark, row.name)
            .into_iter()
            .find(|status| matches!(status.state, StateName::Up | StateName::Failed));
        self.expect(row, other.is_none(), || {
            format!("{when} expected backoff with {class}, seen {}", described(&other.unwrap()))
        });
        let message = found.unwrap_or(status).last_error.map(|failure| failure.message).unwrap_or_default();
        self.check_words(row, &message, when);
    }

    /// Expects that the tunnel is given up with class `config`.
    async fn failed(&mut self, row: &Row, deadline: Instant, when: &str) {
        let has_failed = |status: &TunnelStatus| status.state == StateName::Failed;
        self.daemon.find_status(0, row.name, deadline, has_failed).await;
        let status = self.daemon.status(row.name).await;
        let class = status.last_error.as_ref().map(|failure| failure.kind);
        let is_so = has_failed(&status) && class == Some(FailureKind::Config);
        self.expect(row, is_so, || {
            format!("{when} expected failed with config, seen {}", described(&status))
        });
        let message = status.last_error.map(|failure| failure.message).unwrap_or_default();
        self.check_words(row, &message, when);
    }

    fn check_words(&mut self, row: &Row, text: &str, when: &str) {
        for word in row.says {
            let word = self.world.fill(row, word);
            self.expect(row, text.contains(&word), || format!("{when} {word:?} is not said in: {text}"));
        }
        for word in row.never_says {
            self.expect(row, !text.contains(word), || format!("{when} {word:?} is said in: {text}"));
        }
    }

    /// Waits until ssh was started so often for the tunnel.
    async fn starts_at_least(&self, row: &Row, fewest: usize, deadline: Instant) -> bool {
        let mut seen = 0;
        let enough = self.daemon.log().find(0, |line| {
            seen += usize::from(line.has("event", "starting") && line.has("tunnel", row.name));
            seen >= fewest
        });
        tokio::time::timeout_at(deadline, enough).await.is_ok_and(|found| found.is_some())
    }

    /// Waits for this event of the tunnel in the log.
    async fn log_of(&self, row: &Row, mark: usize, event: &str, deadline: Instant) -> bool {
        let found =
            self.daemon.log().find(mark, |line| line.has("event", event) && line.has("tunnel", row.name));
        tokio::time::timeout_at(deadline, found).await.is_ok_and(|found| found.is_some())
    }

    /// How often ssh was started for each tunnel so far. A ProxyCommand's names another host.
    fn starts_of_all(&self) -> HashMap<&'static str, usize> {
        let lines = self.lab.ssh_starts();
        let is_to = |line: &str, destination: &str| line.rsplit(' ').next() == Some(destination);
        let count = |row: &Row| lines.iter().filter(|line| is_to(line, &row.destination())).count();
        self.world.rows().iter().map(|row| (row.name, count(row))).collect()
    }

    fn starts_of(&self, row: &Row) -> usize {
        self.starts_of_all()[row.name]
    }

    fn expect(&mut self, row: &Row, is_so: bool, otherwise: impl FnOnce() -> String) {
        if !is_so {
            self.problem(row, &otherwise());
        }
    }

    fn problem(&mut self, row: &Row, what: &str) {
        self.problems.push(format!("{}: {what}", row.name));
    }
}

/// All that the API tells of a tunnel.
fn text(status: &TunnelStatus) -> String {
    serde_json::to_string(status).unwrap()
}

fn described(status: &TunnelStatus) -> String {
    let error = status.last_error.as_ref().map_or_else(|| "no error".to_owned(), ToString::to_string);
    format!("{} ({error})", status.state)
}
