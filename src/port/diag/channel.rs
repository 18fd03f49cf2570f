//! The way to the kernel and back, apart from what is said: tests put answers of their own in its place.

use std::fmt;
use std::io;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddress};
use nix::libc;
use socket2::SockRef;

use super::super::PortError;

/// An answer is there when `send` returns; this only turns a kernel fault into an error.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends requests and receives datagrams.
pub(super) trait Channel: fmt::Debug + Send {
    /// Discards the unread rest of an earlier answer.
    fn reopen(&mut self) -> Result<(), PortError>;

    /// Sends a request.
    fn send(&mut self, request: &[u8]) -> io::Result<()>;

    /// Receives a datagram into the spare capacity of `buffer`; returns its full length and the netlink port of its sender.
    fn receive(&mut self, buffer: &mut Vec<u8>) -> io::Result<(usize, u32)>;
}

/// The real one: a netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Netlink(Socket);

impl Netlink {
    pub(super) fn open() -> Result<Self, PortError> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG).map_err(PortError::netlink("open"))?;
        socket.bind_auto().map_err(PortError::netlink("bind"))?;
        SockRef::from(&socket)
            .set_read_timeout(Some(ANSWER_TIMEOUT))
            .map_err(PortError::netlink("set a timeout"))?;
        Ok(Self(socket))
    }
}

impl Channel for Netlink {
    fn reopen(&mut self) -> Result<(), PortError> {
        *self = Self::open()?;
        Ok(())
    }

    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.0.send_to(request, &NetlinkAddress::new(0, 0), 0).map(drop)
    }

    fn receive(&mut self, buffer: &mut Vec<u8>) -> io::Result<(usize, u32)> {
        let (length, sender) = self.0.recv_from(buffer, libc::MSG_TRUNC)?;
        Ok((length, sender.port_number()))
    }
}
