//! The words about ports of a server: why it does not listen, and that it listens elsewhere than was asked for.

use std::net::{IpAddr, SocketAddr};

use crate::config::desired::{Forward, RemoteListen, SshTunnel, Work};
use crate::core::{Failure, FailureKind};
use crate::ssh::server::ServerListener;

/// What is known of who has a port that a server does not listen on.
#[derive(Debug)]
pub(super) enum Who {
    /// It was not asked.
    Unasked,
    /// It may not be asked: `remote_port_recovery: off`.
    Off,
    /// It cannot be asked.
    Hidden,
    /// These listen on it.
    Seen(Vec<ServerListener>),
}

/// Why `destination` does not listen on its port; `said` is what it answered.
pub(super) fn refused(destination: &str, port: u16, said: &str, who: &Who) -> Failure {
    let below_1024 =
        if port < 1024 { ", or the user there is not root, as ports below 1024 need" } else { "" };
    let forbids = format!(
        "its sshd forbids it (AllowTcpForwarding no or local, PermitListen and DisableForwarding in sshd_config; \
         `permitlisten` and `restrict` in authorized_keys){below_1024}"
    );
    let ss = format!("`ss -ltnp 'sport = :{port}'` shows by whom");
    let old = "the server's old connection may still hold it; ClientAliveInterval and ClientAliveCountMax in its \
               sshd_config decide when that ends";
    let why = match who {
        Who::Unasked => format!("it is taken there ({ss}), {forbids}"),
        Who::Off => format!(
            "it is taken there ({ss}), {forbids}. With `remote_port_recovery: off` portward only tries again: {old}"
        ),
        Who::Hidden => format!(
            "it is taken there ({ss}), {forbids}. The account has not run a command that shows it (no shell, a forced \
             command, or not Linux), so that portward only tries again: {old}"
        ),
        Who::Seen(listeners) if listeners.is_empty() => format!("nobody listens on it there, so {forbids}"),
        Who::Seen(listeners) => {
            let mut holders: Vec<_> = listeners.iter().map(ToString::to_string).collect();
            holders.sort_unstable();
            holders.dedup();
            let holders = holders.join(" and by ");
            if listeners.iter().all(|listener| listener.holder.is_some()) {
                format!("it is held there by {holders}; end that, or choose another `remote_port`")
            } else {
                format!(
                    "it is held there by {holders}: root sees it with `ss -ltnp 'sport = :{port}'`; {old}"
                )
            }
        }
    };
    Failure::new(
        FailureKind::RemotePortHeld,
        format!("{destination} does not listen on its port {port} ({said}): {why}"),
    )
}

/// What a person should know of where the server listens for a tunnel that is up. `listens`: on these addresses; `None`: it is not
/// known.
pub(super) fn note(work: &Work, listens: Option<&[SocketAddr]>) -> Option<String> {
    let Work::Ssh(SshTunnel {
        ssh,
        forward: Forward::Remote { listen: RemoteListen::Ports { bind, ports }, .. },
    }) = work
    else {
        return None;
    };
    let (destination, port) = (&ssh.destination, ports.first());
    let bind = bind.as_deref().unwrap_or("localhost");
    let address = bind.parse::<IpAddr>().ok();
    let is_loopback = bind == "localhost" || address.is_some_and(|address| address.is_loopback());
    let is_wildcard = matches!(bind, "" | "*") || address.is_some_and(|address| address.is_unspecified());
    let Some(listens) = listens else {
        return (!is_loopback).then(|| {
            format!(
                "{destination} took the request to listen on {bind} port {ports}, and does not say where it listens: with \
                 `GatewayPorts no`, sshd's default, on its loopback only. See `ss -ltn 'sport = :{port}'` there; \
                 `GatewayPorts clientspecified` in its sshd_config makes it follow"
            )
        });
    };
    let mut where_it_is: Vec<_> = listens.iter().map(|address| address.ip().to_string()).collect();
    where_it_is.sort_unstable();
    where_it_is.dedup();
    let where_it_is = where_it_is.join(" and ");
    let asked =
        format!("{destination} was asked to listen on {bind} port {ports}, and listens on {where_it_is}");
    let follow = "`GatewayPorts clientspecified` in its sshd_config makes it follow";
    if !is_loopback && listens.iter().all(|address| address.ip().is_loopback()) {
        return Some(format!(
            "{asked}: only clients on the server itself get through, because of `GatewayPorts no`, sshd's default; {follow}"
        ));
    }
    if !is_wildcard && listens.iter().any(|address| address.ip().is_unspecified()) {
        return Some(format!(
            "{asked}: whoever reaches the server gets through, because of `GatewayPorts yes`; {follow}"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(remote_port: &str, listens: Option<&[&str]>) -> Option<String> {
        let text = format!(
            "tunnels:\n  - {{remote_host: db, remote_port: '{remote_port}', local_port: 80, direction: local_to_remote}}\n"
        );
        let parsed = crate::config::parse(&text, std::path::Path::new("config.yaml")).unwrap();
        let listens =
            listens.map(|listens| listens.iter().map(|address| address.parse().unwrap()).collect::<Vec<_>>());
        note(&parsed.tunnels[0].work, listens.as_deref())
    }

    #[test]
    fn a_server_that_listens_for_fewer_or_more_than_was_asked_for_is_noted() {
        let (loopback, all) = (["127.0.0.1:9500", "[::1]:9500"], ["0.0.0.0:9500", "[::]:9500"]);
        for (remote_port, listens, expected) in [
            ("9500", None, None),
            ("127.0.0.1:9500", None, None),
            ("0.0.0.0:9500", None, Some("does not say")),
            ("9500", Some(&loopback), None),
            ("9500", Some(&all), Some("0.0.0.0 and ::: whoever reaches")),
            ("0.0.0.0:9500", Some(&loopback), Some("127.0.0.1 and ::1: only clients on the server")),
            ("10.0.0.1:9500", Some(&loopback), Some("only clients on the server")),
            ("0.0.0.0:9500", Some(&all), None),
            ("10.0.0.1:9500", Some(&all), Some("whoever reaches")),
        ] {
            let noted = noted(remote_port, listens.map(|listens| &listens[..]));
            match expected {
                Some(expected) => {
                    assert!(noted.as_ref().is_some_and(|it| it.contains(expected)), "{noted:?}");
                }
                None => assert_eq!(noted, None, "{remote_port} {listens:?}"),
            }
        }
    }
}
