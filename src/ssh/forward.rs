//! The forwards of a connected master, which its control socket opens and closes.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use super::mux::{Direction, Forwarding, MuxClient, MuxError, Place};
use crate::config::desired::{Forward, ListenedBy, RemoteListen, Target};
use crate::port::Endpoint;

/// A master did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    /// It refused, in its own words.
    #[error("ssh refused the forward: {0}")]
    Refused(String),
    /// It did not answer as a master does.
    #[error("ssh does not answer on its control socket: {0}")]
    Broken(String),
    /// Another process answered.
    #[error("pid {answered} answers on the control socket of pid {expected}")]
    Stranger {
        /// The ssh that portward started.
        expected: u32,
        /// The process that answered.
        answered: u32,
    },
}

impl From<MuxError> for MasterError {
    fn from(error: MuxError) -> Self {
        match error {
            MuxError::Refused(reason) => Self::Refused(reason),
            other => Self::Broken(other.to_string()),
        }
    }
}

/// Where a master listens for a forward. Not used for a remote one: the server listens.
#[derive(Debug, Clone, Copy)]
pub struct Listens<'l> {
    /// The addresses of the forward that this machine has, where ssh itself listens on them.
    pub endpoints: &'l [Endpoint],
    /// The unix sockets, one for each port, where portward listens and relays clients to them.
    pub sockets: &'l [PathBuf],
}

/// A forward was not opened, on none of its listeners.
#[derive(Debug)]
pub struct NotOpened {
    /// The listener that was refused: how far its port is behind the first one of the forward.
    pub offset: u16,
    /// Why.
    pub error: MasterError,
}

/// Where the listener leads that is asked for after another one was closed: nobody connects to it.
const CLOSING: &str = "/dev/null";
/// Where that of a probe leads.
const PROBE: &str = "/dev/null/probe";

/// A connection to a master's control socket.
#[derive(Debug)]
pub struct Master {
    client: MuxClient,
}

impl Master {
    /// Connects, and checks that the process `pid` answers.
    pub async fn connect(control: &Path, pid: u32) -> Result<Self, MasterError> {
        let mut client = MuxClient::connect(control).await?;
        let answered = client.alive_check().await?;
        if answered != pid {
            return Err(MasterError::Stranger { expected: pid, answered });
        }
        Ok(Self { client })
    }

    /// Opens `forward` on all of its listeners, or on none.
    pub async fn open(&mut self, forward: &Forward, listens: Listens<'_>) -> Result<(), NotOpened> {
        let parts = parts(forward, listens);
        for (index, Part { offset, forwarding }) in parts.iter().enumerate() {
            if let Err(error) = self.client.open(forwarding).await {
                for opened in &parts[..index] {
                    // The caller learns of the refusal, and ends a master that cannot close either.
                    let _ = self.client.close(&opened.forwarding).await;
                }
                if index > 0 && matches!(forward, Forward::Remote { .. }) {
                    let _ = self.hear_from_server(CLOSING).await;
                }
                return Err(NotOpened { offset: *offset, error: error.into() });
            }
        }
        Ok(())
    }

    /// Closes the listeners of `forward`, those at the server included. It is not an error if one is closed already.
    pub async fn close(&mut self, forward: &Forward, listens: Listens<'_>) -> Result<(), MasterError> {
        for Part { forwarding, .. } in parts(forward, listens) {
            match self.client.close(&forwarding).await {
                Ok(()) | Err(MuxError::Refused(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match forward {
            Forward::Remote { .. } => self.hear_from_server(CLOSING).await,
            Forward::Local { .. } | Forward::Socket { .. } | Forward::Dynamic { .. } => Ok(()),
        }
    }

    /// Closes listeners that another run of portward has asked for. It is not an error if one is closed already.
    pub async fn close_all(&mut self, forwardings: &[Forwarding]) -> Result<(), MasterError> {
        for forwarding in forwardings {
            match self.client.close(forwarding).await {
                Ok(()) | Err(MuxError::Refused(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if forwardings.iter().any(|forwarding| forwarding.direction == Direction::Remote) {
            self.hear_from_server(CLOSING).await?;
        }
        Ok(())
    }

    /// Waits for an answer of the server, whatever it is. For ever, if the network loses the request or the answer.
    ///
    /// Of what a master can be asked, this is the cheapest that crosses the network: one round trip (0.1 ms on loopback), a listener
    /// at the server for as long, and no line in its log at LogLevel VERBOSE. An alive check is answered by ssh itself. A session
    /// starts a shell. A connection through the server makes it connect to somebody, and ssh reports its failure as that of a client.
    /// And an ssh whose server refuses a channel that was opened through `-O proxy` ends as soon as that client leaves.
    pub async fn probe(&mut self) -> Result<(), MasterError> {
        self.hear_from_server(PROBE).await
    }

    /// Has the server run a command, by the account's shell and without a terminal: see [`MuxClient::session`].
    pub(super) async fn session(
        &mut self,
        command: &str,
        streams: [BorrowedFd<'_>; 3],
    ) -> Result<(), MasterError> {
        Ok(self.client.session(command, streams).await?)
    }

    /// Waits until the server has done what it was asked before: it answers requests in their order.
    ///
    /// ssh does not wait for an answer when it asks the server to close a listener. Until the server has done so, it gives the next
    /// connection those of the port's addresses that are free, and reports success. ssh does wait for an answer when it asks for
    /// a listener. This one is on a port of the server's choice, leads nowhere, and is closed at once. A refusal is an answer, too.
    ///
    /// ssh itself answers a request for a listener that it has already. So two that may be under way at a time differ in where they
    /// lead.
    async fn hear_from_server(&mut self, nowhere: &str) -> Result<(), MasterError> {
        let nowhere = Forwarding {
            direction: Direction::Remote,
            listen: Place::tcp("localhost", 0),
            target: Place::unix(nowhere),
        };
        match self.client.open(&nowhere).await {
            Ok(()) => Ok(self.client.close(&nowhere).await?),
            Err(MuxError::Refused(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether `line` of ssh's stderr is about the listener that only [`Master::close`] and [`Master::probe`] ask for. A server with `permitlisten` refuses it.
pub fn is_of_closing(line: &str) -> bool {
    line.trim_end().ends_with("remote port forwarding failed for listen port 0")
}

/// What a master is asked for, to serve `forward`.
pub fn forwardings(forward: &Forward, listens: Listens<'_>) -> Vec<Forwarding> {
    parts(forward, listens).into_iter().map(|part| part.forwarding).collect()
}

/// One listener of a forward.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    /// How far its port is behind the first one of the forward.
    offset: u16,
    forwarding: Forwarding,
}

/// The listeners of a forward: ssh binds one port of one address at a time. Each leads to the port that corresponds to its own.
fn parts(forward: &Forward, listens: Listens<'_>) -> Vec<Part> {
    let at = |endpoint: &Endpoint| Place::tcp(&endpoint.address.ip().to_string(), endpoint.port());
    match forward {
        Forward::Local { by: ListenedBy::Ssh, listen, target } => {
            let first = listen.first().map_or(0, Endpoint::port);
            let part = |endpoint: &Endpoint| {
                let offset = endpoint.port().saturating_sub(first);
                let target = place(target, offset);
                let forwarding = Forwarding { direction: Direction::Local, listen: at(endpoint), target };
                Part { offset, forwarding }
            };
            listens.endpoints.iter().map(part).collect()
        }
        Forward::Local { by: ListenedBy::Portward, target, .. } => {
            let part = |(offset, socket): (u16, &PathBuf)| {
                let (listen, target) = (Place::unix(socket), place(target, offset));
                Part { offset, forwarding: Forwarding { direction: Direction::Local, listen, target } }
            };
            (0..).zip(listens.sockets).map(part).collect()
        }
        Forward::Socket { listen, target } => {
            let (listen, target) = (Place::unix(&listen.path), place(target, 0));
            vec![Part { offset: 0, forwarding: Forwarding { direction: Direction::Local, listen, target } }]
        }
        Forward::Dynamic { .. } => {
            let part = |endpoint: &Endpoint| {
                let (direction, target) = (Direction::Dynamic, Place::socks());
                Part { offset: 0, forwarding: Forwarding { direction, listen: at(endpoint), target } }
            };
            listens.endpoints.iter().map(part).collect()
        }
        Forward::Remote { listen: RemoteListen::Socket(path), target } => {
            let (listen, target) = (Place::unix(path), place(target, 0));
            vec![Part { offset: 0, forwarding: Forwarding { direction: Direction::Remote, listen, target } }]
        }
        Forward::Remote { listen: RemoteListen::Ports { bind, ports }, target } => {
            // Without an address the server decides, as with `ssh -R PORT:...`: its loopback, unless GatewayPorts is set.
            let host = bind.as_deref().unwrap_or("localhost");
            let part = |(offset, port): (u16, u16)| {
                let (listen, target) = (Place::tcp(host, port), place(target, offset));
                Part { offset, forwarding: Forwarding { direction: Direction::Remote, listen, target } }
            };
            (0..).zip(ports.ports()).map(part).collect()
        }
    }
}

/// Where the listener with this offset leads to.
fn place(target: &Target, offset: u16) -> Place {
    match target {
        Target::Ports(target) => Place::tcp(&target.host, target.ports.at(offset)),
        Target::Socket(path) => Place::unix(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::desired::HostPorts;
    use crate::port::PortRange;

    fn endpoint(address: &str) -> Endpoint {
        let address: std::net::SocketAddr = address.parse().unwrap();
        Endpoint::new(address.ip(), address.port())
    }

    fn target() -> Target {
        Target::Ports(HostPorts { host: "db".to_owned(), ports: PortRange::new(90, 92).unwrap() })
    }

    fn part(offset: u16, direction: Direction, listen: Place, target: Place) -> Part {
        Part { offset, forwarding: Forwarding { direction, listen, target } }
    }

    #[test]
    fn each_port_of_a_range_leads_to_the_port_that_corresponds_to_it_on_all_addresses() {
        let listen = ["127.0.0.1:80", "[::1]:80", "127.0.0.1:81", "[::1]:81", "127.0.0.1:82", "[::1]:82"];
        let listen = listen.map(endpoint).to_vec();
        // This machine has no ::1.
        let usable: Vec<_> = listen.iter().copied().filter(|endpoint| endpoint.address.is_ipv4()).collect();
        let forward = Forward::Local { listen, by: ListenedBy::Ssh, target: target() };
        let local = |offset: u16| {
            let (here, there) = (Place::tcp("127.0.0.1", 80 + offset), Place::tcp("db", 90 + offset));
            part(offset, Direction::Local, here, there)
        };
        let listens = Listens { endpoints: &usable, sockets: &[] };
        assert_eq!(parts(&forward, listens), [local(0), local(1), local(2)]);
    }

    #[test]
    fn each_port_of_a_held_range_has_a_socket_of_its_own() {
        let forward =
            Forward::Local { listen: vec![endpoint("[::]:80")], by: ListenedBy::Portward, target: target() };
        let sockets = ["/a", "/b", "/c"].map(PathBuf::from);
        let local = |offset: u16, socket: &str| {
            part(offset, Direction::Local, Place::unix(socket), Place::tcp("db", 90 + offset))
        };
        let listens = Listens { endpoints: &[], sockets: &sockets };
        assert_eq!(parts(&forward, listens), [local(0, "/a"), local(1, "/b"), local(2, "/c")]);
    }

    #[test]
    fn each_port_of_a_server_leads_to_the_port_that_corresponds_to_it() {
        let ports = PortRange::new(8000, 8002).unwrap();
        let listen = RemoteListen::Ports { bind: Some("*".to_owned()), ports };
        let forward = Forward::Remote { listen, target: target() };
        let remote = |offset: u16| {
            part(offset, Direction::Remote, Place::tcp("*", 8000 + offset), Place::tcp("db", 90 + offset))
        };
        let listens = Listens { endpoints: &[], sockets: &[] };
        assert_eq!(parts(&forward, listens), [remote(0), remote(1), remote(2)]);
    }
}
