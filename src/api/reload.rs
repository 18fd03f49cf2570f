//! `POST /reload`: read the configuration now.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;

use super::context::{Context, Parameters, answer};
use super::json::Json;
use super::refusal::Refusal;
use crate::protocol::{Conclusion, ReloadQuery, Reloaded};

/// `POST /reload?dry_run=true`. A file that cannot be put in force answers 422 and changes nothing.
pub(super) async fn reload(
    State(context): State<Context>,
    Parameters(ReloadQuery { dry_run }): Parameters<ReloadQuery>,
) -> Result<Json<Reloaded>, Refusal> {
    match answer(Duration::ZERO, context.handle.reload(dry_run)).await? {
        Ok(report) => Ok(Json(Reloaded { status: Conclusion::Success, dry_run, report })),
        Err(errors) => Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, errors)),
    }
}
