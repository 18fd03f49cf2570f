//! The trial bind: asks the kernel itself, by doing what ssh does up to, but not including, listen.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use nix::libc;
use socket2::{Domain, Socket, Type};

use super::{Endpoint, PortError, Protocol};

/// What the kernel said to a trial bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trial {
    /// It worked. It was undone at once, which is itself a destroy event on the port.
    Worked,
    /// The endpoint is in use. No event comes of that.
    InUse,
}

/// Binds a socket to `endpoint` and closes it, within microseconds.
///
/// TCP sockets get SO_REUSEADDR, as ssh's do. bind decides by the same rules as the check that listen repeats, so nothing is
/// lost by not listening; and a listener, however short-lived, could be connected to. UDP sockets get no SO_REUSEADDR: it
/// would let two programs have the port, of which one receives.
pub(super) fn bind(endpoint: &Endpoint) -> Result<Trial, PortError> {
    attempt(endpoint, false)
}

/// The same for an address that this machine need not have.
pub(super) fn bind_anywhere(endpoint: &Endpoint) -> Result<Trial, PortError> {
    attempt(endpoint, true)
}

fn attempt(endpoint: &Endpoint, anywhere: bool) -> Result<Trial, PortError> {
    let refused = |source: io::Error| match source.raw_os_error() {
        Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT) => PortError::AddressNotAvailable(*endpoint),
        Some(libc::EACCES) => PortError::PermissionDenied(*endpoint),
        _ => PortError::TrialBind { endpoint: *endpoint, source },
    };
    let socket = unbound(endpoint, anywhere).map_err(refused)?;
    match socket.bind(&endpoint.address.into()) {
        Ok(()) => Ok(Trial::Worked),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(Trial::InUse),
        Err(error) => Err(refused(error)),
    }
}

/// A socket to be bound to `endpoint`, with the options of the trial bind: where that works, this one does.
pub fn socket(endpoint: &Endpoint) -> io::Result<Socket> {
    unbound(endpoint, false)
}

fn unbound(endpoint: &Endpoint, anywhere: bool) -> io::Result<Socket> {
    let kind = match endpoint.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(endpoint.address), kind, None)?;
    socket.set_reuse_address(endpoint.protocol == Protocol::Tcp)?;
    if endpoint.address.is_ipv6() {
        socket.set_only_v6(endpoint.v6only)?;
        socket.set_freebind_v6(anywhere)?;
    } else {
        socket.set_freebind_v4(anywhere)?;
    }
    Ok(socket)
}

/// Whether this machine has `address`. Uses a UDP socket, so that watchers of TCP ports are not woken.
pub(super) fn is_available(address: IpAddr) -> bool {
    let refused = UdpSocket::bind(SocketAddr::new(address, 0)).err().and_then(|error| error.raw_os_error());
    // A limit that is reached says nothing about the address.
    !matches!(refused, Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}
