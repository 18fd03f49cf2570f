//! Why a command did not do what it was told, and the exit code for it.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use super::output;
use crate::port::PortError;
use crate::protocol::LookupError;
use crate::text;

/// Why a command did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// It could not be done; a text for a person.
    #[error("{0}")]
    NotDone(String),
    /// What was asked cannot be answered, for this reason.
    #[error("{0}")]
    Unclear(String),
    /// It could not be done, and everything about it was said already.
    #[error("not done")]
    Said,
    /// The daemon could not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The kernel could not be asked about ports.
    #[error(transparent)]
    Ports(#[from] PortError),
    /// The answer could not be printed.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody listens on the socket.
    #[error(
        "no portward answers on {} ({source}): start it with `systemctl start portward` or `portward run`, or name its \
         socket with --socket",
        socket.display()
    )]
    NoDaemon {
        /// The socket.
        socket: PathBuf,
        /// What connecting to it said.
        source: io::Error,
    },
    /// It is not for us.
    #[error(
        "the portward on {} belongs to another user ({source}): use sudo, or name another socket with --socket",
        socket.display()
    )]
    NotOurs {
        /// The socket.
        socket: PathBuf,
        /// What connecting to it said.
        source: io::Error,
    },
    /// The connection broke, or what came over it is no HTTP.
    #[error(
        "the portward on {} closed the connection ({source}): is it shutting down? See `systemctl status portward`",
        socket.display()
    )]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What went wrong.
        source: hyper::Error,
    },
    /// It has not answered in time.
    #[error("the portward on {} does not answer: see its log, and restart it if the log shows no reason", socket.display())]
    Silent {
        /// The socket.
        socket: PathBuf,
    },
    /// It has answered something else than this version of the command line knows.
    #[error("the portward on {} answered {told}: it may be another version; restart it", socket.display())]
    Odd {
        /// The socket.
        socket: PathBuf,
        /// What it answered.
        told: String,
    },
}

impl From<LookupError> for Failed {
    fn from(error: LookupError) -> Self {
        Self::NotDone(error.to_string())
    }
}

impl Failed {
    /// Says why on standard error.
    pub(super) fn report(&self) -> ExitCode {
        match self {
            // `portward logs | head`: the reader has what it wanted.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            Self::Said => {}
            Self::NotDone(_) | Self::Unclear(_) | Self::Client(_) | Self::Ports(_) | Self::Output(_) => {
                output::complain(&format!("portward: {}", text::lines(&self.to_string())));
            }
        }
        match self {
            Self::NotDone(_) | Self::Said | Self::Output(_) => ExitCode::from(1),
            Self::Unclear(_) | Self::Client(_) | Self::Ports(_) => ExitCode::from(2),
        }
    }
}
