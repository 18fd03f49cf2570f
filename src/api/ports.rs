//! `GET /ports/{port}`: who holds it, in the words of `portward who --json`.

use axum::extract::Path;
use axum::http::StatusCode;
use tokio::task::spawn_blocking;

use super::context::Parameters;
use super::json::Json;
use super::refusal::Refusal;
use crate::port::{Occupant, Ports, Question};
use crate::protocol::PortQuery;

/// `GET /ports/{port}?protocol=udp&clients=true`. An empty array says that nobody holds it.
pub(super) async fn who(
    Path(port): Path<String>,
    Parameters(PortQuery { protocol, clients }): Parameters<PortQuery>,
) -> Result<Json<Vec<Occupant>>, Refusal> {
    let Some(port) = port.parse::<u16>().ok().filter(|port| *port != 0) else {
        return Err(Refusal::bad_request(format!("`{port}` is not a port: ports go from 1 to 65535")));
    };
    let question = Question { ports: vec![port..=port], protocol, connections: clients };
    let failed = |error: String| {
        Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("cannot find out who holds port {port}: {error}"),
        )
    };
    // It reads all of /proc.
    let occupants = spawn_blocking(move || Ports::new()?.occupants(&question))
        .await
        .map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(error.to_string()))?;
    Ok(Json(occupants))
}
