//! Examples of the types, for the tests of everybody who uses them.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::autossh_tunnel::{self, Configured, Listed, LogSummary};
use super::{
    Acted, Change, CheckError, CheckErrorKind, Conclusion, ConnectionErrorKind, ConnectionErrors,
    ConnectionWord, FailedConnection, Failure, FailureKind, Health, HealthState, HealthWord, Holder,
    Occupant, OccupantKind, Protocol, RecentLog, ReloadReport, Reloaded, StateName, Took, TunnelHealth,
    TunnelStatus,
};

pub(crate) const HASH: &str = "0123456789abcdef0123456789abcdef";

/// A listener on port 13306.
pub(crate) fn listener(holder: Holder) -> Occupant {
    Occupant {
        port: 13306,
        protocol: Protocol::Tcp,
        kind: OccupantKind::Listener,
        address: ([127, 0, 0, 1], 13306).into(),
        path: None,
        dual_stack: false,
        peer: None,
        time_wait_ms: None,
        until: None,
        holder: Some(holder),
    }
}

/// A tunnel that is up.
pub(crate) fn tunnel(name: &str) -> TunnelStatus {
    TunnelStatus {
        name: name.to_owned(),
        status: autossh_tunnel::Status::Running,
        local_port: "13306".to_owned(),
        remote_host: "user@db-server".to_owned(),
        remote_port: "3306".to_owned(),
        hash: HASH.to_owned(),
        log_id: "89abcdef".to_owned(),
        state: StateName::Up,
        direction: "remote_to_local".to_owned(),
        interactive: false,
        pid: Some(4711),
        shared_by: None,
        since: "2026-11-24T10:00:00Z".parse().unwrap(),
        restarts: 2,
        last_error: None,
        config_error: None,
        holder: None,
        held_by: Vec::new(),
        listeners: vec!["127.0.0.1:13306".parse().unwrap(), "[::1]:13306".parse().unwrap()],
        note: None,
        connection_errors: None,
        standby: None,
        draining: 0,
        connection: None,
        destination: None,
        health: None,
        clients: None,
    }
}

/// Clients of all languages read these: not a byte may change by accident.
fn is_written<T: Serialize + DeserializeOwned>(value: &T, json: &str) {
    let json: String = json.lines().map(str::trim_start).collect();
    assert_eq!(serde_json::to_string(value).unwrap(), json);
    let read: T = serde_json::from_str(&json).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), json);
}

#[test]
fn a_status_is_written_as_ever() {
    let mut waiting = TunnelStatus {
        state: StateName::AwaitingPort,
        status: autossh_tunnel::Status::of(StateName::AwaitingPort),
        pid: None,
        shared_by: None,
        since: "2026-11-24T10:00:00.123456789Z".parse().unwrap(),
        listeners: vec!["[fe80::1%2]:13306".parse().unwrap()],
        last_error: Some(Failure::new(FailureKind::LocalPortHeld, "held")),
        held_by: vec![listener(Holder { pid: Some(7), ..Holder::default() })],
        ..tunnel("database")
    };
    waiting.connection_errors = Some(ConnectionErrors {
        count: 2,
        last: FailedConnection {
            at: "2026-11-24T10:00:01Z".parse().unwrap(),
            kind: ConnectionErrorKind::Refused,
            message: "nothing listens".to_owned(),
        },
    });
    is_written(
        &waiting,
        r#"{"name":"database","status":"STARTING","local_port":"13306","remote_host":"user@db-server","remote_port":"3306",
           "hash":"0123456789abcdef0123456789abcdef","log_id":"89abcdef","state":"awaiting_port",
           "direction":"remote_to_local","interactive":false,"pid":null,"since":"2026-11-24T10:00:00.123456789Z",
           "restarts":2,"last_error":{"kind":"local_port_held","message":"held"},"holder":null,
           "held_by":[{"port":13306,"protocol":"tcp","kind":"listener","address":"127.0.0.1:13306","dual_stack":false,
           "peer":null,"time_wait_ms":null,"until":null,"holder":{"pid":7,"others":[],"command":null,"uid":0,"user":null,
           "started":null,"unit":null,"socket_unit":null,"container":null,"cgroup":null,"orphaned":false,
           "unowned":false,"kinship":"stranger","tunnel":null}}],
           "listeners":["[fe80::1%2]:13306"],"note":null,
           "connection_errors":{"count":2,"last":{"at":"2026-11-24T10:00:01Z","kind":"refused",
           "message":"nothing listens"}}}"#,
    );
}

#[test]
fn a_connection_is_written_of_a_tunnel_that_sleeps_alone() {
    assert!(!serde_json::to_string(&tunnel("web")).unwrap().contains(r#""connection":"#));
    let sleeping = TunnelStatus { connection: Some(ConnectionWord::Asleep), ..tunnel("web") };
    let written = serde_json::to_string(&sleeping).unwrap();
    assert!(written.contains(r#""connection":"asleep""#), "{written}");
    assert_eq!(serde_json::from_str::<TunnelStatus>(&written).unwrap(), sleeping);
}

#[test]
fn health_is_written_where_it_is_checked_alone() {
    let health = TunnelHealth {
        state: HealthState::Failing,
        failures: 3,
        last_error: Some(CheckError::new(CheckErrorKind::Closed, "closed")),
        checked: Some("2026-11-24T10:00:01Z".parse().unwrap()),
    };
    is_written(
        &health,
        r#"{"state":"failing","failures":3,"last_error":{"kind":"closed","message":"closed"},
           "checked":"2026-11-24T10:00:01Z"}"#,
    );
    let unchecked = tunnel("web");
    assert!(!serde_json::to_string(&unchecked).unwrap().contains("health"));
    let checked = TunnelStatus { health: Some(health.clone()), ..unchecked.clone() };
    assert!(serde_json::to_string(&checked).unwrap().contains(r#""health":{"state":"failing""#));

    let later = TunnelHealth {
        failures: 4,
        checked: Some("2026-11-24T10:00:31Z".parse().unwrap()),
        ..health.clone()
    };
    let next = TunnelStatus { health: Some(later.clone()), ..unchecked.clone() };
    assert!(checked.is_same_but_for_checks(&next) && !checked.is_same_but_for_checks(&unchecked));
    let passing = TunnelHealth { state: HealthState::Passing, ..later };
    assert!(!checked.is_same_but_for_checks(&TunnelStatus { health: Some(passing), ..unchecked.clone() }));
    assert!(!checked.is_same_but_for_checks(&TunnelStatus { restarts: 9, ..checked.clone() }));
}

#[test]
fn answers_are_written_as_ever() {
    let mut acted = Acted {
        status: Conclusion::Success,
        success: true,
        name: "web".to_owned(),
        tunnel_hash: "a".to_owned(),
        log_id: "b".to_owned(),
        message: "m".to_owned(),
        output: "o".to_owned(),
        state: StateName::Up,
        took: Some(Took { connect_ms: 1.5, ..Took::default() }),
        holder: None,
        last_error: None,
        error: None,
    };
    is_written(
        &acted,
        r#"{"status":"success","success":true,"name":"web","tunnel_hash":"a","log_id":"b","message":"m","output":"o",
           "state":"up","took":{"connect_ms":1.5,"release_ms":0.0,"forward_ms":0.0,"total_ms":0.0},"holder":null,
           "last_error":null}"#,
    );
    acted.error = Some("e".to_owned());
    assert!(serde_json::to_string(&acted).unwrap().ends_with(r#""last_error":null,"error":"e"}"#));
    let report = ReloadReport { added: vec!["new".to_owned()], ..ReloadReport::default() };
    is_written(
        &Reloaded { status: Conclusion::Success, dry_run: true, report },
        r#"{"status":"success","dry_run":true,"added":["new"],"removed":[],"changed":[],"unchanged":[]}"#,
    );
    let log = RecentLog {
        status: Conclusion::Success,
        tunnel_hash: "a".to_owned(),
        log: "x".to_owned(),
        lines: vec!["x".to_owned()],
        log_id: "b".to_owned(),
    };
    is_written(&log, r#"{"status":"success","tunnel_hash":"a","log":"x","lines":["x"],"log_id":"b"}"#);
    let health = Health {
        status: HealthWord::Ok,
        version: "1".to_owned(),
        pid: 2,
        tunnels: 3,
        up: 1,
        failing: 1,
        config_path: "/c".to_owned(),
        config_error: None,
        warnings: Vec::new(),
    };
    is_written(
        &health,
        r#"{"status":"ok","version":"1","pid":2,"tunnels":3,"up":1,"failing":1,"config_path":"/c","config_error":null,
           "warnings":[]}"#,
    );
    let removed = Change::Removed { hash: "a".to_owned() };
    let config = Change::Config { error: Some("e".to_owned()) };
    assert_eq!([removed.data().unwrap(), config.data().unwrap()], [r#"{"hash":"a"}"#, r#"{"error":"e"}"#]);
}

#[test]
fn the_views_of_autossh_tunnel_are_written_as_ever() {
    is_written(
        &Listed::from(&tunnel("web")),
        r#"{"name":"web","status":"NORMAL","local_port":"13306","remote_host":"user@db-server","remote_port":"3306",
           "hash":"0123456789abcdef0123456789abcdef"}"#,
    );
    is_written(
        &Configured::from(&TunnelStatus { interactive: true, ..tunnel("web") }),
        r#"{"name":"web","remote_host":"user@db-server","remote_port":"3306","local_port":"13306",
           "direction":"remote_to_local","interactive":true,"hash":"0123456789abcdef0123456789abcdef"}"#,
    );
    let text = |text: &str| text.to_owned();
    let (hash, filename, size, modified) = (text("a"), text("f"), text("1.0K"), text("2026-11-24 10:00:00"));
    is_written(
        &LogSummary { hash, filename, size, modified },
        r#"{"hash":"a","filename":"f","size":"1.0K","modified":"2026-11-24 10:00:00"}"#,
    );
}
