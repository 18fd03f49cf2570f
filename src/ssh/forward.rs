//! The forwards of a connected master, which its control socket opens and closes.

use std::path::Path;

use super::mux::{Direction, Forwarding, MuxClient, MuxError, Place};
use crate::config::desired::{Forward, ListenedBy};
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
    /// The unix socket, where portward listens and relays clients to it.
    pub socket: &'l Path,
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
    pub async fn open(&mut self, forward: &Forward, listens: Listens<'_>) -> Result<(), MasterError> {
        let mut opened = Vec::new();
        for part in parts(forward, listens) {
            if let Err(error) = self.client.open(&part).await {
                for part in &opened {
                    // The caller learns of the refusal, and ends a master that cannot close either.
                    let _ = self.client.close(part).await;
                }
                return Err(error.into());
            }
            opened.push(part);
        }
        Ok(())
    }

    /// Closes the listeners of `forward`, those at the server included. It is not an error if one is closed already.
    pub async fn close(&mut self, forward: &Forward, listens: Listens<'_>) -> Result<(), MasterError> {
        for part in parts(forward, listens) {
            match self.client.close(&part).await {
                Ok(()) | Err(MuxError::Refused(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match forward {
            Forward::Remote { .. } => self.hear_from_server(CLOSING).await,
            Forward::Local { .. } | Forward::Dynamic { .. } => Ok(()),
        }
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

/// The listeners of a forward: ssh binds one address at a time.
fn parts(forward: &Forward, listens: Listens<'_>) -> Vec<Forwarding> {
    let listeners = |direction: Direction, target: &Place| {
        let part = |endpoint: &Endpoint| Forwarding {
            direction,
            listen: Place::tcp(&endpoint.address.ip().to_string(), endpoint.port()),
            target: target.clone(),
        };
        listens.endpoints.iter().map(part).collect()
    };
    match forward {
        Forward::Local { by: ListenedBy::Ssh, target, .. } => {
            listeners(Direction::Local, &Place::tcp(&target.host, target.port))
        }
        Forward::Local { by: ListenedBy::Portward, target, .. } => vec![Forwarding {
            direction: Direction::Local,
            listen: Place::unix(listens.socket),
            target: Place::tcp(&target.host, target.port),
        }],
        Forward::Dynamic { .. } => listeners(Direction::Dynamic, &Place::socks()),
        Forward::Remote { bind, port, target } => {
            // Without an address the server decides, as with `ssh -R PORT:...`: its loopback, unless GatewayPorts is set.
            let host = bind.as_deref().unwrap_or("localhost");
            vec![Forwarding {
                direction: Direction::Remote,
                listen: Place::tcp(host, *port),
                target: Place::tcp(&target.host, target.port),
            }]
        }
    }
}
