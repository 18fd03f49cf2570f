//! `portward doctor`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::StatusCode;
use owo_colors::{OwoColorize, Style};
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::arguments::DoctorArguments;
use super::client::Client;
use super::failure::{ClientError, Failed};
use super::output;
use crate::doctor::{self, By, Order};
use crate::protocol::Health;
use crate::protocol::doctor::{Finding, Level, Report, TIME_LIMIT};
use crate::{config, paths, shell, text};

/// Width of the longest name of a check, and two more.
const CHECK_WIDTH: usize = 18;

/// A daemon that needs longer than this to answer `GET /health` is not well: it takes milliseconds.
const HEALTH_PATIENCE: Duration = Duration::from_secs(5);

/// Prints what would make a tunnel fail; fails if anything would.
pub(super) async fn doctor(arguments: DoctorArguments, socket: Option<PathBuf>) -> Result<(), Failed> {
    let config = arguments.file.clone().unwrap_or_else(paths::config);
    let configured = || config::load(&config).ok().and_then(|desired| desired.api.socket);
    let socket = socket.or_else(configured).unwrap_or_else(paths::socket);
    let report = match ask(&socket, arguments.file.as_deref()).await {
        Ok(report) => report,
        Err(by) => {
            let order = Order { config, socket, reader: None, by };
            let examined = spawn_blocking(|| doctor::examine(order)).await;
            examined.map_err(|error| Failed::NotDone(error.to_string()))?
        }
    };
    let text = if arguments.json {
        let json = serde_json::to_string(&report.findings);
        text::json(&json.map_err(|error| Failed::NotDone(error.to_string()))?)
    } else {
        render(&report)
    };
    output::print(&text)?;
    let is_fatal = report.findings.iter().any(|finding| finding.level == Level::Error);
    if is_fatal { Err(Failed::Said) } else { Ok(()) }
}

/// Asks the daemon to examine itself. If that is not possible, the error says how to examine this process instead.
async fn ask(socket: &Path, file: Option<&Path>) -> Result<Report, By> {
    let client = Client::new(socket.to_owned());
    let health = match timeout(HEALTH_PATIENCE, client.ask_get("/health", Duration::ZERO)).await {
        Ok(Ok(answer)) if answer.status == StatusCode::OK => client.parse::<Health>(&answer.body),
        Ok(Ok(answer)) => return Err(refused(socket, answer.status, &client.refusal(&answer)).await),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ClientError::Silent { socket: socket.to_owned() }),
    };
    let health = match health {
        Ok(health) => health,
        Err(error) => return Err(unreachable(socket, &error).await),
    };
    if let Some(file) = file.filter(|file| !doctor::is_same_file(file, Path::new(&health.config_path))) {
        let Health { pid, config_path, .. } = health;
        let reason = format!("the running daemon, pid {pid}, reads {config_path}");
        let finding = Finding::ok(format!("{reason}, and not {}", file.display()));
        return Err(By::Command { reason, daemon: Some(pid), finding });
    }
    let path = format!("/doctor?uid={}", nix::unistd::geteuid());
    match client.ask_get(&path, TIME_LIMIT).await {
        Ok(answer) if answer.status == StatusCode::OK => match client.parse(&answer.body) {
            Ok(report) => Ok(report),
            Err(error) => Err(unreachable(socket, &error).await),
        },
        Ok(answer) => Err(refused(socket, answer.status, &client.refusal(&answer)).await),
        Err(error) => Err(unreachable(socket, &error).await),
    }
}

/// The daemon does not answer.
async fn unreachable(socket: &Path, error: &ClientError) -> By {
    if let ClientError::NoDaemon { .. } = error {
        let reason = format!("no daemon is running at {}", socket.display());
        return By::Command { finding: Finding::ok(reason.clone()), reason, daemon: None };
    }
    if let ClientError::NotOurs { .. } = error {
        return not_ours(socket, None);
    }
    let daemon = peer(socket).await;
    let name = name(socket, daemon);
    let finding = Finding::error(
        error.to_string(),
        "a daemon that does not answer may not restart a tunnel either",
        "systemctl restart portward  # or end it, and run `portward run` again",
    );
    By::Command { reason: format!("{name} did not answer"), daemon, finding }
}

/// The daemon answers, but not with a report.
async fn refused(socket: &Path, status: StatusCode, error: &Failed) -> By {
    let daemon = peer(socket).await;
    if status == StatusCode::FORBIDDEN {
        return not_ours(socket, daemon);
    }
    let name = name(socket, daemon);
    let (reason, why) = match status {
        StatusCode::NOT_FOUND => ("is of another version", "it cannot examine itself"),
        _ => {
            ("did not examine itself", "nothing is known about the rights and the environment of the daemon")
        }
    };
    let line = "systemctl restart portward  # or end it, and run `portward run` again";
    let finding = if status == StatusCode::NOT_FOUND {
        Finding::warning(format!("{name} {reason}"), why, line)
    } else {
        Finding::error(error.to_string(), why, line)
    };
    By::Command { reason: format!("{name} {reason}"), daemon, finding }
}

/// The daemon is for another user.
fn not_ours(socket: &Path, daemon: Option<u32>) -> By {
    let reason = format!("{} belongs to another user", name(socket, daemon));
    let finding = Finding::warning(
        &reason,
        "nothing is known about the rights and the environment of the daemon",
        format!("sudo portward --socket {} doctor", shell::path(socket)),
    );
    By::Command { reason, daemon, finding }
}

fn name(socket: &Path, daemon: Option<u32>) -> String {
    match daemon {
        Some(pid) => format!("the running daemon, pid {pid},"),
        None => format!("the daemon at {}", socket.display()),
    }
}

/// The pid of the process that listens on the socket.
async fn peer(socket: &Path) -> Option<u32> {
    let stream = timeout(HEALTH_PATIENCE, UnixStream::connect(socket)).await.ok()?.ok()?;
    // None, or 0, if it is in another pid namespace.
    u32::try_from(stream.peer_cred().ok()?.pid()?).ok().filter(|pid| *pid != 0)
}

const fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Warning => "warning",
        Level::Error => "error",
    }
}

const fn style(level: Level) -> Style {
    match level {
        Level::Ok => Style::new().green(),
        Level::Warning => Style::new().yellow().bold(),
        Level::Error => Style::new().red().bold(),
    }
}

/// One line for each check without a problem, then the problems, the worst last. Ends without a line end.
fn render(report: &Report) -> String {
    let mut text = format!("Examined: {}.\n\n", text::line(&report.subject.to_string()));
    let mut findings: Vec<&Finding> = report.findings.iter().collect();
    findings.sort_by_key(|finding| finding.level);
    for finding in &findings {
        if finding.level != Level::Ok {
            text.push('\n');
        }
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<7}  {:<CHECK_WIDTH$}{}",
            word(finding.level).style(style(finding.level)),
            text::line(&finding.check),
            text::line(&finding.what)
        );
        for (name, lines) in [("why", &finding.why), ("fix", &finding.fix)] {
            for (index, line) in lines.iter().flat_map(|lines| lines.lines()).enumerate() {
                let name = if index == 0 { name } else { "" };
                let _ = writeln!(text, "         {:<CHECK_WIDTH$}{}", name.dimmed(), text::line(line));
            }
        }
    }
    let _ = write!(text, "\n{}", count(&findings).bold());
    text
}

fn count(findings: &[&Finding]) -> String {
    let of = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (errors, warnings) = (of(Level::Error), of(Level::Warning));
    let plural = |count: usize, what: &str| match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    let outcome = if errors > 0 {
        "a tunnel or the service would fail"
    } else {
        "nothing was found that would make a tunnel fail"
    };
    format!("{}, {}: {outcome}.", plural(errors, "error"), plural(warnings, "warning"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::doctor::Subject;

    fn rendered(findings: Vec<(&str, Finding)>) -> String {
        let with = |(check, finding): (&str, _)| Finding { check: check.to_owned(), ..finding };
        let subject = Subject::Daemon { pid: 812, user: "root".to_owned() };
        let report = Report { subject, findings: findings.into_iter().map(with).collect() };
        anstream::adapter::strip_str(&render(&report)).to_string()
    }

    #[test]
    fn the_worst_problem_comes_last_with_its_fix() {
        let text = rendered(vec![
            ("configuration", Finding::ok("/etc/portward/config.yaml is valid: 2 tunnels")),
            ("held_ports", Finding::error("held by pid 7 (evil\u{1b}[2J)", "it matters", "sudo kill 7")),
            ("ephemeral_ports", Finding::warning("a port is", "it matters", "sysctl -w a=1\nsysctl -w b=2")),
            ("unit", Finding::ok("portward.service is installed and enabled (active)")),
        ]);
        insta::assert_snapshot!(text, @r"
        Examined: the running daemon, pid 812, as user root.

        ok       configuration     /etc/portward/config.yaml is valid: 2 tunnels
        ok       unit              portward.service is installed and enabled (active)

        warning  ephemeral_ports   a port is
                 why               it matters
                 fix               sysctl -w a=1
                                   sysctl -w b=2

        error    held_ports        held by pid 7 (evil\u{1b}[2J)
                 why               it matters
                 fix               sudo kill 7

        1 error, 1 warning: a tunnel or the service would fail.
        ");
    }

    #[test]
    fn a_machine_without_problems_has_one_line_for_each_check() {
        let text = rendered(vec![("ssh", Finding::ok("the ssh programs are OpenSSH"))]);
        insta::assert_snapshot!(text, @r"
        Examined: the running daemon, pid 812, as user root.

        ok       ssh               the ssh programs are OpenSSH

        no errors, no warnings: nothing was found that would make a tunnel fail.
        ");
    }

    #[test]
    fn the_names_of_the_checks_fit_their_column() {
        assert!(doctor::CHECKS.iter().all(|check| check.name.len() < CHECK_WIDTH));
    }
}
