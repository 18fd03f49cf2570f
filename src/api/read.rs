//! `GET /list`, `/status`, `/health` and `/config`.

use std::time::Duration;

use axum::extract::State;

use super::context::{Context, Tunnel, TunnelId, answer};
use super::json::Json;
use super::refusal::Refusal;
use super::version::{ETag, Tagged, Version};
use crate::protocol::autossh_tunnel::{Configuration, Configured, Listed};
use crate::protocol::{Health, HealthWord, TunnelStatus};

/// The tunnels, in the words of autossh-tunnel.
#[utoipa::path(get, path = "/list", responses((status = OK, body = Vec<Listed>)))]
pub(super) async fn list(State(context): State<Context>) -> Result<Json<Vec<Listed>>, Refusal> {
    let snapshot = context.snapshot().await?;
    Ok(Json(snapshot.tunnels.iter().map(Listed::from).collect()))
}

/// The state of all tunnels. What they listen on is looked up in the kernel for this answer.
#[utoipa::path(get, path = "/status", responses((status = OK, body = Vec<TunnelStatus>)))]
pub(super) async fn status(State(context): State<Context>) -> Result<Json<Vec<TunnelStatus>>, Refusal> {
    let snapshot = answer(Duration::ZERO, context.handle.refreshed()).await?;
    Ok(Json(snapshot.tunnels))
}

/// Whether the daemon is well: its event loop is asked, because a daemon whose loop stands still is not.
#[utoipa::path(get, path = "/health", responses((status = OK, body = Health)))]
pub(super) async fn health(State(context): State<Context>) -> Result<Json<Health>, Refusal> {
    let snapshot = answer(Duration::ZERO, context.handle.refreshed()).await?;
    let is_up = |tunnel: &&TunnelStatus| tunnel.state.is_up();
    Ok(Json(Health {
        status: HealthWord::Ok,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        tunnels: snapshot.tunnels.len(),
        up: snapshot.tunnels.iter().filter(is_up).count(),
        failing: snapshot.tunnels.iter().filter(|tunnel| tunnel.is_failing()).count(),
        config_path: snapshot.config_path,
        config_error: snapshot.config_error,
        warnings: snapshot.warnings,
    }))
}

/// The tunnels of the configuration that is in force, as they are written.
#[utoipa::path(get, path = "/config", responses((status = OK, body = Configuration, headers(("ETag" = inline(ETag))))))]
pub(super) async fn configuration(State(context): State<Context>) -> Result<Tagged<Configuration>, Refusal> {
    let snapshot = context.snapshot().await?;
    let tunnels = snapshot.tunnels.iter().map(Configured::from).collect();
    Ok(Tagged(snapshot.config_version, Configuration { tunnels }))
}

/// One tunnel of the configuration that is in force, as it is written.
#[utoipa::path(get, path = "/config/{id}", params(TunnelId), responses((status = OK, body = Configured, headers(("ETag" = inline(ETag))))))]
pub(super) async fn configured(Version(version): Version, Tunnel(tunnel): Tunnel) -> Tagged<Configured> {
    Tagged(version, Configured::from(&tunnel))
}
