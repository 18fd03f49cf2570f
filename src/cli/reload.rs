//! `portward reload`.

use std::time::Duration;

use hyper::StatusCode;

use super::arguments::ReloadArguments;
use super::client::Client;
use super::failure::Failed;
use super::output;
use crate::daemon::handle::ReloadReport;
use crate::text;

/// Prints what the reload did, or would do.
pub(super) async fn reload(client: &Client, arguments: &ReloadArguments) -> Result<(), Failed> {
    let answer = client.post(&format!("/reload?dry_run={}", arguments.dry_run), Duration::ZERO).await?;
    if answer.status != StatusCode::OK {
        return Err(client.refusal(&answer));
    }
    Ok(output::print(&render(&client.parse(&answer.body)?))?)
}

fn render(report: &ReloadReport) -> String {
    let lists = [
        ("added", &report.added),
        ("removed", &report.removed),
        ("changed", &report.changed),
        ("unchanged", &report.unchanged),
    ];
    let line = |(word, names): (&str, &Vec<String>)| {
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        format!("{:<11}{}", format!("{word}:"), text::line(&names))
    };
    lists.map(line).join("\n")
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
        };
        insta::assert_snapshot!(render(&report), @r"
        added:     wiki, home
        removed:   none
        changed:   database
        unchanged: web
        ");
    }
}
