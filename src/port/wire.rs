//! The wire format of sock_diag, apart from any socket: requests out, rows in. Hostile bytes make an error, never a panic.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use netlink_packet_core::{
    DoneBuffer, ErrorBuffer, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NLMSG_OVERRUN, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlaBuffer, NlasIterator,
    Parseable,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, INET_DIAG_SKV6ONLY, IPPROTO_TCP, IPPROTO_UDP, SOCK_DIAG_BY_FAMILY, TCP_CLOSE,
    TCP_LISTEN, TCP_SYN_RECV, TCP_TIME_WAIT,
};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};

use super::Protocol;

/// `INET_DIAG_CGROUP_ID`, which the crate does not name.
const INET_DIAG_CGROUP_ID: u16 = 21;
/// Where `idiag_expires` lies in `struct inet_diag_msg`, and where its fixed part ends and the attributes begin.
const EXPIRES: std::ops::Range<usize> = 52..56;
const ROW_LENGTH: usize = 72;
/// `idiag_timer` of a TIME_WAIT socket, whatever state it reports: a socket in FIN_WAIT2 is one as well.
const TIMER_TIME_WAIT: u8 = 3;
const TIMER: usize = 2;
/// `INET_DIAG_NOCOOKIE`: whichever socket it is.
const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// A socket as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketRow {
    /// Own address and port; its variant is the socket's family.
    pub local: SocketAddr,
    /// The other side's; unspecified with port 0 when there is none.
    pub remote: SocketAddr,
    /// What the socket is doing.
    pub state: SocketState,
    /// Inode; 0 when no process has it open any more, and in destroy events.
    pub inode: u32,
    /// The uid that made it; 0 in TIME_WAIT and in destroy events.
    pub uid: u32,
    /// The kernel's name for the socket, never used twice.
    pub cookie: u64,
    /// IPV6_V6ONLY. The kernel reports it for listeners and bound sockets; elsewhere it is false and has no meaning, because
    /// a connection has a definite address.
    pub v6only: bool,
    /// Index of the interface that the socket is bound to; 0 for none.
    pub interface: u32,
    /// The cgroup in which the socket was made; `None` before Linux 5.7, in TIME_WAIT and in destroy events.
    pub cgroup: Option<u64>,
}

/// The state of a socket, as far as it matters for its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketState {
    /// It listens.
    Listening,
    /// It is bound and neither listens nor is connected; of UDP sockets, this is all that there is to listening.
    Bound,
    /// A handshake that its listener has not completed: goes away with the listener.
    Handshake,
    /// It is connected, connecting or closing.
    Connected,
    /// Only the kernel remembers it, for this much longer at least.
    TimeWait(Duration),
}

/// What the kernel is asked for.
#[derive(Debug, Clone)]
pub enum Request {
    /// All sockets that fit.
    Dump {
        /// TCP or UDP sockets.
        protocol: Protocol,
        /// IPv4 or IPv6 sockets: the kernel must be queried for each.
        family: Family,
        /// The states asked for.
        states: StateFlags,
        /// Only sockets whose own port this is. The kernel ignores it for sockets that are merely bound.
        port: Option<u16>,
    },
    /// The one TCP listener to which a connection to this address would go. Its cost does not depend on how many sockets
    /// there are.
    Listener(SocketAddr),
    /// The one TCP socket that is connected from the first address to the second, or the listener on the first.
    Connection(SocketAddr, SocketAddr),
}

/// The family of sockets to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// AF_INET.
    V4,
    /// AF_INET6, dual-stack sockets included.
    V6,
}

impl Request {
    /// The request as a netlink message.
    pub fn encode(&self, sequence: u32) -> Vec<u8> {
        let (request, flags) = match self {
            Self::Dump { protocol, family, states, port } => {
                let (family, mut socket_id) = match family {
                    Family::V4 => (AF_INET, SocketId::new_v4()),
                    Family::V6 => (AF_INET6, SocketId::new_v6()),
                };
                socket_id.source_port = port.unwrap_or(0);
                let protocol = match protocol {
                    Protocol::Tcp => IPPROTO_TCP,
                    Protocol::Udp => IPPROTO_UDP,
                };
                (inet_request(family, protocol, states.clone(), socket_id), NLM_F_REQUEST | NLM_F_DUMP)
            }
            Self::Listener(address) => (look_up(address, None), NLM_F_REQUEST),
            Self::Connection(local, remote) => (look_up(local, Some(remote)), NLM_F_REQUEST),
        };
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = sequence;
        let mut message =
            NetlinkMessage::new(header, NetlinkPayload::from(SockDiagMessage::InetRequest(request)));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }
}

fn look_up(local: &SocketAddr, remote: Option<&SocketAddr>) -> InetRequest {
    let (family, mut socket_id) = match local {
        SocketAddr::V4(_) => (AF_INET, SocketId::new_v4()),
        SocketAddr::V6(_) => (AF_INET6, SocketId::new_v6()),
    };
    socket_id.source_address = local.ip();
    socket_id.source_port = local.port();
    if let Some(remote) = remote {
        socket_id.destination_address = remote.ip();
        socket_id.destination_port = remote.port();
    }
    socket_id.cookie = ANY_COOKIE;
    if let SocketAddr::V6(address) = local {
        socket_id.interface_id = address.scope_id();
    }
    inet_request(family, IPPROTO_TCP, StateFlags::all(), socket_id)
}

fn inet_request(family: u8, protocol: u8, states: StateFlags, socket_id: SocketId) -> InetRequest {
    InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states, socket_id }
}

/// One message of the kernel.
#[derive(Debug)]
pub enum Message {
    /// A socket.
    Row(SocketRow),
    /// The end of a dump, and whether it succeeded.
    Done(io::Result<()>),
    /// The request was refused.
    Refused(io::Error),
    /// The kernel lost messages.
    Overrun,
    /// An acknowledgement, or something that this program did not ask for.
    Other,
}

/// A message with what its header says.
#[derive(Debug)]
pub struct Envelope {
    /// The number of the request that it answers; 0 for an event.
    pub sequence: u32,
    /// The table changed while it was being dumped.
    pub interrupted: bool,
    /// What it says.
    pub message: Message,
}

/// The bytes are not valid sock_diag messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed sock_diag message")]
pub struct Malformed;

/// The messages of one datagram. After one without a valid header there are no more.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Envelope, Malformed>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Ok(raw) = NetlinkBuffer::new_checked(rest) else {
            rest = &[];
            return Some(Err(Malformed));
        };
        // Messages begin at multiples of four; the last one may lack its padding.
        let length = (raw.length() as usize).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
        Some(parse_message(&raw).map(|message| Envelope {
            sequence: raw.sequence_number(),
            interrupted: raw.flags() & NLM_F_DUMP_INTR != 0,
            message,
        }))
    })
}

fn parse_message(raw: &NetlinkBuffer<&[u8]>) -> Result<Message, Malformed> {
    let payload = raw.payload();
    Ok(match raw.message_type() {
        SOCK_DIAG_BY_FAMILY => Message::Row(parse_row(payload)?),
        // The kernel may omit the code on success.
        NLMSG_DONE if payload.is_empty() => Message::Done(Ok(())),
        NLMSG_DONE => {
            let code = DoneBuffer::new_checked(&payload).map_err(|_| Malformed)?.code();
            Message::Done(if code < 0 { Err(error_of(code)) } else { Ok(()) })
        }
        NLMSG_ERROR => match ErrorBuffer::new_checked(&payload).map_err(|_| Malformed)?.code() {
            Some(code) => Message::Refused(error_of(code.get())),
            None => Message::Other,
        },
        NLMSG_OVERRUN => Message::Overrun,
        _ => Message::Other,
    })
}

/// The kernel's codes are negative errno values.
fn error_of(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code.checked_neg().unwrap_or(i32::MAX))
}

fn parse_row(payload: &[u8]) -> Result<SocketRow, Malformed> {
    let header = InetResponseHeader::parse(payload).map_err(|_| Malformed)?;
    let expires = payload.get(EXPIRES).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    let timer = payload.get(TIMER).copied();
    let id = &header.socket_id;
    let mut row = SocketRow {
        local: SocketAddr::new(id.source_address, id.source_port),
        remote: SocketAddr::new(id.destination_address, id.destination_port),
        state: match header.state {
            // The crate drops the time that is left, so the raw header is read.
            state if state == TCP_TIME_WAIT || timer == Some(TIMER_TIME_WAIT) => {
                SocketState::TimeWait(Duration::from_millis(u64::from(expires.unwrap_or(0))))
            }
            TCP_LISTEN => SocketState::Listening,
            TCP_CLOSE => SocketState::Bound,
            TCP_SYN_RECV => SocketState::Handshake,
            _ => SocketState::Connected,
        },
        inode: header.inode,
        uid: header.uid,
        cookie: u64::from_ne_bytes(id.cookie),
        v6only: false,
        interface: id.interface_id,
        cgroup: None,
    };
    for attribute in NlasIterator::new(payload.get(ROW_LENGTH..).unwrap_or_default()) {
        read_attribute(&mut row, &attribute.map_err(|_| Malformed)?);
    }
    Ok(row)
}

fn read_attribute(row: &mut SocketRow, attribute: &NlaBuffer<&[u8]>) {
    match (attribute.kind(), attribute.value()) {
        (INET_DIAG_SKV6ONLY, &[flag]) => row.v6only = flag != 0,
        (INET_DIAG_CGROUP_ID, value) => row.cgroup = value.try_into().ok().map(u64::from_ne_bytes),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
