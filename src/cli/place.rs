//! What `portward who` is asked about.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::port::{Occupant, PortRange, PortRangeError};
use crate::{shell, text};

/// Ports, or a unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Ports.
    Ports(PortRange),
    /// The path of a unix socket.
    Socket(PathBuf),
}

impl FromStr for Place {
    type Err = PortRangeError;

    /// What has a slash in it is a path.
    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        if text.contains('/') { Ok(Self::Socket(text.into())) } else { text.parse().map(Self::Ports) }
    }
}

impl Place {
    /// Whether `occupant` was found there.
    pub(super) fn is_of(&self, occupant: &Occupant) -> bool {
        match self {
            Self::Ports(range) => occupant.path.is_none() && range.ports().contains(&occupant.port),
            Self::Socket(path) => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                occupant.path.as_deref() == Some(&text::line(&path.to_string_lossy()))
            }
        }
    }
}

/// As a word for a shell.
impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports(range) => range.fmt(formatter),
            Self::Socket(path) => formatter.write_str(&shell::word(&path.to_string_lossy())),
        }
    }
}
