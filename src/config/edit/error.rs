//! Why a configuration is not edited. Nothing is changed then.

use std::fmt;

use super::super::diagnose::{Diagnostics, Place};
use crate::text;

/// Longest reason, in bytes.
const LONGEST: usize = 2000;

/// Problems that a reason names.
const NAMED: usize = 3;

/// Why a configuration is not edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The file has errors as it is.
    #[error(
        "the configuration has errors, and is not edited until they are fixed: `portward check` shows them all. {0}"
    )]
    Broken(String),
    /// What was asked for is not valid.
    #[error("not changed: {0}")]
    Refused(String),
    /// A tunnel without what every tunnel has.
    #[error("Missing required fields: name, remote_host, remote_port, local_port{0}")]
    Missing(String),
    /// The file is written in a way in which this cannot be changed without changing something else.
    #[error("not changed: {reason}{}: edit the file by hand", line.map_or_else(String::new, |line| format!(" (line {line})")))]
    Layout {
        /// What is in the way.
        reason: String,
        /// Where, from 1.
        line: Option<usize>,
    },
    /// All tunnels would be removed by a list that is empty, maybe because whoever sends it could not read the configuration.
    #[error(
        "not changed: an empty list would remove {0} tunnels. Add `?confirm=empty` to the path if that is wanted"
    )]
    Empty(usize),
}

impl EditError {
    pub(super) fn refused(reason: impl fmt::Display) -> Self {
        Self::Refused(text::excerpt(&reason.to_string(), LONGEST).into_owned())
    }

    pub(super) fn layout(reason: impl fmt::Display, place: Option<Place>) -> Self {
        let reason = text::excerpt(&reason.to_string(), LONGEST).into_owned();
        Self::Layout { reason, line: place.map(|place| place.line) }
    }

    /// The same, of what is at `place`.
    pub(super) fn at(self, place: Place) -> Self {
        match self {
            Self::Layout { reason, line: None } => Self::Layout { reason, line: Some(place.line) },
            Self::Layout { .. } | Self::Broken(_) | Self::Refused(_) | Self::Missing(_) | Self::Empty(_) => {
                self
            }
        }
    }

    /// The file has these errors.
    pub(super) fn broken(problems: Diagnostics) -> Self {
        Self::Broken(text::excerpt(&problems.without_secrets().to_string(), LONGEST).into_owned())
    }

    /// With the change, the file would have these errors.
    pub(super) fn invalid(problems: Diagnostics) -> Self {
        let problems = problems.without_secrets().problems;
        let say = |problem: &super::super::Diagnostic| match &problem.hint {
            Some(hint) => format!("{} ({hint})", problem.message),
            None => problem.message.clone(),
        };
        let mut named: Vec<String> = problems.iter().take(NAMED).map(say).collect();
        if problems.len() > NAMED {
            named.push(format!("and {} more", problems.len() - NAMED));
        }
        Self::refused(named.join("; "))
    }
}
