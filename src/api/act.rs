//! `POST /start`, `/stop`, `/restart`, for one tunnel or for all that are not interactive.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{self, Router};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::context::{Context, Parameters, Tunnel, answer};
use super::json::Json;
use super::lookup::LookupError;
use super::refusal::Refusal;
use super::timeout::Timeout;
use super::wording::explain;
use crate::core::{Failure, StateName};
use crate::daemon::handle::{Outcome, Took, Verb};
use crate::daemon::snapshot::TunnelStatus;
use crate::port::Holder;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ActParameters {
    timeout: Timeout,
}

/// What became of one tunnel. The ancestor's `/start` answers with `status` and `output`, the seed's `/restart` with `success`
/// and `message`: every answer holds both.
#[derive(Debug, Serialize)]
struct Acted {
    status: Word,
    success: bool,
    name: String,
    tunnel_hash: String,
    log_id: String,
    message: String,
    output: String,
    state: StateName,
    took: Option<Took>,
    holder: Option<Holder>,
    last_error: Option<Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What became of all tunnels.
#[derive(Debug, Serialize)]
struct AllActed {
    status: Word,
    success: bool,
    message: String,
    /// One line for each tunnel.
    output: String,
    tunnels: Vec<Acted>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// How it ended; the greatest of several is the answer for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Success,
    Pending,
    Error,
}

impl Word {
    const fn code(self) -> StatusCode {
        match self {
            Self::Success => StatusCode::OK,
            Self::Pending => StatusCode::ACCEPTED,
            Self::Error => StatusCode::BAD_GATEWAY,
        }
    }
}

/// The six routes.
pub(super) fn routes() -> Router<Context> {
    let verbs = [("start", Verb::Start), ("stop", Verb::Stop), ("restart", Verb::Restart)];
    verbs.into_iter().fold(Router::new(), |router, (path, verb)| {
        let one = move |context, tunnel, parameters| act_on_one(verb, context, tunnel, parameters);
        let all = move |context, parameters| act_on_all(verb, context, parameters);
        router
            .route(&format!("/{path}/{{id}}"), routing::post(one))
            .route(&format!("/{path}"), routing::post(all))
    })
}

async fn act_on_one(
    verb: Verb,
    State(context): State<Context>,
    Tunnel(tunnel): Tunnel,
    Parameters(ActParameters { timeout }): Parameters<ActParameters>,
) -> Result<Response, Refusal> {
    let _place = context.begin_wait()?;
    let acted = act(&context, verb, tunnel, timeout).await?;
    Ok((acted.status.code(), Json(acted)).into_response())
}

async fn act_on_all(
    verb: Verb,
    State(context): State<Context>,
    Parameters(ActParameters { timeout }): Parameters<ActParameters>,
) -> Result<Response, Refusal> {
    let _place = context.begin_wait()?;
    let snapshot = context.snapshot().await?;
    let tunnels = snapshot.tunnels.iter().filter(|tunnel| !tunnel.interactive).cloned();
    // All are asked at once, and answered for in the order of the file.
    let asked: Vec<_> = tunnels
        .map(|tunnel| {
            let context = context.clone();
            tokio::spawn(async move { act(&context, verb, tunnel, timeout).await })
        })
        .collect();
    let mut tunnels = Vec::with_capacity(asked.len());
    for asked in asked {
        let acted = asked.await.map_err(|error| {
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}; please report this"))
        })?;
        tunnels.push(acted?);
    }
    let all = summarize(verb, tunnels);
    Ok((all.status.code(), Json(all)).into_response())
}

async fn act(
    context: &Context,
    verb: Verb,
    tunnel: TunnelStatus,
    Timeout(timeout): Timeout,
) -> Result<Acted, Refusal> {
    let outcome = answer(timeout, context.handle.act(verb, &tunnel.hash, timeout)).await?;
    // The tunnel was there a moment ago: a reload has removed it since.
    let outcome = outcome.ok_or(LookupError::Unknown { id: tunnel.name })?;
    Ok(describe(verb, outcome))
}

fn describe(verb: Verb, outcome: Outcome) -> Acted {
    let (status, word, took, failure) = match outcome {
        Outcome::Done { status, took } => (status, Word::Success, Some(took), None),
        Outcome::Unfinished { status } => (status, Word::Pending, None, None),
        Outcome::NotDone { status, failure } => (status, Word::Error, None, Some(failure)),
    };
    let name = &status.name;
    let message = match (took, &failure) {
        (Some(took), _) => done(verb, name, took),
        (None, Some(failure)) => format!("{name} was not {}: {failure}", past(verb)),
        (None, None) => format!(
            "{name} is not {} yet, but {}{} `portward status {name}` tells how it goes on.",
            wanted(verb),
            status.state,
            explain(&status, Timestamp::now()).map_or_else(|| ".".to_owned(), |text| format!(": it {text}"))
        ),
    };
    Acted {
        status: word,
        success: word == Word::Success,
        error: (word == Word::Error).then(|| message.clone()),
        output: message.clone(),
        message,
        state: status.state,
        took,
        // What was in the way of this very request says more than what the tunnel met before.
        last_error: failure.or(status.last_error),
        holder: status.holder,
        name: status.name,
        tunnel_hash: status.hash,
        log_id: status.log_id,
    }
}

fn done(verb: Verb, name: &str, took: Took) -> String {
    let Took { connect_ms, release_ms, forward_ms, total_ms } = took;
    match verb {
        Verb::Start | Verb::Restart => format!(
            "{name} is up after {total_ms:.1} ms (connect {connect_ms:.1}, release {release_ms:.1}, forward {forward_ms:.1})"
        ),
        Verb::Stop => format!("{name} is stopped after {total_ms:.1} ms"),
    }
}

fn summarize(verb: Verb, tunnels: Vec<Acted>) -> AllActed {
    let status = tunnels.iter().map(|tunnel| tunnel.status).max().unwrap_or(Word::Success);
    let done = tunnels.iter().filter(|tunnel| tunnel.success).count();
    let message = match tunnels.len() {
        0 => "there is no tunnel that is not interactive".to_owned(),
        total => format!("{done} of {total} tunnels {}", past(verb)),
    };
    let not_done: Vec<&str> =
        tunnels.iter().filter(|tunnel| !tunnel.success).map(|tunnel| tunnel.message.as_str()).collect();
    let error = (status == Word::Error).then(|| format!("{message}. {}", not_done.join(" ")));
    let output = tunnels.iter().map(|tunnel| tunnel.output.as_str()).collect::<Vec<_>>().join("\n");
    AllActed { status, success: status == Word::Success, message, output, tunnels, error }
}

const fn past(verb: Verb) -> &'static str {
    match verb {
        Verb::Start => "started",
        Verb::Stop => "stopped",
        Verb::Restart => "restarted",
    }
}

const fn wanted(verb: Verb) -> &'static str {
    match verb {
        Verb::Start | Verb::Restart => "up",
        Verb::Stop => "stopped",
    }
}
