//! `portward doctor`.

use std::fmt::Write;
use std::path::PathBuf;

use owo_colors::{OwoColorize, Style};

use super::arguments::DoctorArguments;
use super::failure::Failed;
use super::output;
use crate::doctor::{self, Finding, Level, Report};
use crate::paths;
use crate::text;

/// Letters of the longest word of a check, and two more.
const CHECK_WIDTH: usize = 18;

/// Says what would make a tunnel fail; fails if anything does.
pub(super) async fn doctor(arguments: DoctorArguments, socket: Option<PathBuf>) -> Result<(), Failed> {
    let config = arguments.file.unwrap_or_else(paths::config);
    let report =
        doctor::examine(&config, socket).await.map_err(|error| Failed::NotDone(error.to_string()))?;
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

/// What is well in a line each; then what is not, the worst last, where it is seen. Ends without a line end.
fn render(report: &Report) -> String {
    let judged = text::line(&report.judged).into_owned();
    let mut text = format!("Judged: {judged}.\n\n");
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
            finding.check,
            text::line(&finding.what)
        );
        for (name, lines) in [("why", &finding.why), ("mend", &finding.mend)] {
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
    let outcome =
        if errors > 0 { "a tunnel would fail" } else { "nothing found that would make a tunnel fail" };
    format!("{}, {}: {outcome}.", plural(errors, "error"), plural(warnings, "warning"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Check;

    fn finding(check: Check, level: Level, what: &str, mend: &str) -> Finding {
        let bad = level != Level::Ok;
        Finding {
            check,
            level,
            tunnels: Vec::new(),
            ports: Vec::new(),
            what: what.to_owned(),
            why: bad.then(|| "it matters".to_owned()),
            mend: bad.then(|| mend.to_owned()),
        }
    }

    fn rendered(findings: Vec<Finding>) -> String {
        let report = Report { judged: "the daemon (pid 812, user root)".to_owned(), findings };
        anstream::adapter::strip_str(&render(&report)).to_string()
    }

    #[test]
    fn the_worst_comes_last_with_the_line_that_mends_it() {
        let text = rendered(vec![
            finding(Check::Configuration, Level::Ok, "/etc/portward/config.yaml is valid: 2 tunnels", ""),
            finding(
                Check::HeldPorts,
                Level::Error,
                "held by pid 7 (evil\u{1b}[2J) of user root",
                "sudo kill 7",
            ),
            finding(
                Check::EphemeralPorts,
                Level::Warning,
                "a port lies there",
                "sysctl -w a=1\nsysctl -w b=2",
            ),
            finding(Check::Journal, Level::Ok, "the journal takes log lines", ""),
        ]);
        insta::assert_snapshot!(text, @r"
        Judged: the daemon (pid 812, user root).

        ok       configuration     /etc/portward/config.yaml is valid: 2 tunnels
        ok       journal           the journal takes log lines

        warning  ephemeral_ports   a port lies there
                 why               it matters
                 mend              sysctl -w a=1
                                   sysctl -w b=2

        error    held_ports        held by pid 7 (evil\u{1b}[2J) of user root
                 why               it matters
                 mend              sudo kill 7

        1 error, 1 warning: a tunnel would fail.
        ");
    }

    #[test]
    fn a_healthy_machine_is_told_in_a_line_each() {
        let text = rendered(vec![finding(Check::Ssh, Level::Ok, "`ssh` is OpenSSH_9.2p1", "")]);
        insta::assert_snapshot!(text, @r"
        Judged: the daemon (pid 812, user root).

        ok       ssh               `ssh` is OpenSSH_9.2p1

        no errors, no warnings: nothing found that would make a tunnel fail.
        ");
    }
}
