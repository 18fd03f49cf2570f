//! The body of an answer that refuses.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a request is refused, and the next step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refused {
    /// For a person; `Unauthorized` where the token is missing or wrong, as autossh-tunnel says it.
    pub error: String,
    /// The next step where `error` does not name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
