//! `GET /ports/{port}`: who holds it, in the words of `portward who --json`.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use tokio::task::spawn_blocking;

use super::context::{Context, Parameters};
use super::json::Json;
use super::refusal::Refusal;
use crate::port::{Kinship, Occupant, Ports, Question};
use crate::protocol::{PortQuery, Snapshot};

/// Who holds a port of this machine. An empty array says that nobody does.
#[utoipa::path(
    get,
    path = "/ports/{port}",
    params(("port" = u16, Path, minimum = 1, maximum = 65535), PortQuery),
    responses((status = OK, body = Vec<Occupant>))
)]
pub(super) async fn who(
    State(context): State<Context>,
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
    let mut occupants = spawn_blocking(move || Ports::new()?.occupants(&question))
        .await
        .map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(error.to_string()))?;
    if occupants.iter().any(is_ours) {
        name_tunnels(&mut occupants, &context.snapshot().await?);
    }
    Ok(Json(occupants))
}

/// Whether this daemon itself has the socket.
fn is_ours(occupant: &Occupant) -> bool {
    occupant.holder.as_ref().is_some_and(|holder| holder.kinship == Kinship::Itself)
}

/// Says for which tunnels this daemon itself listens.
fn name_tunnels(occupants: &mut [Occupant], snapshot: &Snapshot) {
    for occupant in occupants.iter_mut().filter(|occupant| is_ours(occupant)) {
        let mut held = snapshot.tunnels.iter().filter(|tunnel| tunnel.clients.is_some());
        let tunnel = held.find(|tunnel| tunnel.listeners.contains(&occupant.address));
        if let (Some(holder), Some(tunnel)) = (&mut occupant.holder, tunnel) {
            holder.tunnel = Some(tunnel.name.clone());
        }
    }
}
