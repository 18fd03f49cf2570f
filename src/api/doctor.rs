//! `GET /doctor`: the daemon examines itself.

use axum::extract::State;
use axum::http::StatusCode;
use tokio::time::timeout;

use super::context::{Context, Parameters};
use super::json::Json;
use super::refusal::Refusal;
use crate::protocol::doctor::{DoctorQuery, Report, TIME_LIMIT};

/// What would make a tunnel fail, and the fix. One examination runs at a time; others wait.
#[utoipa::path(get, path = "/doctor", params(DoctorQuery), responses((status = OK, body = Report)))]
pub(super) async fn doctor(
    State(context): State<Context>,
    Parameters(query): Parameters<DoctorQuery>,
) -> Result<Json<Report>, Refusal> {
    let _place = context.begin_wait()?;
    match timeout(TIME_LIMIT, context.examine.report(query)).await {
        Ok(Ok(report)) => Ok(Json(report)),
        Ok(Err(error)) => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
        Err(_) => Err(Refusal::unavailable(format!(
            "the examination does not end within {TIME_LIMIT:?}: a file system or a program hangs"
        ))),
    }
}
