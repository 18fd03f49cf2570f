//! `POST /reload`: read the configuration now.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::actions::Conclusion;

/// The query of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct ReloadQuery {
    /// Only report what would be done.
    pub dry_run: bool,
}

/// As it is written behind the question mark.
impl fmt::Display for ReloadQuery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "dry_run={}", self.dry_run)
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// `error` if the file has errors.
    pub status: Conclusion,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The difference.
    #[serde(flatten)]
    pub report: ReloadReport,
}

/// What a reload did, or would do; names of tunnels.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct ReloadReport {
    /// New tunnels.
    pub added: Vec<String>,
    /// Tunnels that are gone.
    pub removed: Vec<String>,
    /// Tunnels that are restarted with what is new.
    pub changed: Vec<String>,
    /// Tunnels that go on as they are, renamed ones included.
    pub unchanged: Vec<String>,
    /// Entries with errors: they run as before, or not at all. Then no tunnel is removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<String>,
    /// Those errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
