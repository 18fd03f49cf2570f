//! The client of sock_diag. Queries are synchronous.

mod channel;

use std::io;
use std::net::SocketAddr;

use netlink_packet_sock_diag::constants::TCP_LISTEN;
use netlink_packet_sock_diag::inet::StateFlags;
use nix::libc;

use self::channel::{Channel, Netlink};
use super::wire::{self, Family, Message, Request, SocketRow, SocketState};
use super::{PortError, Protocol};

/// `TCP_BOUND_INACTIVE`, Linux 6.8 and later: sockets that are bound and do nothing else. Older kernels ignore the bit.
const BOUND_INACTIVE: u32 = 1 << 13;
/// All states of the kernel, up to `TCP_NEW_SYN_RECV`.
const ALL_STATES: u32 = (1 << 13) - 2;
/// The kernel fills datagrams up to 32 KiB.
const BUFFER_SIZE: usize = 64 * 1024;
/// How often a query is repeated if its answer was interrupted or overrun.
const ATTEMPTS: u32 = 8;

/// A client of sock_diag, in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct Diag {
    channel: Box<dyn Channel>,
    bound_states: u32,
    sequence: u32,
    buffer: Vec<u8>,
    queries: u64,
}

/// How one attempt at an answer ended.
enum Attempt {
    Complete(Vec<SocketRow>),
    /// Rows may be missing or duplicated.
    Spoiled,
}

impl Diag {
    /// Opens the socket.
    pub fn new() -> Result<Self, PortError> {
        Ok(Self::over(Netlink::open()?))
    }

    fn over(channel: impl Channel + 'static) -> Self {
        Self {
            channel: Box::new(channel),
            bound_states: BOUND_INACTIVE,
            sequence: 0,
            buffer: Vec::with_capacity(BUFFER_SIZE),
            queries: 0,
        }
    }

    /// The same as on a kernel before Linux 6.8, which does not report sockets that are only bound.
    #[must_use]
    pub fn without_bound_sockets(self) -> Self {
        Self { bound_states: 0, ..self }
    }

    /// The listening TCP sockets on `port`, or on any port. About 13 microseconds, and 1 ms for 10,000 listeners.
    pub fn listeners(&mut self, family: Family, port: Option<u16>) -> Result<Vec<SocketRow>, PortError> {
        let states = StateFlags::from_bits_retain(1 << TCP_LISTEN);
        self.ask(&Request::Dump { protocol: Protocol::Tcp, family, states, port })
    }

    /// A TCP socket that listens on `address` or on a wildcard address; any one of an SO_REUSEPORT group. Takes a few
    /// microseconds, independent of the number of sockets.
    pub fn listener(&mut self, address: SocketAddr) -> Result<Option<SocketRow>, PortError> {
        let rows = self.ask(&Request::Listener(address))?;
        Ok(rows.into_iter().find(|row| row.state == SocketState::Listening))
    }

    /// The TCP socket of this machine that is connected from `local` to `remote`. Takes a few microseconds, independent of
    /// the number of sockets.
    pub fn connection(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Option<SocketRow>, PortError> {
        let rows = self.ask(&Request::Connection(local, remote))?;
        // Without such a connection the kernel answers with a listener on `local`.
        Ok(rows.into_iter().find(|row| is_same(row.local, local) && is_same(row.remote, remote)))
    }

    /// The TCP sockets that listen on `port`, or on any port, and those that are merely bound to it.
    pub fn serving(&mut self, family: Family, port: Option<u16>) -> Result<Vec<SocketRow>, PortError> {
        self.with_bound(Protocol::Tcp, family, 1 << TCP_LISTEN, port)
    }

    /// All sockets whose own port is `port`, in any state. Takes 0.5 ms or more for TCP.
    pub fn everything(
        &mut self,
        protocol: Protocol,
        family: Family,
        port: u16,
    ) -> Result<Vec<SocketRow>, PortError> {
        self.all(protocol, family, Some(port))
    }

    /// As [`Self::everything`]; without a port, the sockets on all of them.
    pub fn all(
        &mut self,
        protocol: Protocol,
        family: Family,
        port: Option<u16>,
    ) -> Result<Vec<SocketRow>, PortError> {
        self.with_bound(protocol, family, ALL_STATES, port)
    }

    /// The sockets in `states`, and those that are merely bound.
    fn with_bound(
        &mut self,
        protocol: Protocol,
        family: Family,
        states: u32,
        port: Option<u16>,
    ) -> Result<Vec<SocketRow>, PortError> {
        let dump =
            |states| Request::Dump { protocol, family, states: StateFlags::from_bits_retain(states), port };
        let mut rows = match self.ask(&dump(states | self.bound_states)) {
            // A filter of system calls or an emulated kernel may refuse an unknown state.
            Err(PortError::Refused(_)) => self.ask(&dump(states))?,
            rows => rows?,
        };
        // The kernel ignores the port when it dumps sockets that are merely bound.
        rows.retain(|row| port.is_none_or(|port| row.local.port() == port));
        Ok(rows)
    }

    /// The number of queries.
    pub fn queries(&self) -> u64 {
        self.queries
    }

    fn ask(&mut self, request: &Request) -> Result<Vec<SocketRow>, PortError> {
        for _ in 0..ATTEMPTS {
            let attempt = self.attempt(request);
            if let Ok(Attempt::Complete(rows)) = attempt {
                return Ok(rows);
            }
            // A dump that was left unread would make the kernel refuse the next one on this socket.
            self.channel.reopen()?;
            attempt?;
        }
        Err(PortError::Unsteady { attempts: ATTEMPTS })
    }

    fn attempt(&mut self, request: &Request) -> Result<Attempt, PortError> {
        self.queries += 1;
        self.sequence = self.sequence.wrapping_add(1);
        self.channel.send(&request.encode(self.sequence)).map_err(PortError::netlink("send"))?;
        let mut rows = Vec::new();
        let mut interrupted = false;
        loop {
            // netlink-sys reads into the spare capacity, and truncates silently.
            self.buffer.clear();
            let (length, sender) = match self.channel.receive(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Attempt::Spoiled),
                received => received.map_err(PortError::netlink("receive"))?,
            };
            if sender != 0 {
                // Not from the kernel: processes of root can send messages, too.
                continue;
            }
            if length > self.buffer.len() {
                return Ok(Attempt::Spoiled);
            }
            for envelope in wire::messages(&self.buffer) {
                let Ok(envelope) = envelope else { return Ok(Attempt::Spoiled) };
                if envelope.sequence != self.sequence {
                    continue;
                }
                interrupted |= envelope.interrupted;
                match (envelope.message, request) {
                    // The answer to a look-up has no end of its own.
                    (Message::Row(row), Request::Listener(_) | Request::Connection(..)) => {
                        return Ok(Attempt::Complete(vec![row]));
                    }
                    (Message::Row(row), Request::Dump { .. }) => rows.push(row),
                    (Message::Done(Ok(())), _) if interrupted => return Ok(Attempt::Spoiled),
                    (Message::Done(Ok(())), _) => return Ok(Attempt::Complete(rows)),
                    // The kernel reports that there is no such socket.
                    (Message::Refused(error), Request::Listener(_) | Request::Connection(..))
                        if is_missing(&error) =>
                    {
                        return Ok(Attempt::Complete(Vec::new()));
                    }
                    // The kernel reports that the module for the protocol is missing.
                    (Message::Done(Err(error)) | Message::Refused(error), Request::Dump { protocol, .. })
                        if is_missing(&error) =>
                    {
                        return Err(PortError::NotTold(*protocol));
                    }
                    (Message::Done(Err(error)) | Message::Refused(error), _) => {
                        return Err(PortError::Refused(error));
                    }
                    (Message::Overrun, _) => return Ok(Attempt::Spoiled),
                    (Message::Other, _) => {}
                }
            }
        }
    }
}

/// Rows do not name the interface of a link-local address.
fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    (one.ip(), one.port()) == (other.ip(), other.port())
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

#[cfg(test)]
mod tests;
