//! Sockets that listen on all endpoints of a tunnel.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};

use crate::port::{self, Endpoint};

/// Clients that the kernel queues before portward accepts them; it takes no more than `net.core.somaxconn`, 4096 by default.
const BACKLOG: i32 = 4096;

/// One of the endpoints cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {endpoint}: {source}")]
pub struct ListenError {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Why.
    pub source: io::Error,
}

impl ListenError {
    /// Whether another socket has the endpoint.
    pub fn is_in_use(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

/// Listening sockets. They close when dropped.
#[derive(Debug)]
pub struct Sockets {
    pub(super) listeners: Vec<TcpListener>,
    pub(super) addresses: Vec<SocketAddr>,
}

impl Sockets {
    /// Listens on all of `endpoints`, or on none. `kept`: sockets that listen already, by their addresses.
    pub fn listen(
        endpoints: &[Endpoint],
        kept: &mut HashMap<SocketAddr, TcpListener>,
    ) -> Result<Self, ListenError> {
        let mut listen = |endpoint: &Endpoint| match kept.remove(&endpoint.address) {
            Some(listener) => Ok(listener),
            None => listener(endpoint).map_err(|source| ListenError { endpoint: *endpoint, source }),
        };
        let listeners = endpoints.iter().map(&mut listen).collect::<Result<_, _>>()?;
        Ok(Self { listeners, addresses: endpoints.iter().map(|endpoint| endpoint.address).collect() })
    }

    /// The sockets, each with its address.
    pub fn each(&self) -> impl Iterator<Item = (BorrowedFd<'_>, SocketAddr)> {
        self.listeners.iter().map(AsFd::as_fd).zip(self.addresses.iter().copied())
    }

    /// The addresses, in the order of the endpoints.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

fn listener(endpoint: &Endpoint) -> io::Result<TcpListener> {
    let socket = port::socket(endpoint)?;
    socket.set_nonblocking(true)?;
    socket.bind(&endpoint.address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn all_endpoints_are_listened_on_or_none() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let endpoint = |port| Endpoint::new(Ipv4Addr::LOCALHOST.into(), port);
        let both = [endpoint(free.port()), endpoint(taken.local_addr().unwrap().port())];
        let refused = Sockets::listen(&both, &mut HashMap::new()).unwrap_err();
        assert!(refused.is_in_use() && refused.endpoint == both[1], "{refused}");
        assert_eq!(Sockets::listen(&both[..1], &mut HashMap::new()).unwrap().addresses(), [free]);
    }
}
