//! A connected master, as its control socket serves it.

use std::path::{Path, PathBuf};

use openssh_mux_client::{Connection, Error as MuxError, ForwardType, Socket};

use super::dynamic::{self, DynamicError};
use crate::config::desired::{Forward, HostPort};
use crate::port::Endpoint;

/// A master did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    /// It answered with a refusal, in its own words.
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
        /// Who answered.
        answered: u32,
    },
}

impl From<MuxError> for MasterError {
    fn from(error: MuxError) -> Self {
        match error {
            MuxError::RequestFailure(reason) | MuxError::PermissionDenied(reason) => {
                Self::Refused(reason.into())
            }
            other => Self::Broken(other.to_string()),
        }
    }
}

impl From<DynamicError> for MasterError {
    fn from(error: DynamicError) -> Self {
        match error {
            DynamicError::Refused(reason) => Self::Refused(reason),
            DynamicError::Io(error) => Self::Broken(error.to_string()),
        }
    }
}

/// A connection to a master's control socket.
#[derive(Debug)]
pub struct Master {
    connection: Connection,
    control: PathBuf,
}

impl Master {
    /// Connects, and makes sure that it is the process `pid` that answers.
    pub async fn connect(control: &Path, pid: u32) -> Result<Self, MasterError> {
        let mut connection = Connection::connect(control).await?;
        let answered = connection.send_alive_check().await?.get();
        if answered != pid {
            return Err(MasterError::Stranger { expected: pid, answered });
        }
        Ok(Self { connection, control: control.to_owned() })
    }

    /// Asks for `forward`, listening on those of its `endpoints` that this machine has: all of them, or none.
    pub async fn open(&mut self, forward: &Forward, endpoints: &[Endpoint]) -> Result<(), MasterError> {
        let mut opened = Vec::new();
        for part in parts(forward, endpoints) {
            if let Err(error) = self.open_part(&part).await {
                for part in &opened {
                    // The refusal is the news; a master that cannot close either is ended by whoever hears of it.
                    let _ = self.close_part(part).await;
                }
                return Err(error);
            }
            opened.push(part);
        }
        Ok(())
    }

    /// Closes the listeners of `forward`, also those at the server. A listener that is not there is closed.
    pub async fn close(&mut self, forward: &Forward, endpoints: &[Endpoint]) -> Result<(), MasterError> {
        for part in parts(forward, endpoints) {
            match self.close_part(&part).await {
                Ok(()) | Err(MasterError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        match forward {
            Forward::Remote { .. } => self.hear_from_server().await,
            Forward::Local { .. } | Forward::Dynamic { .. } => Ok(()),
        }
    }

    /// Waits until the server has done what it was asked, for it answers in the order of the requests.
    ///
    /// ssh asks for a listener's end without waiting for an answer. Until then sshd gives the next connection those of the port's
    /// addresses that are free, and calls that a success. What ssh does wait for is a new listener: this one is on a port of the
    /// server's choice, leads nowhere, and is closed at once. A refusal is an answer, too.
    async fn hear_from_server(&mut self) -> Result<(), MasterError> {
        let listen = Socket::TcpSocket { port: 0, host: "localhost".into() };
        let nowhere = Socket::UnixSocket { path: Path::new("/dev/null").into() };
        match self.connection.request_port_forward(ForwardType::Remote, &listen, &nowhere).await {
            // The crate knows no answer that names a port.
            Ok(()) | Err(MuxError::InvalidServerResponse(..)) => {
                Ok(self.connection.close_port_forward(ForwardType::Remote, &listen, &nowhere).await?)
            }
            Err(MuxError::RequestFailure(_) | MuxError::PermissionDenied(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn open_part(&mut self, part: &Part<'_>) -> Result<(), MasterError> {
        match part {
            Part::Dynamic(endpoint) => dynamic::open(&self.control, *endpoint).await?,
            Part::Local(endpoint, target) => {
                let (listen, target) = (endpoint_socket(*endpoint), target_socket(target));
                self.connection.request_port_forward(ForwardType::Local, &listen, &target).await?;
            }
            Part::Remote(listen, target) => {
                let target = target_socket(target);
                self.connection.request_port_forward(ForwardType::Remote, listen, &target).await?;
            }
        }
        Ok(())
    }

    async fn close_part(&mut self, part: &Part<'_>) -> Result<(), MasterError> {
        match part {
            Part::Dynamic(endpoint) => dynamic::close(&self.control, *endpoint).await?,
            Part::Local(endpoint, target) => {
                let (listen, target) = (endpoint_socket(*endpoint), target_socket(target));
                self.connection.close_port_forward(ForwardType::Local, &listen, &target).await?;
            }
            Part::Remote(listen, target) => {
                let target = target_socket(target);
                self.connection.close_port_forward(ForwardType::Remote, listen, &target).await?;
            }
        }
        Ok(())
    }
}

/// Whether `line` of ssh's stderr is about the listener that only [`Master::close`] asks for. A server with `permitlisten` refuses it.
pub fn is_of_closing(line: &str) -> bool {
    line.trim_end().ends_with("remote port forwarding failed for listen port 0")
}

/// One request to the master: ssh binds one address at a time.
enum Part<'forward> {
    Local(Endpoint, &'forward HostPort),
    Remote(Socket<'forward>, &'forward HostPort),
    Dynamic(Endpoint),
}

fn parts<'forward>(forward: &'forward Forward, endpoints: &[Endpoint]) -> Vec<Part<'forward>> {
    match forward {
        Forward::Local { target, .. } => {
            endpoints.iter().map(|endpoint| Part::Local(*endpoint, target)).collect()
        }
        Forward::Dynamic { .. } => endpoints.iter().map(|endpoint| Part::Dynamic(*endpoint)).collect(),
        Forward::Remote { bind, port, target } => {
            // Without an address the server decides, as `ssh -R PORT:...` lets it: its loopback, unless GatewayPorts.
            let host = bind.as_deref().unwrap_or("localhost").into();
            vec![Part::Remote(Socket::TcpSocket { port: u32::from(*port), host }, target)]
        }
    }
}

fn endpoint_socket(endpoint: Endpoint) -> Socket<'static> {
    Socket::TcpSocket { port: u32::from(endpoint.port()), host: endpoint.address.ip().to_string().into() }
}

fn target_socket(target: &HostPort) -> Socket<'_> {
    Socket::TcpSocket { port: u32::from(target.port), host: target.host.as_str().into() }
}
