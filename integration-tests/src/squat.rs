//! Sockets of every kind that can hold a port, made in this process or, told in a line of text, in another one.

use std::fmt;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;

use portward::port::{Endpoint, Protocol};
use socket2::{Domain, Socket, Type};

/// What the socket does with the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is bound.
    Bound,
    /// It listens.
    Listening,
    /// It listens, was made by one process and is now open in another one only.
    Inherited,
    /// It is bound and then connected to somewhere.
    Outgoing,
    /// The kernel gave it the port when it connected; the port asked for is of no account.
    Ephemeral,
    /// It was accepted from a listener, which is gone.
    Accepted,
    /// Nothing is left of it but TIME_WAIT; the listener that accepted it is gone.
    AcceptedTimeWait,
    /// Nothing is left of it but TIME_WAIT; it had been bound and connected.
    OutgoingTimeWait,
    /// UDP, bound.
    Datagrams,
    /// UDP, bound and connected.
    ConnectedDatagrams,
}

impl Use {
    /// All of TCP.
    pub const TCP: [Self; 8] = [
        Self::Bound,
        Self::Listening,
        Self::Inherited,
        Self::Outgoing,
        Self::Ephemeral,
        Self::Accepted,
        Self::AcceptedTimeWait,
        Self::OutgoingTimeWait,
    ];
    /// All of UDP.
    pub const UDP: [Self; 2] = [Self::Datagrams, Self::ConnectedDatagrams];
}

/// A squatter to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Squat {
    /// What it does.
    pub r#use: Use,
    /// Where.
    pub address: IpAddr,
    /// IPV6_V6ONLY.
    pub v6only: bool,
    /// SO_REUSEADDR.
    pub reuse_address: bool,
    /// SO_REUSEPORT.
    pub reuse_port: bool,
}

/// What keeps a squatter alive; gone when dropped.
#[derive(Debug)]
pub struct Held {
    /// The port that it has.
    pub port: u16,
    sockets: Vec<Socket>,
    heir: Option<Heir>,
}

impl Held {
    /// The process that alone has the socket, if it is not the one that made it.
    pub fn heir(&self) -> Option<u32> {
        self.heir.as_ref().map(|heir| heir.0.id())
    }

    /// Lets go, and ends connections with a reset, so that no TIME_WAIT is left of them.
    pub fn reset(self) {
        for socket in &self.sockets {
            socket.set_linger(Some(std::time::Duration::ZERO)).expect("a socket takes SO_LINGER");
        }
    }
}

/// A process that has taken over a socket.
#[derive(Debug)]
struct Heir(Child);

impl Drop for Heir {
    fn drop(&mut self) {
        // A test that fails must not fail again here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Squat {
    /// What an outgoing connection from `port` of 127.0.0.1 leaves behind.
    pub fn time_wait(port: u16) -> Held {
        let squat = Self {
            r#use: Use::OutgoingTimeWait,
            address: Ipv4Addr::LOCALHOST.into(),
            v6only: false,
            reuse_address: false,
            reuse_port: false,
        };
        squat.make(port).expect("a port that is free")
    }

    /// Makes it on `port`. Fails where the kernel does not allow it, as beside other squatters.
    pub fn make(&self, port: u16) -> io::Result<Held> {
        let held = |sockets| Held { port, sockets, heir: None };
        match self.r#use {
            Use::Bound | Use::Datagrams => Ok(held(vec![self.bind(port)?])),
            Use::Listening => Ok(held(vec![self.listen(port)?])),
            Use::Inherited => {
                let socket = self.listen(port)?;
                // Standard input is the one descriptor that a child takes over.
                let child = Command::new("sleep")
                    .arg("1000")
                    .stdin(Stdio::from(std::os::fd::OwnedFd::from(socket)))
                    .spawn()?;
                Ok(Held { heir: Some(Heir(child)), ..held(Vec::new()) })
            }
            Use::Outgoing => {
                let (client, server) = self.connect(port)?;
                Ok(held(vec![client, server]))
            }
            Use::Ephemeral => {
                let (client, server) = self.connect(0)?;
                let port = client.local_addr()?.as_socket().map_or(0, |address| address.port());
                Ok(Held { port, ..held(vec![client, server]) })
            }
            Use::Accepted => {
                let (client, server) = self.accept(port)?;
                Ok(held(vec![client, server]))
            }
            Use::AcceptedTimeWait => {
                let (client, server) = self.accept(port)?;
                close_in_order(server, client)?;
                Ok(held(Vec::new()))
            }
            Use::OutgoingTimeWait => {
                let (client, server) = self.connect(port)?;
                close_in_order(client, server)?;
                Ok(held(Vec::new()))
            }
            Use::ConnectedDatagrams => {
                let socket = self.bind(port)?;
                socket.connect(&SocketAddr::new(self.reachable(), 9).into())?;
                Ok(held(vec![socket]))
            }
        }
    }

    fn bind(&self, port: u16) -> io::Result<Socket> {
        let kind = match self.r#use {
            Use::Datagrams | Use::ConnectedDatagrams => Type::DGRAM,
            _ => Type::STREAM,
        };
        let socket = Socket::new(self.domain(), kind, None)?;
        socket.set_reuse_address(self.reuse_address)?;
        socket.set_reuse_port(self.reuse_port)?;
        if self.address.is_ipv6() {
            socket.set_only_v6(self.v6only)?;
        }
        // An ephemeral port is chosen by connect, which follows other rules than bind.
        if self.r#use != Use::Ephemeral {
            socket.bind(&SocketAddr::new(self.address, port).into())?;
        }
        Ok(socket)
    }

    fn listen(&self, port: u16) -> io::Result<Socket> {
        let socket = self.bind(port)?;
        socket.listen(16)?;
        Ok(socket)
    }

    /// A connection from `port` to a listener elsewhere, which is gone.
    fn connect(&self, port: u16) -> io::Result<(Socket, Socket)> {
        let listener = TcpListener::bind(SocketAddr::new(self.reachable(), 0))?;
        let client = self.bind(port)?;
        client.connect(&listener.local_addr()?.into())?;
        Ok((client, listener.accept()?.0.into()))
    }

    /// A connection to a listener on `port`, which is gone.
    fn accept(&self, port: u16) -> io::Result<(Socket, Socket)> {
        let listener = self.listen(port)?;
        // In a group of SO_REUSEPORT another one may have got the connection: then there is nothing to wait for.
        listener.set_nonblocking(true)?;
        let client = TcpStream::connect(SocketAddr::new(self.reachable(), port))?;
        let (server, _) = listener.accept()?;
        Ok((client.into(), server))
    }

    fn domain(&self) -> Domain {
        Domain::for_address(SocketAddr::new(self.address, 0))
    }

    /// The address itself, or for a wildcard the loopback address of its family.
    fn reachable(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            address => address,
        }
    }
}

/// Whether what ssh does next would succeed, or for UDP what a program does that wants the port for itself.
pub fn would_bind_and_listen(wanted: &Endpoint) -> bool {
    let is_tcp = wanted.protocol == Protocol::Tcp;
    let squat = Squat {
        r#use: if is_tcp { Use::Listening } else { Use::Datagrams },
        address: wanted.address.ip(),
        v6only: wanted.v6only,
        reuse_address: is_tcp,
        reuse_port: false,
    };
    squat.make(wanted.port()).is_ok()
}

/// Closes `first`, which is then in TIME_WAIT, and `second` once it has heard of that.
fn close_in_order(first: Socket, second: Socket) -> io::Result<()> {
    drop(first);
    let mut second = TcpStream::from(second);
    second.set_read_timeout(Some(crate::DEADLINE))?;
    let read = second.read(&mut [0])?;
    assert_eq!(read, 0);
    Ok(())
}

impl fmt::Display for Squat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { r#use, address, v6only, reuse_address, reuse_port } = self;
        write!(formatter, "{use:?} {address} {v6only} {reuse_address} {reuse_port}")
    }
}

impl FromStr for Squat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a squatter");
        let words: Vec<&str> = text.split_whitespace().collect();
        let [name, address, flags @ ..] = &words[..] else { return Err(wrong()) };
        let mut all = Use::TCP.into_iter().chain(Use::UDP);
        let flags: Vec<bool> = flags.iter().filter_map(|flag| flag.parse().ok()).collect();
        let [v6only, reuse_address, reuse_port] = flags[..] else { return Err(wrong()) };
        Ok(Self {
            r#use: all.find(|known| format!("{known:?}") == *name).ok_or_else(wrong)?,
            address: address.parse().map_err(|_| wrong())?,
            v6only,
            reuse_address,
            reuse_port,
        })
    }
}
