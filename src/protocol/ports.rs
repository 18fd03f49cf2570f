//! `GET /ports/{port}`, which answers with an array of [`Occupant`](crate::port::Occupant)s as `portward who --json` does.

use serde::Deserialize;
use utoipa::IntoParams;

use crate::port::Protocol;

/// The query of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct PortQuery {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Whether connections are shown beside what holds the port.
    pub clients: bool,
}
