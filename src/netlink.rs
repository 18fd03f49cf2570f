//! Netlink sockets that tokio waits on.

use std::io;

use netlink_sys::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A socket that does not block, with an address of the kernel's choice, in the network namespace of the calling thread.
/// Panics outside a tokio runtime.
pub(crate) fn open(protocol: isize) -> io::Result<AsyncFd<Socket>> {
    let mut socket = Socket::new(protocol)?;
    socket.set_non_blocking(true)?;
    socket.bind_auto()?;
    // SAFETY: the socket owns its open descriptor, and nothing closes or replaces it while the `AsyncFd` owns the socket.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    Ok(registered?)
}
