//! `POST /start`, `/stop`, `/restart`, for one tunnel or for all that are not interactive.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::timeout::Timeout;
use crate::core::{Failure, StateName};
use crate::port::Holder;

/// What may be asked of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Bring it up.
    Start,
    /// Bring it down, and leave nothing behind.
    Stop,
    /// Replace its connection, make before break; start it if it is not up.
    Restart,
}

/// The word in paths and on the command line.
impl fmt::Display for Verb {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
        })
    }
}

/// The query of these requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct ActQuery {
    /// How long to wait before the answer is 202. Without it the answer comes after 5 s at the latest, and is 202 only if nothing is
    /// known to be in the way: clients of autossh-tunnel take every 2xx for done.
    #[param(value_type = Option<String>, pattern = "^([0-9]{1,5}ms|[0-9]{1,2}s|[1-5]m)$", example = "5s")]
    pub timeout: Option<Timeout>,
}

/// As it is written behind the question mark.
impl fmt::Display for ActQuery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.timeout {
            Some(Timeout(timeout)) => write!(formatter, "timeout={}ms", timeout.as_millis()),
            None => Ok(()),
        }
    }
}

/// The result of a request; of several, the greatest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Conclusion {
    /// 200: done.
    Success,
    /// 202: the time was over first; portward goes on trying.
    Pending,
    /// It could not be done. 409: the port is held, or a person is needed; 503: portward tries again later; 502 otherwise.
    Error,
}

/// The result for one tunnel. autossh-tunnel's `/start` answers with `status` and `output`, other clients expect `success` and
/// `message`: every answer has both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Acted {
    /// The result.
    pub status: Conclusion,
    /// Whether `status` is `success`.
    pub success: bool,
    /// Name of the tunnel.
    pub name: String,
    /// Its hash.
    pub tunnel_hash: String,
    /// Its `log_id`.
    pub log_id: String,
    /// One sentence for a person.
    pub message: String,
    /// The same.
    pub output: String,
    /// State of the tunnel at the end of the request.
    pub state: StateName,
    /// How long each phase took, if it was done.
    pub took: Option<Took>,
    /// The process that holds the port which the tunnel waits for.
    pub holder: Option<Holder>,
    /// Why it could not be done, or the last failure.
    pub last_error: Option<Failure>,
    /// `message`, if it could not be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The result for all tunnels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AllActed {
    /// The greatest of all results.
    pub status: Conclusion,
    /// Whether `status` is `success`.
    pub success: bool,
    /// One sentence for a person.
    pub message: String,
    /// One line for each tunnel.
    pub output: String,
    /// In the order of the file.
    pub tunnels: Vec<Acted>,
    /// Which tunnels failed and why, if any did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How long each phase of a start or restart took, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct Took {
    /// From the start of the process until it was ready.
    pub connect_ms: f64,
    /// From letting go of the old listener until the kernel confirmed the port unbound.
    pub release_ms: f64,
    /// From asking for the forward until it listened.
    pub forward_ms: f64,
    /// From the request to its end.
    pub total_ms: f64,
}
