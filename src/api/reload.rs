//! `POST /reload`: read the configuration now.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::context::{Context, Parameters, answer};
use super::json::Json;
use super::refusal::Refusal;
use crate::daemon::handle::ReloadReport;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ReloadParameters {
    dry_run: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Reloaded {
    status: &'static str,
    dry_run: bool,
    #[serde(flatten)]
    report: ReloadReport,
}

/// `POST /reload?dry_run=true`. A file that cannot be put in force answers 422 and changes nothing.
pub(super) async fn reload(
    State(context): State<Context>,
    Parameters(ReloadParameters { dry_run }): Parameters<ReloadParameters>,
) -> Result<Json<Reloaded>, Refusal> {
    match answer(Duration::ZERO, context.handle.reload(dry_run)).await? {
        Ok(report) => Ok(Json(Reloaded { status: "success", dry_run, report })),
        Err(errors) => Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, errors)),
    }
}
