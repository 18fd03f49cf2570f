//! `portward events`: one line for each change.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::arguments::EventsArguments;
use super::client::Client;
use super::failure::Failed;
use super::output;
use crate::protocol::wording::explain;
use crate::protocol::{Change, ConnectionErrors, SentEvent, Snapshot, TunnelHealth, TunnelStatus};
use crate::text;

/// Prints each change as it happens, until the daemon ends.
pub(super) async fn events(client: &Client, arguments: &EventsArguments) -> Result<(), Failed> {
    let mut stream = client.follow("/events").await?;
    let mut snapshot = Snapshot::default();
    loop {
        let event = stream.next().await?;
        if arguments.json {
            let SentEvent { name, data } = event;
            output::print(&text::json(&format!("{{\"event\":\"{name}\",\"data\":{data}}}")))?;
            continue;
        }
        let Some(change) = client.parse_change(&event)? else { continue };
        for line in describe(&change, &snapshot, &TimeZone::system()) {
            output::print(&text::lines(&line))?;
        }
        change.apply(&mut snapshot);
    }
}

/// The lines for a change; `before` knows the names of tunnels that are gone.
fn describe(change: &Change, before: &Snapshot, zone: &TimeZone) -> Vec<String> {
    match change {
        Change::Snapshot(snapshot) => {
            let config = snapshot.config_error.as_ref().map(|error| not_in_force(error));
            let tunnels = snapshot.tunnels.iter().map(|tunnel| describe_tunnel(tunnel, zone));
            tunnels.chain(config).chain(snapshot.warnings.iter().map(|text| warning(text))).collect()
        }
        Change::Tunnel(tunnel) => {
            let known = before.tunnels.iter().find(|known| known.hash == tunnel.hash);
            let errors = tunnel.connection_errors.as_ref();
            let is_new =
                |_: &&ConnectionErrors| known.is_none_or(|known| known.connection_errors.as_ref() != errors);
            let failed = errors.filter(is_new).map(|ConnectionErrors { count, last }| {
                format!("; connections of clients that failed: {count}, the last: {}", last.message)
            });
            let is_found =
                |health: &&TunnelHealth| known.is_none_or(|known| known.health.as_ref() != Some(*health));
            let health = tunnel.health.as_ref().filter(is_found).map(describe_health);
            vec![describe_tunnel(tunnel, zone) + &health.unwrap_or_default() + &failed.unwrap_or_default()]
        }
        Change::Removed { hash } => {
            let name = before.tunnels.iter().find(|tunnel| tunnel.hash == *hash);
            vec![format!("{}: removed", name.map_or(hash, |tunnel| &tunnel.name))]
        }
        Change::Config { error: Some(error) } => vec![not_in_force(error)],
        Change::Config { error: None } => vec!["the configuration is in force".to_owned()],
        Change::Warnings(warnings) if warnings.is_empty() => vec!["no warnings are left".to_owned()],
        Change::Warnings(warnings) => warnings.iter().map(|text| warning(text)).collect(),
    }
}

fn warning(text: &str) -> String {
    format!("warning: {text}")
}

fn describe_tunnel(tunnel: &TunnelStatus, zone: &TimeZone) -> String {
    let since = tunnel.since.to_zoned(zone.clone()).strftime("%F %T");
    let pid = tunnel.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    let why = explain(tunnel, Timestamp::now()).map(|text| format!("; {text}")).unwrap_or_default();
    format!("{since} {}: {}{pid}{why}", tunnel.name, tunnel.state)
}

fn describe_health(health: &TunnelHealth) -> String {
    let why = health.last_error.as_ref().map(|error| format!(" ({})", error.message)).unwrap_or_default();
    let row = match health.failures {
        0 => String::new(),
        1 => ", 1 failed check".to_owned(),
        failures => format!(", {failures} failed checks in a row"),
    };
    format!("; health: {}{row}{why}", health.state.as_str())
}

fn not_in_force(error: &str) -> String {
    format!("the configuration has errors, and what they are in was not applied:\n{error}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::protocol::tests::tunnel;
    use crate::protocol::{CheckError, CheckErrorKind, Failure, FailureKind, HealthState, StateName};

    #[test]
    fn what_health_checks_have_shown_is_told_when_it_changes() {
        let of = |state: HealthState, failures: u32| TunnelStatus {
            health: Some(TunnelHealth {
                state,
                failures,
                last_error: (failures > 0).then(|| CheckError::new(CheckErrorKind::Timeout, "no answer")),
                checked: None,
            }),
            ..tunnel("database")
        };
        let passing = of(HealthState::Passing, 0);
        let before = Snapshot { tunnels: vec![passing.clone()], ..Snapshot::default() };
        let line = |status: TunnelStatus| {
            describe(&Change::Tunnel(Arc::new(status)), &before, &TimeZone::UTC).concat()
        };
        assert!(line(passing).ends_with("up, pid 4711"));
        assert!(line(of(HealthState::Passing, 1)).ends_with("; health: passing, 1 failed check (no answer)"));
        let failing = line(of(HealthState::Failing, 3));
        assert!(failing.ends_with("; health: failing, 3 failed checks in a row (no answer)"), "{failing}");
    }

    #[test]
    fn each_change_is_a_line_with_its_reason() {
        let mut failing = tunnel("database");
        failing.state = StateName::Backoff;
        failing.pid = None;
        failing.last_error = Some(Failure::new(FailureKind::Network, "the connection was reset"));
        let before = Snapshot { tunnels: vec![tunnel("database")], ..Snapshot::default() };
        let changes = [
            Change::Tunnel(Arc::new(tunnel("database"))),
            Change::Tunnel(Arc::new(failing)),
            Change::Removed { hash: before.tunnels[0].hash.clone() },
            Change::Config { error: None },
            Change::Config { error: Some("line 3: unknown key".to_owned()) },
            Change::Warnings(vec!["changes are not noticed".to_owned()]),
            Change::Warnings(Vec::new()),
        ];
        let lines: Vec<String> =
            changes.iter().flat_map(|change| describe(change, &before, &TimeZone::UTC)).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        2026-11-24 10:00:00 database: up, pid 4711
        2026-11-24 10:00:00 database: backoff; failed (network: the connection was reset). portward tries again by itself.
        database: removed
        the configuration is in force
        the configuration has errors, and what they are in was not applied:
        line 3: unknown key
        warning: changes are not noticed
        no warnings are left
        ");
    }
}
