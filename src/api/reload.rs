//! `POST /reload`: read the configuration now.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::context::{Context, Parameters, answer};
use super::json::Json;
use super::refusal::Refusal;
use crate::protocol::{Conclusion, Refused, ReloadQuery, Reloaded};

/// Reads the configuration now. What is valid in a file with errors is put in force all the same, unless nothing is.
#[utoipa::path(
    post,
    path = "/reload",
    params(ReloadQuery),
    responses(
        (status = OK, body = Reloaded),
        (
            status = UNPROCESSABLE_ENTITY,
            description = "The file has errors. If a part of it is in force, the fields of 200 say which.",
            body = Refused
        )
    )
)]
pub(super) async fn reload(
    State(context): State<Context>,
    Parameters(ReloadQuery { dry_run }): Parameters<ReloadQuery>,
) -> Result<Response, Refusal> {
    match answer(Duration::ZERO, context.handle.reload(dry_run)).await? {
        Ok(report) => {
            let (code, status) = match report.error {
                None => (StatusCode::OK, Conclusion::Success),
                Some(_) => (StatusCode::UNPROCESSABLE_ENTITY, Conclusion::Error),
            };
            Ok((code, Json(Reloaded { status, dry_run, report })).into_response())
        }
        Err(errors) => Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, errors)),
    }
}
