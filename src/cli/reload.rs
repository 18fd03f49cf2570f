//! `portward reload`.

use std::time::Duration;

use hyper::StatusCode;

use super::arguments::ReloadArguments;
use super::client::Client;
use super::failure::Failed;
use super::output;
use crate::protocol::{ReloadQuery, ReloadReport, Reloaded};
use crate::text;

/// Prints what the reload did, or would do.
pub(super) async fn reload(client: &Client, arguments: &ReloadArguments) -> Result<(), Failed> {
    let query = ReloadQuery { dry_run: arguments.dry_run };
    let answer = client.post(&format!("/reload?{query}"), Duration::ZERO).await?;
    if answer.status == StatusCode::OK {
        let Reloaded { report, .. } = client.parse(&answer.body)?;
        return Ok(output::print(&render(&report))?);
    }
    // What is valid in a file with errors is in force.
    if let Ok(Reloaded { report, .. }) = client.parse(&answer.body) {
        output::print(&render(&report))?;
    }
    Err(client.refusal(&answer))
}

fn render(report: &ReloadReport) -> String {
    let lists = [
        ("added", &report.added),
        ("removed", &report.removed),
        ("changed", &report.changed),
        ("unchanged", &report.unchanged),
    ];
    let broken = Some(("broken", &report.broken)).filter(|(_, names)| !names.is_empty());
    let line = |(word, names): (&str, &Vec<String>)| {
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        format!("{:<11}{}", format!("{word}:"), text::line(&names))
    };
    lists.into_iter().chain(broken).map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_four_kinds_are_told() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let report = ReloadReport {
            added: names(&["wiki", "home"]),
            removed: names(&[]),
            changed: names(&["database"]),
            unchanged: names(&["web"]),
            ..ReloadReport::default()
        };
        insta::assert_snapshot!(render(&report), @r"
        added:     wiki, home
        removed:   none
        changed:   database
        unchanged: web
        ");
    }
}
