//! `GET /list`, `/status`, `/health` and `/config`: what is, in the ancestor's shapes.

use axum::extract::State;
use serde::Serialize;

use super::context::{Context, Tunnel, answer};
use super::json::Json;
use super::refusal::Refusal;
use crate::core::StateName;
use crate::daemon::snapshot::TunnelStatus;
use std::time::Duration;

/// An element of `GET /list`.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    name: String,
    status: &'static str,
    local_port: String,
    remote_host: String,
    remote_port: String,
    hash: String,
}

/// The answer of `GET /health`.
#[derive(Debug, Serialize)]
pub(super) struct Health {
    /// Always `ok`: a daemon that is not answers 503 or nothing.
    status: &'static str,
    version: &'static str,
    pid: u32,
    tunnels: usize,
    up: usize,
    config_path: String,
    /// Why the file as it stands is not in force.
    config_error: Option<String>,
    /// What portward itself cannot do for now, each with the next step.
    warnings: Vec<String>,
}

/// A tunnel as the configuration has it.
#[derive(Debug, Serialize)]
pub(super) struct Configured {
    name: String,
    remote_host: String,
    remote_port: String,
    local_port: String,
    direction: String,
    interactive: bool,
    hash: String,
}

/// The answer of `GET /config`.
#[derive(Debug, Serialize)]
pub(super) struct Configuration {
    tunnels: Vec<Configured>,
}

impl From<&TunnelStatus> for Listed {
    fn from(tunnel: &TunnelStatus) -> Self {
        Self {
            name: tunnel.name.clone(),
            status: if tunnel.interactive { "INTERACTIVE" } else { "NORMAL" },
            local_port: tunnel.local_port.clone(),
            remote_host: tunnel.remote_host.clone(),
            remote_port: tunnel.remote_port.clone(),
            hash: tunnel.hash.clone(),
        }
    }
}

impl From<&TunnelStatus> for Configured {
    fn from(tunnel: &TunnelStatus) -> Self {
        Self {
            name: tunnel.name.clone(),
            remote_host: tunnel.remote_host.clone(),
            remote_port: tunnel.remote_port.clone(),
            local_port: tunnel.local_port.clone(),
            direction: tunnel.direction.clone(),
            interactive: tunnel.interactive,
            hash: tunnel.hash.clone(),
        }
    }
}

/// `GET /list`.
pub(super) async fn list(State(context): State<Context>) -> Result<Json<Vec<Listed>>, Refusal> {
    let snapshot = context.snapshot().await?;
    Ok(Json(snapshot.tunnels.iter().map(Listed::from).collect()))
}

/// `GET /status`: the listeners are looked up in the kernel for this answer.
pub(super) async fn status(State(context): State<Context>) -> Result<Json<Vec<TunnelStatus>>, Refusal> {
    let snapshot = answer(Duration::ZERO, context.handle.refreshed()).await?;
    Ok(Json(snapshot.tunnels))
}

/// `GET /health`: asks the event loop, because a daemon whose loop stands still is not well.
pub(super) async fn health(State(context): State<Context>) -> Result<Json<Health>, Refusal> {
    let snapshot = answer(Duration::ZERO, context.handle.refreshed()).await?;
    let is_up = |tunnel: &&TunnelStatus| matches!(tunnel.state, StateName::Up | StateName::Replacing);
    Ok(Json(Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        tunnels: snapshot.tunnels.len(),
        up: snapshot.tunnels.iter().filter(is_up).count(),
        config_path: snapshot.config_path,
        config_error: snapshot.config_error,
        warnings: snapshot.warnings,
    }))
}

/// `GET /config`.
pub(super) async fn configuration(State(context): State<Context>) -> Result<Json<Configuration>, Refusal> {
    let snapshot = context.snapshot().await?;
    Ok(Json(Configuration { tunnels: snapshot.tunnels.iter().map(Configured::from).collect() }))
}

/// `GET /config/{id}`.
pub(super) async fn configured(Tunnel(tunnel): Tunnel) -> Json<Configured> {
    Json(Configured::from(&tunnel))
}
