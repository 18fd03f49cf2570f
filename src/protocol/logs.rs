//! `GET /logs/{id}`: the recent lines of a tunnel, and those to come.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::actions::Conclusion;

/// The query of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct LogQuery {
    /// How many of the last lines.
    #[param(maximum = 4_294_967_295_u32)]
    pub lines: u32,
    /// Whether to answer with server-sent events, one for each line, and to go on with the lines to come.
    pub follow: bool,
}

impl Default for LogQuery {
    fn default() -> Self {
        Self { lines: 100, follow: false }
    }
}

/// As it is written behind the question mark.
impl fmt::Display for LogQuery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "lines={}&follow={}", self.lines, self.follow)
    }
}

/// The answer: autossh-tunnel's clients read `log`, others read `lines`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecentLog {
    /// Always `success`.
    pub status: Conclusion,
    /// Hash of the tunnel.
    pub tunnel_hash: String,
    /// The lines as one text.
    pub log: String,
    /// The last lines, the latest last.
    pub lines: Vec<String>,
    /// The tunnel's `log_id`.
    pub log_id: String,
}
