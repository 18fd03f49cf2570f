//! Why a health check of a tunnel failed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::text;

/// Longest message, in bytes: the last line of a program, and the next step.
const LONGEST_MESSAGE: usize = 1024;

/// A failed check: the class (`health.last_error.kind`, `ERROR_KIND`) and a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckError {
    /// The class.
    pub kind: CheckErrorKind,
    /// One line for a person: what happened and the next step.
    pub message: String,
}

impl CheckError {
    /// A failed check of class `kind`. The message is made one line of 1024 bytes at most.
    pub fn new(kind: CheckErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: text::excerpt(&message.into(), LONGEST_MESSAGE).into_owned() }
    }
}

/// The class of a failed check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckErrorKind {
    /// The tunnel's listener could not be connected to.
    Refused,
    /// The tunnel accepted the connection and closed it before a byte came through.
    Closed,
    /// There was no answer in time, or the program did not end.
    Timeout,
    /// There was an answer, and it is not the one that was asked for.
    Answer,
    /// The program ended with another status than 0.
    Exited,
    /// The program was ended by a signal.
    Killed,
    /// The check could not be made.
    Failed,
}

impl CheckErrorKind {
    /// The word used in JSON and in the journal.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Answer => "answer",
            Self::Exited => "exited",
            Self::Killed => "killed",
            Self::Failed => "failed",
        }
    }
}
