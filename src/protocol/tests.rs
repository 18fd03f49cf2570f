//! Examples of the types, for the tests of everybody who uses them.

use super::{Holder, Occupant, OccupantKind, Protocol, StateName, TunnelStatus, autossh_tunnel};

pub(crate) const HASH: &str = "0123456789abcdef0123456789abcdef";

/// A listener on port 13306.
pub(crate) fn listener(holder: Holder) -> Occupant {
    Occupant {
        port: 13306,
        protocol: Protocol::Tcp,
        kind: OccupantKind::Listener,
        address: ([127, 0, 0, 1], 13306).into(),
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
        since: "2026-11-24T10:00:00Z".parse().unwrap(),
        restarts: 2,
        last_error: None,
        holder: None,
        held_by: Vec::new(),
        listeners: vec!["127.0.0.1:13306".parse().unwrap(), "[::1]:13306".parse().unwrap()],
        note: None,
        connection_errors: None,
    }
}
