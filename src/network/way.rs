//! Whether this machine has a way to an address: a route, over a link that carries something.
//!
//! Without a way, silence proves nothing about whoever is at that address. A link that has lost its carrier keeps its routes, which
//! the kernel goes on using: so the link of the route is asked about as well.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, Parseable as _};
use netlink_packet_route::link::{LinkFlags, LinkHeader, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr as NetlinkAddress};
use nix::libc;
use socket2::SockRef;

/// An answer is there when `send` returns; this only turns a kernel fault into an error.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The answer about a link has some 1,500 bytes, more where it has many properties.
const BUFFER_SIZE: usize = 32 * 1024;

/// Looks up ways. Synchronous; an answer takes some microseconds. Needs no privilege.
#[derive(Debug)]
pub struct Ways {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Ways {
    /// Opens the socket, in the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        SockRef::from(&socket).set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER_SIZE) })
    }

    /// Whether there is a way to `to`, for what is sent from the address `from`, or from any one. An error means that this cannot be
    /// found out.
    pub fn exists(&mut self, from: Option<IpAddr>, to: IpAddr) -> io::Result<bool> {
        let interface = match self.interface(from, to) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => {
                return Ok(false);
            }
            interface => interface?,
        };
        let mut question = LinkMessage::default();
        question.header.index = interface;
        let answer = self.ask(RouteNetlinkMessage::GetLink(question))?;
        // What follows the header is left alone: there is a lot of it, and the kernel adds to it.
        let link = LinkHeader::parse(&answer).map_err(io::Error::other)?;
        Ok(link.flags.contains(LinkFlags::Running))
    }

    /// The interface that the route leads over.
    fn interface(&mut self, from: Option<IpAddr>, to: IpAddr) -> io::Result<u32> {
        let (family, bits) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        question.header.destination_prefix_length = bits;
        question.attributes.push(RouteAttribute::Destination(to.into()));
        if let Some(from) = from {
            question.header.source_prefix_length = bits;
            question.attributes.push(RouteAttribute::Source(from.into()));
        }
        let answer = self.ask(RouteNetlinkMessage::GetRoute(question))?;
        let route = RouteMessage::parse(&answer).map_err(io::Error::other)?;
        let interface = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(interface) => Some(*interface),
            _ => None,
        });
        interface.ok_or_else(|| io::Error::other("the route has no interface"))
    }

    /// The payload of the one message that is the answer.
    fn ask(&mut self, question: RouteNetlinkMessage) -> io::Result<Vec<u8>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        (header.flags, header.sequence_number) = (NLM_F_REQUEST, self.sequence);
        let mut request = NetlinkMessage::new(header, question.into());
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send_to(&bytes, &NetlinkAddress::new(0, 0), 0)?;
        loop {
            self.buffer.clear();
            let sender = match self.socket.recv_from(&mut self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                received => received?.1,
            };
            let answer = NetlinkBuffer::new_checked(&self.buffer).map_err(io::Error::other)?;
            // Processes of root can send messages, too; and an answer that came too late may be left.
            if sender.port_number() != 0 || answer.sequence_number() != self.sequence {
                continue;
            }
            if i32::from(answer.message_type()) == libc::NLMSG_ERROR {
                return Err(refusal(answer.payload()));
            }
            return Ok(answer.payload().to_vec());
        }
    }
}

/// What an answer of type NLMSG_ERROR says: it begins with the error's number, negated.
fn refusal(payload: &[u8]) -> io::Error {
    let number =
        payload.first_chunk().map_or(libc::EPROTO, |bytes| i32::from_ne_bytes(*bytes).saturating_neg());
    io::Error::from_raw_os_error(number)
}
