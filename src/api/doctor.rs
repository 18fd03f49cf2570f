//! `GET /doctor`: the daemon examines itself.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::context::{Context, Parameters};
use super::json::Json;
use super::refusal::Refusal;
use crate::protocol::doctor::{DoctorQuery, Report, TIME_LIMIT};

/// Runs the checks, which block.
#[derive(Clone)]
pub struct Examine(Arc<dyn Fn(DoctorQuery) -> Report + Send + Sync>);

impl Examine {
    /// `examine` is called on a thread that may block, and never twice at the same time.
    pub fn new(examine: impl Fn(DoctorQuery) -> Report + Send + Sync + 'static) -> Self {
        Self(Arc::new(examine))
    }
}

impl fmt::Debug for Examine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Examine").finish_non_exhaustive()
    }
}

/// `GET /doctor?uid=1000`. One examination runs at a time; others wait.
pub(super) async fn doctor(
    State(context): State<Context>,
    Parameters(query): Parameters<DoctorQuery>,
) -> Result<Json<Report>, Refusal> {
    let _place = context.begin_wait()?;
    let Examine(examine) = context.examine.clone();
    let examined = async {
        let permit = context.begin_examination().await;
        // An examination that does not end keeps its permit, so that no second thread hangs with it.
        spawn_blocking(move || (examine(query), permit)).await
    };
    match timeout(TIME_LIMIT, examined).await {
        Ok(Ok((report, _permit))) => Ok(Json(report)),
        Ok(Err(error)) => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
        Err(_) => Err(Refusal::unavailable(format!(
            "the examination does not end within {TIME_LIMIT:?}: a file system or a program hangs"
        ))),
    }
}
