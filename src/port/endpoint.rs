//! Local endpoints, and the rule by which two of them exclude each other. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Addresses for documentation (RFC 5737, RFC 3849): no socket has them, and so only wildcards are in the way there.
const NOBODYS_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NOBODYS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// What is spoken on a port.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP, in which to be bound is to listen.
    Udp,
}

impl Protocol {
    /// Its name, as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// The word in JSON and in the configuration.
impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A local endpoint that a tunnel is to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Address and port.
    pub address: SocketAddr,
    /// For `[::]`: whether the listener leaves IPv4 alone. ssh always sets IPV6_V6ONLY; other programs may not.
    pub v6only: bool,
    /// A TCP port has nothing to do with the UDP port of the same number.
    pub protocol: Protocol,
}

impl Endpoint {
    /// The TCP endpoint as ssh would bind it: IPv6 sockets are v6only.
    pub fn new(address: IpAddr, port: u16) -> Self {
        Self { address: SocketAddr::new(address, port), v6only: address.is_ipv6(), protocol: Protocol::Tcp }
    }

    /// The same endpoint for another protocol.
    #[must_use]
    pub fn over(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Whether the two have a port at an address in common, so that the kernel lets only one of them be listened on. This is
    /// the one rule of overlap: for what the configuration wants, and for what the kernel has.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.port() == other.port()
            && self.coverage().overlaps(other.coverage())
    }

    /// The addresses at which it takes its port.
    pub(super) fn coverage(&self) -> Coverage {
        Coverage::of(self.address.ip(), self.v6only)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(formatter)?;
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => formatter.write_str("/udp"),
        }
    }
}

/// The addresses at which a socket takes its port, in each family; an unspecified one stands for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Coverage {
    pub(super) v4: Option<Ipv4Addr>,
    pub(super) v6: Option<Ipv6Addr>,
}

impl Coverage {
    pub(super) fn of(address: IpAddr, v6only: bool) -> Self {
        match address {
            IpAddr::V4(v4) => Self { v4: Some(v4), v6: None },
            IpAddr::V6(v6) if v6.is_unspecified() => {
                Self { v4: (!v6only).then_some(Ipv4Addr::UNSPECIFIED), v6: Some(v6) }
            }
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => Self { v4: Some(v4), v6: None },
                None => Self { v4: None, v6: Some(v6) },
            },
        }
    }

    fn overlaps(self, other: Self) -> bool {
        let v4 = self.v4.zip(other.v4);
        let v6 = self.v6.zip(other.v6);
        v4.is_some_and(|(one, two)| one == two || one.is_unspecified() || two.is_unspecified())
            || v6.is_some_and(|(one, two)| one == two || one.is_unspecified() || two.is_unspecified())
    }

    /// An address that this wildcard covers and no definite socket has; `None` for a definite address.
    pub(super) fn nobodys(self) -> Option<IpAddr> {
        match (self.v4, self.v6) {
            (_, Some(Ipv6Addr::UNSPECIFIED)) => Some(NOBODYS_V6.into()),
            (Some(Ipv4Addr::UNSPECIFIED), None) => Some(NOBODYS_V4.into()),
            _ => None,
        }
    }
}

/// A listening socket, or a bound one of UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Listener {
    /// What it listens on.
    pub address: SocketAddr,
    /// For an IPv6 address: whether it leaves IPv4 alone.
    pub v6only: bool,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Inode of the socket; `holder::pid_owns` finds its process.
    pub inode: u32,
    /// The uid that made it.
    pub uid: u32,
}

impl Listener {
    /// What it listens on, as an endpoint.
    pub fn endpoint(&self) -> Endpoint {
        let Self { address, v6only, protocol, .. } = *self;
        Endpoint { address, v6only, protocol }
    }

    /// Whether it serves `endpoint`, be it through a wildcard address.
    pub fn overlaps(&self, endpoint: &Endpoint) -> bool {
        endpoint.overlaps(&self.endpoint())
    }
}
