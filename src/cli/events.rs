//! `portward events`: one line for each change.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::arguments::EventsArguments;
use super::client::{Client, ClientError};
use super::failure::Failed;
use super::output;
use super::sse::Event;
use crate::api::wording::explain;
use crate::daemon::snapshot::{ConnectionErrors, Snapshot, TunnelStatus};
use crate::text;

/// What the daemon tells.
#[derive(Debug)]
pub(super) enum Told {
    /// Everything, at first and when we fell behind.
    Snapshot(Snapshot),
    /// A tunnel has changed.
    Tunnel(Box<TunnelStatus>),
    /// The tunnel with this hash is gone.
    Removed(String),
    /// The configuration was read; why it is not in force, if it is not.
    Config(Option<String>),
    /// What portward itself cannot do for now.
    Warnings(Vec<String>),
    /// Something that a later version tells.
    Other,
}

#[derive(Deserialize)]
struct Removed {
    hash: String,
}

#[derive(Deserialize)]
struct ConfigRead {
    error: Option<String>,
}

impl Told {
    pub(super) fn read(client: &Client, event: &Event) -> Result<Self, ClientError> {
        let data = &event.data;
        Ok(match event.name.as_str() {
            "snapshot" => Self::Snapshot(client.parse(data)?),
            "tunnel" => Self::Tunnel(client.parse(data)?),
            "removed" => Self::Removed(client.parse::<Removed>(data)?.hash),
            "config" => Self::Config(client.parse::<ConfigRead>(data)?.error),
            "warnings" => Self::Warnings(client.parse(data)?),
            _ => Self::Other,
        })
    }

    /// Puts the change into a picture of everything.
    pub(super) fn apply(self, picture: &mut Snapshot) {
        match self {
            Self::Snapshot(snapshot) => *picture = snapshot,
            Self::Tunnel(status) => {
                match picture.tunnels.iter_mut().find(|tunnel| tunnel.hash == status.hash) {
                    Some(tunnel) => *tunnel = *status,
                    None => picture.tunnels.push(*status),
                }
            }
            Self::Removed(hash) => picture.tunnels.retain(|tunnel| tunnel.hash != hash),
            Self::Config(error) => picture.config_error = error,
            Self::Warnings(warnings) => picture.warnings = warnings,
            Self::Other => {}
        }
    }
}

/// Prints each change as it happens, until the daemon ends.
pub(super) async fn events(client: &Client, arguments: &EventsArguments) -> Result<(), Failed> {
    let mut stream = client.follow("/events").await?;
    let mut picture = Snapshot::default();
    loop {
        let event = stream.next().await?;
        if arguments.json {
            let Event { name, data } = event;
            output::print(&text::json(&format!("{{\"event\":\"{name}\",\"data\":{data}}}")))?;
            continue;
        }
        let told = Told::read(client, &event)?;
        for line in describe(&told, &picture, &TimeZone::system()) {
            output::print(&text::lines(&line))?;
        }
        told.apply(&mut picture);
    }
}

/// The lines for a change; `before` knows the names of tunnels that are gone.
fn describe(told: &Told, before: &Snapshot, zone: &TimeZone) -> Vec<String> {
    match told {
        Told::Snapshot(snapshot) => {
            let config = snapshot.config_error.as_ref().map(|error| not_in_force(error));
            let tunnels = snapshot.tunnels.iter().map(|tunnel| describe_tunnel(tunnel, zone));
            tunnels.chain(config).chain(snapshot.warnings.iter().map(|text| warning(text))).collect()
        }
        Told::Tunnel(tunnel) => {
            let known = before.tunnels.iter().find(|known| known.hash == tunnel.hash);
            let errors = tunnel.connection_errors.as_ref();
            let is_new =
                |_: &&ConnectionErrors| known.is_none_or(|known| known.connection_errors.as_ref() != errors);
            let failed = errors.filter(is_new).map(|ConnectionErrors { count, last }| {
                format!("; connections of clients that failed: {count}, the last: {}", last.message)
            });
            vec![describe_tunnel(tunnel, zone) + &failed.unwrap_or_default()]
        }
        Told::Removed(hash) => {
            let name = before.tunnels.iter().find(|tunnel| tunnel.hash == *hash);
            vec![format!("{}: removed", name.map_or(hash, |tunnel| &tunnel.name))]
        }
        Told::Config(Some(error)) => vec![not_in_force(error)],
        Told::Config(None) => vec!["the configuration is in force".to_owned()],
        Told::Warnings(warnings) if warnings.is_empty() => vec!["no warnings are left".to_owned()],
        Told::Warnings(warnings) => warnings.iter().map(|text| warning(text)).collect(),
        Told::Other => Vec::new(),
    }
}

fn warning(text: &str) -> String {
    format!("warning: {text}")
}

fn describe_tunnel(tunnel: &TunnelStatus, zone: &TimeZone) -> String {
    // What is not a time is shown as it is.
    let since = tunnel.since.parse::<Timestamp>().map_or_else(
        |_| tunnel.since.clone(),
        |since| since.to_zoned(zone.clone()).strftime("%F %T").to_string(),
    );
    let pid = tunnel.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    let why = explain(tunnel, Timestamp::now()).map(|text| format!("; {text}")).unwrap_or_default();
    format!("{since} {}: {}{pid}{why}", tunnel.name, tunnel.state)
}

fn not_in_force(error: &str) -> String {
    format!("the configuration is not in force, and what ran before goes on:\n{error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::tunnel;
    use crate::core::{Failure, FailureKind, StateName};

    fn told(name: &str, data: &serde_json::Value) -> Told {
        let event = Event { name: name.to_owned(), data: data.to_string() };
        Told::read(&Client::new("unused".into()), &event).unwrap()
    }

    #[test]
    fn each_change_is_a_line_with_its_reason() {
        let mut failing = tunnel("database");
        failing.state = StateName::Backoff;
        failing.pid = None;
        failing.last_error = Some(Failure::new(FailureKind::Network, "the connection was reset"));
        let before = Snapshot { tunnels: vec![tunnel("database")], ..Snapshot::default() };
        let hash = &before.tunnels[0].hash;
        let changes = [
            told("tunnel", &serde_json::to_value(tunnel("database")).unwrap()),
            told("tunnel", &serde_json::to_value(failing).unwrap()),
            told("removed", &serde_json::json!({"hash": hash})),
            told("config", &serde_json::json!({"error": null})),
            told("config", &serde_json::json!({"error": "line 3: unknown key"})),
            told("warnings", &serde_json::json!(["changes are not noticed"])),
            told("warnings", &serde_json::json!([])),
            told("weather", &serde_json::json!("fine")),
        ];
        let lines: Vec<String> =
            changes.iter().flat_map(|told| describe(told, &before, &TimeZone::UTC)).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        2026-11-24 10:00:00 database: up, pid 4711
        2026-11-24 10:00:00 database: backoff; failed (network: the connection was reset). portward tries again by itself.
        database: removed
        the configuration is in force
        the configuration is not in force, and what ran before goes on:
        line 3: unknown key
        warning: changes are not noticed
        no warnings are left
        ");
    }

    #[test]
    fn changes_add_up_to_a_picture() {
        let mut picture = Snapshot::default();
        let web = TunnelStatus { hash: "other".to_owned(), ..tunnel("web") };
        let down = TunnelStatus { state: StateName::Stopped, ..tunnel("database") };
        let snapshot = Snapshot { tunnels: vec![tunnel("database")], ..Snapshot::default() };
        Told::Snapshot(snapshot).apply(&mut picture);
        Told::Tunnel(Box::new(web.clone())).apply(&mut picture);
        Told::Tunnel(Box::new(down.clone())).apply(&mut picture);
        Told::Config(Some("bad".to_owned())).apply(&mut picture);
        assert_eq!(
            (&picture.tunnels, picture.config_error.as_deref()),
            (&vec![down, web.clone()], Some("bad"))
        );
        Told::Removed(tunnel("database").hash).apply(&mut picture);
        Told::Config(None).apply(&mut picture);
        assert_eq!((picture.tunnels, picture.config_error), (vec![web], None));
    }
}
