//! What a tunnel's state means to a person, and what to do about it.

use jiff::Timestamp;

use super::status::{Clients, ConnectionErrors, TunnelHealth, TunnelStatus};
use crate::core::{FailureKind, HealthState, Standby, StateName};
use crate::port::Occupant;
use crate::port::advice::{self, advice};
use crate::shell;

/// Why the tunnel is not as it should be, and the next step; `None` when there is nothing to say.
pub fn explain(tunnel: &TunnelStatus, now: Timestamp) -> Option<String> {
    let name = shell::word(&tunnel.name);
    match (tunnel.state, tunnel.held_by.first(), &tunnel.last_error) {
        (StateName::AwaitingPort, Some(_), Some(failure)) if failure.kind == FailureKind::LocalPortHeld => {
            Some(format!(
                "waits for {}: {}. It starts by itself once {} is unbound.",
                awaited(tunnel),
                failure.message,
                freed(tunnel)
            ))
        }
        (StateName::AwaitingPort, Some(occupant), _) => Some(format!(
            "waits for {}, which {}{}. It starts by itself once {} is unbound: {}.",
            awaited(tunnel),
            advice::predicate(occupant, now),
            others_held(tunnel),
            freed(tunnel),
            next_step(occupant)
        )),
        (StateName::AwaitingPort, None, _) => {
            Some(format!("waits until the kernel confirms that {} is unbound.", awaited(tunnel)))
        }
        (StateName::NeedsAuth, _, None) => {
            Some(format!("waits for a person to log in: `portward auth {name}`."))
        }
        (StateName::NeedsAuth, _, Some(failure)) => Some(format!(
            "waits for a person to log in: `portward auth {name}`. The last connection failed ({failure})."
        )),
        (StateName::Failed, _, Some(failure)) if tunnel.config_error.is_some() => {
            Some(format!("does not run ({failure}). It starts once its entry in the file is fixed."))
        }
        (StateName::Failed, _, Some(failure)) => {
            Some(format!("failed ({failure}). A retry would not help: fix it, then `portward start {name}`."))
        }
        (StateName::Up, _, Some(failure)) if tunnel.is_asleep() => {
            Some(format!("sleeps until a client comes; its last connection failed ({failure})."))
        }
        (StateName::Up | StateName::Replacing, _, Some(failure)) => {
            Some(format!("keeps its old connection; the last attempt to replace it failed ({failure})."))
        }
        (StateName::Connecting | StateName::Forwarding, _, Some(failure)) => {
            Some(format!("failed ({failure}) and is being tried again."))
        }
        (StateName::Stopped | StateName::Stopping, _, Some(failure)) => {
            Some(format!("last failed ({failure})."))
        }
        (_, _, Some(failure)) => Some(format!("failed ({failure}). portward tries again by itself.")),
        (_, _, None) => None,
    }
}

/// The port that is waited for, of a range the first one that is held; or the path of a unix socket.
fn awaited(tunnel: &TunnelStatus) -> String {
    let (_, ports) = tunnel.local_port.rsplit_once(':').unwrap_or(("", &tunnel.local_port));
    match tunnel.held_by.first() {
        _ if tunnel.local_port.contains('/') => tunnel.local_port.clone(),
        Some(occupant) if ports.contains('-') => format!("port {} of {}", occupant.port, tunnel.local_port),
        Some(_) | None => format!("port {}", tunnel.local_port),
    }
}

/// What is to become unbound, for a reader who knows which.
fn freed(tunnel: &TunnelStatus) -> &'static str {
    if tunnel.local_port.contains('/') { "the path" } else { "the port" }
}

/// The other ports of a range that are held; empty if there are none.
fn others_held(tunnel: &TunnelStatus) -> String {
    let mut ports: Vec<u16> = tunnel.held_by.iter().map(|occupant| occupant.port).collect();
    let first = ports.first().copied();
    ports.sort_unstable();
    ports.dedup();
    ports.retain(|port| Some(*port) != first);
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    match &ports[..] {
        [] => String::new(),
        [port] => format!("; port {port} is held as well"),
        ports => format!("; ports {} are held as well", ports.join(", ")),
    }
}

/// What is to be said of a tunnel whatever its state: where a server listens cannot be seen, and clients were turned away.
pub fn remarks(tunnel: &TunnelStatus, now: Timestamp) -> Vec<String> {
    let before = tunnel.config_error.iter().filter(|_| tunnel.state != StateName::Failed);
    let before =
        before.map(|error| format!("runs as before, because its entry in the file is wrong ({error})."));
    let note = tunnel.note.iter().map(|note| format!("is up as far as can be seen from here: {note}."));
    let errors = tunnel.connection_errors.iter().map(|ConnectionErrors { count, last }| {
        let ago = elapsed(last.at, now);
        let failed = if *count == 1 {
            format!("has failed one client, {ago} ago")
        } else {
            format!("has failed {count} connections of clients, the last {ago} ago")
        };
        format!("{failed}: {}.", last.message)
    });
    let standby = tunnel.standby.and_then(|standby| {
        Some(match standby {
            Standby::Ready | Standby::Connecting | Standby::Absent => return None,
            Standby::Backoff => {
                "has no standby connection: the last one failed, and another one is made later. `portward logs` shows the reason."
            }
            Standby::Failed => {
                "has no standby connection: the last one failed, and trying again would not help. `portward logs` shows the \
                 reason; fix it, then `portward restart` the tunnel."
            }
        })
    });
    let draining = match tunnel.draining {
        0 => None,
        1 => Some("has one replaced connection that carries on what its clients have begun.".to_owned()),
        more => Some(format!("has {more} replaced connections that carry on what their clients have begun.")),
    };
    let fallback = tunnel.destination.as_ref().map(|host| {
        format!(
            "goes through {host} in place of {}, which was not reached; `portward restart` tries that first again.",
            tunnel.remote_host
        )
    });
    let health = tunnel.health.iter().filter_map(|health| health_remark(tunnel, health, now));
    let standby = standby.map(str::to_owned);
    let clients = tunnel.clients.iter().filter(|clients| clients.total > 0).map(served);
    let connections = fallback.into_iter().chain(standby).chain(draining);
    before.chain(note).chain(health).chain(errors).chain(connections).chain(clients).collect()
}

/// What is to be said of failed health checks, also of those that are not enough yet to mean that the tunnel is failing.
fn health_remark(tunnel: &TunnelStatus, health: &TunnelHealth, now: Timestamp) -> Option<String> {
    let (error, checked) = (health.last_error.as_ref()?, health.checked?);
    let ago = elapsed(checked, now);
    let said = match health.state {
        HealthState::Failing if health.failures > 1 => {
            format!("fails its health check, {} times in a row, the last {ago} ago", health.failures)
        }
        HealthState::Failing => format!("fails its health check, the last {ago} ago"),
        HealthState::Unknown if tunnel.state != StateName::Up => {
            format!("failed its health check {ago} ago, before it went down")
        }
        HealthState::Unknown if health.failures == 0 => {
            format!(
                "failed its health check {ago} ago, and has a new connection since, which is not checked yet"
            )
        }
        HealthState::Unknown | HealthState::Passing => format!("failed its last health check, {ago} ago"),
    };
    Some(format!("{said}: {}.", error.message))
}

/// What went through a listener that portward holds itself.
fn served(clients: &Clients) -> String {
    let Clients { now, total, waiting, refused, bytes_sent, bytes_received } = *clients;
    format!(
        "has {now} clients now, {waiting} waiting, {total} in all, {refused} refused; they sent {} and received {}.",
        bytes(bytes_sent),
        bytes(bytes_received)
    )
}

/// A number of bytes in the largest unit of which there is at least one.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} bytes");
    }
    let mut tenths = u128::from(count) * 10 / 1024;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if tenths < 10 * 1024 {
            break;
        }
        (tenths, unit) = (tenths / 1024, larger);
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// How long ago, in its two largest units.
pub fn elapsed(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        (_, _, _) => format!("{days}d{:02}h", hours % 24),
    }
}

fn next_step(occupant: &Occupant) -> String {
    let advice = advice(occupant);
    let or_kill = if advice.can_be_killed { ", or set `on_conflict: kill`" } else { "" };
    format!("{advice}{or_kill}")
}

#[cfg(test)]
mod tests {
    use super::super::status::FailedConnection;
    use super::super::tests::{listener, tunnel};
    use super::*;
    use crate::core::{CheckError, CheckErrorKind, Failure};
    use crate::port::{Holder, OccupantKind};
    use crate::ssh::ConnectionErrorKind;

    fn now() -> Timestamp {
        "2026-11-24T10:03:12Z".parse().unwrap()
    }

    #[test]
    fn of_a_range_the_ports_that_are_held_are_named() {
        let mut waiting = TunnelStatus { state: StateName::AwaitingPort, ..tunnel("range") };
        waiting.local_port = "127.0.0.1:13300-13310".to_owned();
        let held =
            |port| crate::port::Occupant { port, ..listener(Holder { pid: Some(7), ..Holder::default() }) };
        waiting.held_by = vec![held(13306)];
        let told = explain(&waiting, now()).unwrap();
        assert!(
            told.starts_with("waits for port 13306 of 127.0.0.1:13300-13310, which is held by pid 7"),
            "{told}"
        );
        assert!(!told.contains("as well"), "{told}");
        waiting.held_by = vec![held(13306), held(13306), held(13310), held(13308)];
        let told = explain(&waiting, now()).unwrap();
        assert!(told.contains("; ports 13308, 13310 are held as well. It starts by itself"), "{told}");
    }

    #[test]
    fn a_held_port_names_its_holder_and_how_to_free_it() {
        let mut waiting = tunnel("database");
        waiting.state = StateName::AwaitingPort;
        let process = Holder {
            pid: Some(4711),
            command: Some("python3 -m http.server".to_owned()),
            uid: 1000,
            user: Some("ada".to_owned()),
            ..Holder::default()
        };
        waiting.held_by = vec![listener(process)];
        insta::assert_snapshot!(explain(&waiting, now()).unwrap());
        waiting.held_by = vec![listener(Holder { user: Some("root".to_owned()), ..Holder::default() })];
        insta::assert_snapshot!(explain(&waiting, now()).unwrap());
        let until = Some(now() + jiff::SignedDuration::from_millis(41_200));
        waiting.held_by = vec![Occupant {
            kind: OccupantKind::TimeWait,
            until,
            holder: None,
            ..listener(Holder::default())
        }];
        insta::assert_snapshot!(explain(&waiting, now()).unwrap());
        waiting.held_by =
            vec![Occupant { kind: OccupantKind::Unexplained, holder: None, ..listener(Holder::default()) }];
        insta::assert_snapshot!(explain(&waiting, now()).unwrap());
        let spared = "on_conflict: kill has ended no process, because the port would stay held by pid 4711 (systemd): that is pid 1";
        waiting.last_error = Some(Failure::new(FailureKind::LocalPortHeld, spared));
        insta::assert_snapshot!(explain(&waiting, now()).unwrap());
    }

    #[test]
    fn a_failure_says_whether_portward_tries_again() {
        let mut failed = tunnel("database");
        failed.last_error = Some(Failure::new(FailureKind::Refused, "db-server refused the connection"));
        failed.state = StateName::Backoff;
        insta::assert_snapshot!(explain(&failed, now()).unwrap(), @"failed (refused: db-server refused the connection). portward tries again by itself.");
        failed.state = StateName::Connecting;
        insta::assert_snapshot!(explain(&failed, now()).unwrap(), @"failed (refused: db-server refused the connection) and is being tried again.");
        failed.state = StateName::Failed;
        insta::assert_snapshot!(explain(&failed, now()).unwrap(), @"failed (refused: db-server refused the connection). A retry would not help: fix it, then `portward start database`.");
    }

    #[test]
    fn a_tunnel_that_sleeps_after_a_failure_says_what_it_waits_for() {
        let mut sleeping = tunnel("database");
        sleeping.connection = Some(super::super::ConnectionWord::Asleep);
        assert_eq!(explain(&sleeping, now()), None);
        sleeping.last_error = Some(Failure::new(FailureKind::Refused, "db-server refused the connection"));
        insta::assert_snapshot!(explain(&sleeping, now()).unwrap(), @"sleeps until a client comes; its last connection failed (refused: db-server refused the connection).");
    }

    #[test]
    fn a_tunnel_that_needs_a_person_says_how_to_log_in() {
        let mut waiting = TunnelStatus { state: StateName::NeedsAuth, ..tunnel("data base") };
        insta::assert_snapshot!(explain(&waiting, now()).unwrap(), @"waits for a person to log in: `portward auth 'data base'`.");
        waiting.last_error = Some(Failure::new(FailureKind::Network, "the server closed the connection"));
        insta::assert_snapshot!(explain(&waiting, now()).unwrap(), @"waits for a person to log in: `portward auth 'data base'`. The last connection failed (network: the server closed the connection).");
    }

    #[test]
    fn a_tunnel_that_is_up_needs_no_words() {
        assert_eq!(explain(&tunnel("database"), now()), None);
        assert_eq!(remarks(&tunnel("database"), now()), Vec::<String>::new());
    }

    #[test]
    fn failed_connections_are_told_beside_the_state() {
        let last = FailedConnection {
            at: now() - jiff::SignedDuration::from_secs(5),
            kind: ConnectionErrorKind::Refused,
            message: "db does not connect to localhost:1".to_owned(),
        };
        let mut up = tunnel("database");
        up.connection_errors = Some(ConnectionErrors { count: 1, last: last.clone() });
        insta::assert_snapshot!(remarks(&up, now())[0], @"has failed one client, 5s ago: db does not connect to localhost:1.");
        up.connection_errors = Some(ConnectionErrors { count: 12, last });
        insta::assert_snapshot!(remarks(&up, now())[0], @"has failed 12 connections of clients, the last 5s ago: db does not connect to localhost:1.");
    }

    #[test]
    fn clients_of_a_held_listener_are_counted_below_the_table() {
        let mut up = tunnel("database");
        up.clients = Some(Clients::default());
        assert_eq!(remarks(&up, now()), Vec::<String>::new(), "nobody came yet");
        up.clients = Some(Clients {
            now: 3,
            total: 120,
            waiting: 2,
            refused: 1,
            bytes_sent: 999,
            bytes_received: 5 << 20,
        });
        insta::assert_snapshot!(remarks(&up, now())[0], @"has 3 clients now, 2 waiting, 120 in all, 1 refused; they sent 999 bytes and received 5.0 MiB.");
        assert_eq!(
            [1024, 1536, 1 << 30, u64::MAX].map(bytes),
            ["1.0 KiB", "1.5 KiB", "1.0 GiB", "16383.9 PiB"]
        );
    }

    #[test]
    fn failed_health_checks_are_told_beside_the_state() {
        let mut up = tunnel("database");
        let error =
            CheckError::new(CheckErrorKind::Closed, "127.0.0.1:13306 accepted the connection and closed it");
        let mut health = TunnelHealth {
            state: HealthState::Failing,
            failures: 3,
            last_error: Some(error),
            checked: Some(now() - jiff::SignedDuration::from_secs(5)),
        };
        let mut remark = |health: &TunnelHealth| {
            up.health = Some(health.clone());
            remarks(&up, now())
        };
        insta::assert_snapshot!(remark(&health)[0], @"fails its health check, 3 times in a row, the last 5s ago: 127.0.0.1:13306 accepted the connection and closed it.");
        (health.state, health.failures) = (HealthState::Unknown, 0);
        insta::assert_snapshot!(remark(&health)[0], @"failed its health check 5s ago, and has a new connection since, which is not checked yet: 127.0.0.1:13306 accepted the connection and closed it.");
        (health.state, health.failures) = (HealthState::Passing, 1);
        insta::assert_snapshot!(remark(&health)[0], @"failed its last health check, 5s ago: 127.0.0.1:13306 accepted the connection and closed it.");
        health.last_error = None;
        assert_eq!(remark(&health), Vec::<String>::new());
    }

    #[test]
    fn elapsed_time_is_short() {
        let ago = |seconds: i64| elapsed(now() - jiff::SignedDuration::from_secs(seconds), now());
        assert_eq!([0, 59, 192, 3661, 360_000, -5].map(ago), ["0s", "59s", "3m12s", "1h01m", "4d04h", "0s"]);
    }
}
