//! The client of sock_diag: dumps of the kernel's sockets, answered while the call lasts.

use std::io;
use std::time::Duration;

use netlink_packet_sock_diag::constants::TCP_LISTEN;
use netlink_packet_sock_diag::inet::StateFlags;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddress};
use nix::libc;
use socket2::SockRef;

use super::PortError;
use super::wire::{self, DumpRequest, Family, Message, SocketRow};

/// `TCP_BOUND_INACTIVE`, Linux 6.8 and later: sockets that are bound and do nothing else. Older kernels ignore the bit.
const BOUND_INACTIVE: u32 = 1 << 13;
/// Every state that the kernel knows, up to `TCP_NEW_SYN_RECV`.
const ALL_STATES: u32 = (1 << 13) - 2;
/// The kernel fills datagrams up to 32 KiB.
const BUFFER_SIZE: usize = 64 * 1024;
/// An answer is there when `send` returns; this only turns a kernel fault into an error.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a dump that was interrupted or overrun is asked for again.
const ATTEMPTS: u32 = 8;

/// A query socket, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Diag {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    queries: u64,
}

/// How one attempt at a dump ended.
enum Attempt {
    Complete(Vec<SocketRow>),
    /// Rows may be missing or double.
    Spoiled,
}

impl Diag {
    /// Opens the socket.
    pub fn new() -> Result<Self, PortError> {
        Ok(Self { socket: open()?, sequence: 0, buffer: Vec::with_capacity(BUFFER_SIZE), queries: 0 })
    }

    /// The listening sockets on `port`, or on any port. About 13 microseconds.
    pub fn listeners(&mut self, family: Family, port: Option<u16>) -> Result<Vec<SocketRow>, PortError> {
        self.dump(&DumpRequest { family, states: StateFlags::from_bits_retain(1 << TCP_LISTEN), port })
    }

    /// All sockets whose own port is `port`, whatever they are doing. 0.5 ms and more.
    pub fn everything(&mut self, family: Family, port: u16) -> Result<Vec<SocketRow>, PortError> {
        let states = StateFlags::from_bits_retain(ALL_STATES | BOUND_INACTIVE);
        let with_bound = self.dump(&DumpRequest { family, states, port: Some(port) });
        let mut rows = match with_bound {
            // Who filters system calls or emulates the kernel may refuse a state that it does not know.
            Err(PortError::Refused(_)) => {
                let states = StateFlags::from_bits_retain(ALL_STATES);
                self.dump(&DumpRequest { family, states, port: Some(port) })?
            }
            rows => rows?,
        };
        // The kernel ignores the port when it dumps sockets that are merely bound.
        rows.retain(|row| row.local.port() == port);
        Ok(rows)
    }

    /// How many dumps were asked for.
    pub fn queries(&self) -> u64 {
        self.queries
    }

    fn dump(&mut self, request: &DumpRequest) -> Result<Vec<SocketRow>, PortError> {
        for _ in 0..ATTEMPTS {
            let attempt = self.attempt(request);
            if let Ok(Attempt::Complete(rows)) = attempt {
                return Ok(rows);
            }
            // A dump that was left unread would make the kernel refuse the next one on this socket.
            self.socket = open()?;
            attempt?;
        }
        Err(PortError::Unsteady { attempts: ATTEMPTS })
    }

    fn attempt(&mut self, request: &DumpRequest) -> Result<Attempt, PortError> {
        self.queries += 1;
        self.sequence = self.sequence.wrapping_add(1);
        self.socket
            .send_to(&request.encode(self.sequence), &NetlinkAddress::new(0, 0), 0)
            .map_err(failed("send"))?;
        let mut rows = Vec::new();
        let mut interrupted = false;
        loop {
            // netlink-sys reads into the room that is left, and says nothing when that is too little.
            self.buffer.clear();
            let (length, sender) = match self.socket.recv_from(&mut self.buffer, libc::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Attempt::Spoiled),
                received => received.map_err(failed("receive"))?,
            };
            if sender.port_number() != 0 {
                // Not the kernel: a process of root may send us messages.
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
                match envelope.message {
                    Message::Row(row) => rows.push(row),
                    Message::Done(Ok(())) if interrupted => return Ok(Attempt::Spoiled),
                    Message::Done(Ok(())) => return Ok(Attempt::Complete(rows)),
                    Message::Done(Err(error)) | Message::Refused(error) => return Err(refused(error)),
                    Message::Overrun => return Ok(Attempt::Spoiled),
                    Message::Other => {}
                }
            }
        }
    }
}

fn refused(error: io::Error) -> PortError {
    // What the kernel says when nothing is there to answer for the family or the protocol.
    if error.kind() == io::ErrorKind::NotFound { PortError::NoTcpDiag } else { PortError::Refused(error) }
}

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> PortError {
    move |source| PortError::Netlink { operation, source }
}

fn open() -> Result<Socket, PortError> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG).map_err(failed("open"))?;
    socket.bind_auto().map_err(failed("bind"))?;
    SockRef::from(&socket).set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(failed("set a timeout"))?;
    Ok(socket)
}
