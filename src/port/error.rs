//! What can go wrong when the kernel is asked about ports.

use std::io;

use super::{Endpoint, Protocol};

/// Why the kernel could not be asked, or why an endpoint can never be bound as things stand.
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
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel does not tell of the protocol's sockets.
    #[error("the kernel cannot tell about {name} sockets: `modprobe {0}_diag` loads what is missing", name = .0.name())]
    NotTold(Protocol),
    /// The kernel refused a dump.
    #[error("sock_diag netlink: the kernel refused the dump: {0}")]
    Refused(#[source] io::Error),
    /// No attempt at a dump gave a whole picture, because the table changed under it or messages were lost.
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
    /// The trial bind failed for a reason that says nothing about who holds the endpoint.
    #[error("{endpoint}: trial bind: {source}")]
    TrialBind {
        /// The endpoint asked for.
        endpoint: Endpoint,
        /// What the kernel said.
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
