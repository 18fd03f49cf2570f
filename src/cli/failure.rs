//! Why a command did not do what it was told, and the exit code for it.

use std::io;
use std::process::ExitCode;

use super::client::ClientError;
use super::output;
use crate::api::lookup::LookupError;
use crate::port::PortError;
use crate::text;

/// Why a command did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// It could not be done; a text for a person.
    #[error("{0}")]
    NotDone(String),
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
            Self::NotDone(_) | Self::Client(_) | Self::Ports(_) | Self::Output(_) => {
                output::complain(&format!("portward: {}", text::lines(&self.to_string())));
            }
        }
        match self {
            Self::NotDone(_) | Self::Said | Self::Output(_) => ExitCode::from(1),
            Self::Client(_) | Self::Ports(_) => ExitCode::from(2),
        }
    }
}
