//! The unix sockets that are bound to files or to abstract names, as sock_diag reports them.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NlasIterator, Parseable,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{SOCK_DIAG_BY_FAMILY, TCP_CLOSE, TCP_LISTEN};
use netlink_packet_sock_diag::unix::{ShowFlags, StateFlags, UnixRequest, UnixResponseHeader};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;

/// `UNIX_DIAG_NAME`: the path, with a zero at its end.
const NAME: u16 = 0;
/// `UNIX_DIAG_VFS`: the inode and the device of the file, 32 bits each.
const FILE: u16 = 1;
/// `UNIX_DIAG_UID`: the user that made the socket (Linux 5.3).
const UID: u16 = 7;
/// `UDIAG_SHOW_UID`, which the crate does not name.
const SHOW_UID: u32 = 0x40;
/// Where the attributes of a row begin: behind `struct unix_diag_msg`.
const ROW_LENGTH: usize = 16;
/// The kernel fills datagrams up to 32 KiB.
const BUFFER_SIZE: usize = 64 * 1024;
/// How often a dump is repeated that changed while it was made.
const ATTEMPTS: u32 = 8;
/// An answer is there when the request is sent; this only turns a kernel fault into an error.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A socket that is bound and not connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::port) struct Row {
    /// Inode of the socket, by which /proc shows its processes.
    pub(in crate::port) inode: u32,
    /// Whether it listens; otherwise it is merely bound, as datagram sockets are.
    pub(in crate::port) is_listening: bool,
    /// The lower half of the inode of its file, and the device of that in the kernel's own form.
    pub(in crate::port) file: Option<(u32, u32)>,
    /// The path, as it was bound.
    pub(in crate::port) name: Option<Vec<u8>>,
    /// The abstract name without the zero before it, of a socket that has no file.
    pub(in crate::port) abstract_name: Option<Vec<u8>>,
    /// The user that made it; `None` where the kernel does not report it.
    pub(in crate::port) uid: Option<u32>,
}

/// All of them, in the network namespace of this thread. Sockets of accepted connections have the name and the file of their listener,
/// and are left out.
pub(in crate::port) fn rows() -> io::Result<Vec<Row>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    SockRef::from(&socket).set_read_timeout(Some(ANSWER_TIMEOUT))?;
    for sequence in 1..=ATTEMPTS {
        socket.send_to(&request(sequence), &SocketAddr::new(0, 0), 0)?;
        if let Some(rows) = answer(&socket, sequence)? {
            return Ok(rows);
        }
    }
    Err(io::Error::other("the kernel's list of unix sockets changed each time that it was read"))
}

fn request(sequence: u32) -> Vec<u8> {
    let request = UnixRequest {
        // The crate names two states only, and the kernel's own bit for sockets that are merely bound is not among them.
        state_flags: StateFlags::from_bits_retain((1 << TCP_LISTEN) | (1 << TCP_CLOSE)),
        inode: 0,
        show_flags: ShowFlags::NAME | ShowFlags::VFS | ShowFlags::from_bits_retain(SHOW_UID),
        cookie: [0xff; 8],
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    header.sequence_number = sequence;
    let mut message =
        NetlinkMessage::new(header, NetlinkPayload::from(SockDiagMessage::UnixRequest(request)));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// The rows of one dump; `None` if the list changed meanwhile.
fn answer(socket: &Socket, sequence: u32) -> io::Result<Option<Vec<Row>>> {
    let mut dump = Dump::new(sequence);
    let mut buffer = Vec::with_capacity(BUFFER_SIZE);
    loop {
        buffer.clear();
        let (_, sender) = match socket.recv_from(&mut buffer, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            received => received?,
        };
        // Processes of root can send messages, too.
        if sender.port_number() == 0 && dump.ends_with(&buffer)? {
            return Ok(dump.is_whole.then_some(dump.rows));
        }
    }
}

/// The answer to a request, as far as it has come.
#[derive(Debug)]
pub(in crate::port) struct Dump {
    sequence: u32,
    /// What was read so far.
    pub(in crate::port) rows: Vec<Row>,
    is_whole: bool,
}

impl Dump {
    /// The answer to the request of this number.
    pub(in crate::port) fn new(sequence: u32) -> Self {
        Self { sequence, rows: Vec::new(), is_whole: true }
    }

    /// Reads one datagram of the kernel, and returns whether it holds the end of the dump.
    pub(in crate::port) fn ends_with(&mut self, datagram: &[u8]) -> io::Result<bool> {
        let mut rest = datagram;
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            rest = rest.get((message.length() as usize).next_multiple_of(4)..).unwrap_or_default();
            if message.sequence_number() != self.sequence {
                continue;
            }
            self.is_whole &= message.flags() & NLM_F_DUMP_INTR == 0;
            match message.message_type() {
                SOCK_DIAG_BY_FAMILY => self.rows.extend(row(message.payload())?),
                NLMSG_DONE => return Ok(true),
                NLMSG_ERROR => {
                    let code = message.payload().first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(code.checked_neg().unwrap_or(i32::MAX)));
                }
                _ => {}
            }
        }
        Ok(false)
    }
}

/// The row in `payload`; `None` if that socket is bound to nothing.
fn row(payload: &[u8]) -> io::Result<Option<Row>> {
    let header = UnixResponseHeader::parse(payload).map_err(io::Error::other)?;
    let (inode, is_listening) = (header.inode, header.state == TCP_LISTEN);
    let mut row = Row { inode, is_listening, file: None, name: None, abstract_name: None, uid: None };
    let number = |value: &[u8], at: usize| {
        let bytes = value.get(at..at + 4)?;
        bytes.try_into().ok().map(u32::from_ne_bytes)
    };
    for attribute in NlasIterator::new(payload.get(ROW_LENGTH..).unwrap_or_default()) {
        let attribute = attribute.map_err(io::Error::other)?;
        match (attribute.kind(), attribute.value()) {
            // All of it is the name, zeros as well.
            (NAME, [0, name @ ..]) => row.abstract_name = Some(name.to_vec()),
            (NAME, name) => {
                let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
                row.name = Some(name[..end].to_vec());
            }
            (FILE, value) => row.file = number(value, 0).zip(number(value, 4)),
            (UID, value) => row.uid = number(value, 0),
            _ => {}
        }
    }
    let is_bound = row.file.is_some() || row.name.is_some() || row.abstract_name.is_some();
    Ok(is_bound.then_some(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abstract_name_is_no_file() {
        let mut payload = vec![0; ROW_LENGTH];
        payload.extend([7, 0, 0, 0, 0, b'x', b'y', 0]);
        let found = row(&payload).unwrap().unwrap();
        assert_eq!((found.name, found.file, found.abstract_name.as_deref()), (None, None, Some(&b"xy"[..])));
        payload[ROW_LENGTH + 4] = b'/';
        let found = row(&payload).unwrap().unwrap();
        assert_eq!((found.name.as_deref(), found.abstract_name), (Some(&b"/xy"[..]), None));
        assert_eq!(row(&payload[..ROW_LENGTH]).unwrap(), None, "bound to nothing");
    }
}
