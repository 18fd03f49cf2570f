//! Errors of queries about ports.

use std::io;

use super::{Endpoint, Protocol};

/// Why a query failed, or why an endpoint cannot be bound even when it is free.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The netlink socket refused an operation.
    #[error(
        "sock_diag netlink: {operation}: {source}; if a sandbox is in the way, it must allow AF_NETLINK \
         (systemd: RestrictAddressFamilies=)"
    )]
    Netlink {
        /// What was being done.
        operation: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// The kernel has no sock_diag module for the protocol.
    #[error("the kernel cannot report {name} sockets: run `modprobe {0}_diag`", name = .0.name())]
    NotTold(Protocol),
    /// The kernel refused a dump.
    #[error("sock_diag netlink: the kernel refused the dump: {0}")]
    Refused(#[source] io::Error),
    /// No dump was complete, because the table changed meanwhile or messages were lost.
    #[error("sock_diag netlink: the dump was interrupted, overrun or malformed {attempts} times in a row")]
    Unsteady {
        /// How often it was tried.
        attempts: u32,
    },
    /// This machine does not have the address.
    #[error("{0}: no interface of this machine has the address; `ip addr` lists those it has")]
    AddressNotAvailable(Endpoint),
    /// This process may not bind the port.
    #[error("{0}: {hint}", hint = permission_hint(.0.port()))]
    PermissionDenied(Endpoint),
    /// The trial bind failed for a reason other than a holder.
    #[error("{endpoint}: trial bind: {source}")]
    TrialBind {
        /// The endpoint asked for.
        endpoint: Endpoint,
        /// The reason.
        source: io::Error,
    },
}

impl PortError {
    /// What makes an error of the netlink socket out of an operation's failure.
    pub(super) fn netlink(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Netlink { operation, source }
    }
}

/// The first port that needs no privilege, unless `net.ipv4.ip_unprivileged_port_start` says otherwise.
const FIRST_UNPRIVILEGED: u16 = 1024;

fn permission_hint(port: u16) -> String {
    if port < FIRST_UNPRIVILEGED {
        format!(
            "ports under 1024 need a capability: add `AmbientCapabilities=CAP_NET_BIND_SERVICE` to the systemd unit, or run \
             `sysctl net.ipv4.ip_unprivileged_port_start={port}`"
        )
    } else {
        format!(
            "portward may not bind this port: a security module forbids it (SELinux, AppArmor; `journalctl -k -g denied` \
             shows that), or `sysctl net.ipv4.ip_unprivileged_port_start` is above {port}"
        )
    }
}
