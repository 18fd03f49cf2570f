//! The trial bind: asks the kernel itself, by doing what ssh does up to, but not including, listen.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Endpoint, PortError};

/// What the kernel said to a trial bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trial {
    /// It worked. It was undone at once, which is itself a destroy event on the port.
    Worked,
    /// The endpoint is in use. No event comes of that.
    InUse,
}

/// Binds a socket with SO_REUSEADDR to `endpoint` and closes it, within microseconds.
///
/// bind decides by the same rules as the check that listen repeats, so nothing is lost by not listening; and a listener,
/// however short-lived, could be connected to.
pub(super) fn bind(endpoint: &Endpoint) -> Result<Trial, PortError> {
    let refused = |source: io::Error| match source.raw_os_error() {
        Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT) => PortError::AddressNotAvailable(*endpoint),
        Some(libc::EACCES) => PortError::PermissionDenied(*endpoint),
        _ => PortError::TrialBind { endpoint: *endpoint, source },
    };
    let socket = Socket::new(Domain::for_address(endpoint.address), Type::STREAM, Some(Protocol::TCP))
        .map_err(refused)?;
    socket.set_reuse_address(true).map_err(refused)?;
    if endpoint.address.is_ipv6() {
        socket.set_only_v6(endpoint.v6only).map_err(refused)?;
    }
    match socket.bind(&endpoint.address.into()) {
        Ok(()) => Ok(Trial::Worked),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(Trial::InUse),
        Err(error) => Err(refused(error)),
    }
}

/// Whether this machine has `address`. A UDP socket asks, so that nobody who watches TCP ports is woken.
pub(super) fn is_available(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}
