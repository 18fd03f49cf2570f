//! `POST /askpass`: a question of an ssh whose login a person attends. On the unix socket only: it comes from a process of this
//! machine, which portward's ssh has started.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{Router, post};
use tokio::sync::oneshot;

use super::context::{Context, answer};
use super::json::Json;
use super::refusal::Refusal;
use crate::daemon::handle::{Question, Update};
use crate::protocol::{AskpassAnswer, AskpassQuery, QuestionKind, Secret};

/// The route.
pub(super) fn routes() -> Router<Context> {
    Router::new().route("/askpass", post(ask))
}

async fn ask(State(context): State<Context>, body: Bytes) -> Result<Json<AskpassAnswer>, Refusal> {
    let _place = context.begin_wait()?;
    let AskpassQuery { token, kind, question } = serde_json::from_slice(&body).map_err(|error| {
        Refusal::bad_request(format!("the body is no question ({error}): only portward itself asks here"))
    })?;
    let updates = answer(Duration::ZERO, context.handle.asked(token)).await?.ok_or_else(nobody)?;
    let (reply, answered) = oneshot::channel();
    updates.send(Update::Asked(Question { kind, text: question, reply })).await.map_err(|_| nobody())?;
    let answer = match kind {
        QuestionKind::Notice => Secret(String::new()),
        QuestionKind::Text | QuestionKind::Confirm => answered.await.map_err(|_| nobody())?,
    };
    Ok(Json(AskpassAnswer { answer }))
}

fn nobody() -> Refusal {
    Refusal::new(StatusCode::GONE, "nobody is there any more to answer: log in with `portward auth`")
}
