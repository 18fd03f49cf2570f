//! The tunnels as a table, and below it in full sentences what is in their way.

use std::fmt::Write;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use jiff::Timestamp;
use owo_colors::{OwoColorize, Style};

use crate::port;
use crate::protocol::wording::{elapsed, explain, remarks};
use crate::protocol::{Snapshot, StateName, TunnelStatus};
use crate::text;

/// The sign at the beginning of a row; it tells without colour as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Up,
    /// Up, and its health checks fail.
    Failing,
    OnItsWay,
    Down,
    Failed,
}

impl Sign {
    const ALL: [Self; 5] = [Self::Up, Self::Failing, Self::OnItsWay, Self::Down, Self::Failed];

    fn of(tunnel: &TunnelStatus) -> Self {
        match tunnel.state {
            StateName::Up | StateName::Replacing if tunnel.is_failing() => Self::Failing,
            StateName::Up | StateName::Replacing => Self::Up,
            StateName::AwaitingPort
            | StateName::Connecting
            | StateName::Forwarding
            | StateName::Stopping
            | StateName::Backoff => Self::OnItsWay,
            StateName::Stopped => Self::Down,
            StateName::Failed | StateName::NeedsAuth => Self::Failed,
        }
    }

    const fn letter(self) -> char {
        match self {
            Self::Up => '●',
            Self::Failing => '!',
            Self::OnItsWay => '◌',
            Self::Down => '○',
            Self::Failed => '×',
        }
    }

    const fn style(self) -> Style {
        match self {
            Self::Up => Style::new().green(),
            Self::OnItsWay => Style::new().yellow(),
            Self::Down => Style::new().dimmed(),
            Self::Failing | Self::Failed => Style::new().red().bold(),
        }
    }
}

/// A table of `tunnels`, which are among those of `snapshot`; `width` is the terminal's. Ends without a line end.
pub(super) fn render(
    snapshot: &Snapshot,
    tunnels: &[&TunnelStatus],
    now: Timestamp,
    width: Option<u16>,
) -> String {
    let mut text = if tunnels.is_empty() {
        let path = text::line(&snapshot.config_path);
        format!("No tunnels: {path} names none.")
    } else {
        coloured(&table(tunnels, now, width))
    };
    for tunnel in tunnels {
        for sentence in explain(tunnel, now).into_iter().chain(remarks(tunnel, now)) {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n\n{} {}", text::line(&tunnel.name).bold(), text::line(&sentence));
        }
    }
    if let Some(error) = &snapshot.config_error {
        let path = text::line(&snapshot.config_path);
        let head = if snapshot.tunnels.iter().any(|tunnel| tunnel.config_error.is_some()) {
            format!(
                "{path} has errors. What is valid in it is applied, and no tunnel is removed until it is fixed:"
            )
        } else {
            format!(
                "{path} was not applied, and the tunnels keep running as before. portward applies it when it is fixed:"
            )
        };
        let _ = write!(text, "\n\n{}\n{}", head.bold(), text::lines(error));
    }
    for warning in &snapshot.warnings {
        let _ = write!(text, "\n\n{} {}", "warning:".bold(), text::line(warning));
    }
    text
}

/// The column of the sign.
const SIGN: usize = 0;

/// The columns of which a part would read as something else: a state, a pid, a port.
const WHOLE: [usize; 5] = [2, 3, 4, 5, 7];

/// What the other columns take at least: the sign, and eight letters each of the names.
const LEAST_OTHERS: usize = 2 + 2 * (8 + 2);

fn table(tunnels: &[&TunnelStatus], now: Timestamp, width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    match width {
        Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    table.set_header(["", "NAME", "STATE", "SINCE", "PID", "LOCAL", "REMOTE", "RESTARTS"]);
    for tunnel in tunnels {
        table.add_row(row(tunnel, now));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    if let Some(sign) = table.column_mut(SIGN) {
        sign.set_padding((0, 1));
    }
    let contents = table.column_max_content_widths();
    let needed: usize =
        WHOLE.iter().map(|column| usize::from(contents[*column]) + 2).sum::<usize>() + LEAST_OTHERS;
    if width.is_some_and(|width| usize::from(width) >= needed) {
        for column in WHOLE {
            if let Some(column) = table.column_mut(column) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

fn row(tunnel: &TunnelStatus, now: Timestamp) -> [String; 8] {
    let text = |text: &str| text::line(text).into_owned();
    let listeners = port::concise(&tunnel.listeners).join(" ");
    let local = if listeners.is_empty() { &tunnel.local_port } else { &listeners };
    [
        Sign::of(tunnel).letter().to_string(),
        text(&tunnel.name),
        match (tunnel.is_failing(), tunnel.is_asleep()) {
            (true, _) => format!("{}, failing", tunnel.state),
            (false, true) => format!("{}, asleep", tunnel.state),
            (false, false) => tunnel.state.to_string(),
        },
        elapsed(tunnel.since, now),
        tunnel.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        text(local),
        text(&remote(tunnel)),
        tunnel.restarts.to_string(),
    ]
}

fn remote(tunnel: &TunnelStatus) -> String {
    match (tunnel.remote_host.as_str(), tunnel.remote_port.as_str()) {
        ("", _) => "-".to_owned(),
        (host, "") => host.to_owned(),
        (host, port) if port.contains(':') => format!("{port} via {host}"),
        (host, port) => format!("{host}:{port}"),
    }
}

/// Colours the header and the signs, afterwards: the table must count letters without colours.
fn coloured(table: &str) -> String {
    let mut lines = table.lines();
    let header = lines.next().unwrap_or_default().bold().to_string();
    let rows = lines.map(|line| {
        let signed = |sign: Sign| Some((sign, line.strip_prefix(sign.letter())?));
        match Sign::ALL.into_iter().find_map(signed) {
            Some((sign, rest)) => format!("{}{rest}", sign.letter().style(sign.style())),
            None => line.to_owned(),
        }
    });
    std::iter::once(header).chain(rows).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tests::{listener, tunnel};
    use crate::protocol::{CheckError, CheckErrorKind, ConnectionWord, HealthState, Holder, TunnelHealth};

    fn now() -> Timestamp {
        "2026-11-24T10:03:12Z".parse().unwrap()
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    fn snapshot() -> Snapshot {
        let waiting = TunnelStatus {
            state: StateName::AwaitingPort,
            pid: None,
            listeners: Vec::new(),
            local_port: "8081".to_owned(),
            remote_port: "wiki.internal:80".to_owned(),
            held_by: vec![listener(Holder {
                pid: Some(812),
                command: Some("nginx \u{1b}[31m".to_owned()),
                uid: 33,
                user: Some("www-data".to_owned()),
                unit: Some("nginx.service".to_owned()),
                cgroup: Some("/system.slice/nginx.service".to_owned()),
                ..Holder::default()
            })],
            ..tunnel("wiki")
        };
        let program = TunnelStatus {
            state: StateName::Stopped,
            remote_host: String::new(),
            remote_port: String::new(),
            ..tunnel("grafana")
        };
        Snapshot {
            tunnels: vec![tunnel("database"), waiting, program],
            config_path: "/etc/portward/config.yaml".to_owned(),
            ..Snapshot::default()
        }
    }

    fn rendered(snapshot: &Snapshot, width: Option<u16>) -> String {
        let tunnels: Vec<&TunnelStatus> = snapshot.tunnels.iter().collect();
        plain(&render(snapshot, &tunnels, now(), width))
    }

    #[test]
    fn a_table_and_below_it_what_is_in_the_way() {
        insta::assert_snapshot!(rendered(&snapshot(), None));
    }

    #[test]
    fn a_tunnel_that_fails_its_health_checks_is_not_shown_as_well() {
        let health = TunnelHealth {
            state: HealthState::Failing,
            failures: 3,
            last_error: Some(CheckError::new(CheckErrorKind::Timeout, "no answer")),
            checked: Some(now()),
        };
        let tunnels = vec![TunnelStatus { health: Some(health), ..tunnel("database") }];
        let text = rendered(&Snapshot { tunnels, ..snapshot() }, None);
        assert!(text.contains("\n! database  up, failing  3m12s"), "{text}");
        assert!(
            text.ends_with("database fails its health check, 3 times in a row, the last 0s ago: no answer."),
            "{text}"
        );
    }

    #[test]
    fn a_tunnel_that_sleeps_is_shown_as_up_and_asleep() {
        let connection = Some(ConnectionWord::Asleep);
        let tunnels = vec![TunnelStatus { connection, pid: None, ..tunnel("database") }];
        let text = rendered(&Snapshot { tunnels, ..snapshot() }, None);
        assert!(text.contains("\n● database  up, asleep  3m12s  -"), "{text}");
    }

    #[test]
    fn a_narrow_terminal_wraps_within_columns() {
        let text = rendered(&snapshot(), Some(72));
        let table = text.split("\n\n").next().unwrap();
        assert!(table.lines().all(|line| line.chars().count() <= 72), "{table}");
    }

    #[test]
    fn a_state_and_a_port_are_whole_on_80_columns() {
        let waiting = TunnelStatus {
            state: StateName::AwaitingPort,
            pid: Some(4_194_304),
            listeners: Vec::new(),
            local_port: "127.0.0.1:18080".to_owned(),
            remote_host: "deploy@db-server.example.org".to_owned(),
            ..tunnel("database-of-the-shop")
        };
        let text = rendered(&Snapshot { tunnels: vec![waiting], ..snapshot() }, Some(80));
        let table = text.split("\n\n").next().unwrap();
        for word in ["awaiting_port", "4194304", "127.0.0.1:18080", "RESTARTS"] {
            assert!(table.contains(word), "{table}");
        }
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    }

    #[test]
    fn a_bad_configuration_is_shown_below() {
        let config_error = Some("error: unknown key `remote_prot`\n --> config.yaml:3:5".to_owned());
        let text = rendered(&Snapshot { tunnels: Vec::new(), config_error, ..snapshot() }, None);
        insta::assert_snapshot!(text, @r"
        No tunnels: /etc/portward/config.yaml names none.

        /etc/portward/config.yaml was not applied, and the tunnels keep running as before. portward applies it when it is fixed:
        error: unknown key `remote_prot`
         --> config.yaml:3:5
        ");
    }

    #[test]
    fn signs_are_coloured_and_nothing_is_moved_by_it() {
        let text = coloured("  NAME\n● up\n× failed\n  wrapped");
        assert!(text.contains("\u{1b}[32m●\u{1b}["), "{text:?}");
        assert_eq!(plain(&text), "  NAME\n● up\n× failed\n  wrapped");
    }
}
