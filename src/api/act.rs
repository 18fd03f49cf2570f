//! `POST /start`, `/stop`, `/restart`, for one tunnel or for all that are not interactive.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use utoipa::IntoResponses;
use utoipa::openapi::{self, RefOr};

use super::context::{Context, Parameters, Tunnel, TunnelId, answer};
use super::description;
use super::json::Json;
use super::refusal::Refusal;
use crate::daemon::handle::Outcome;
use crate::protocol::wording::explain;
use crate::protocol::{
    ActQuery, Acted, AllActed, Conclusion, LookupError, StateName, Timeout, Took, TunnelStatus, Verb,
};
use crate::shell;

/// The answers when something is in the way, for the description.
struct NotDone;

impl IntoResponses for NotDone {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let all = [
            (StatusCode::CONFLICT, "The port is held, or a person must log in."),
            (StatusCode::BAD_GATEWAY, "It failed."),
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "It failed, and is tried again later; or there are too many requests.",
            ),
        ];
        let answer = |(status, meaning): (StatusCode, &str)| {
            let description = format!("{meaning} If it was tried, the fields of 200 say more.");
            (status.as_str().to_owned(), description::refused(description).into())
        };
        all.into_iter().map(answer).collect()
    }
}

/// The status of an answer about these tunnels.
fn code(conclusion: Conclusion, tunnels: &[Acted]) -> StatusCode {
    match conclusion {
        Conclusion::Success => StatusCode::OK,
        Conclusion::Pending => StatusCode::ACCEPTED,
        Conclusion::Error => {
            let failed = tunnels.iter().filter(|tunnel| tunnel.status == Conclusion::Error);
            failed.map(|tunnel| refused(tunnel.state)).max().unwrap_or(StatusCode::BAD_GATEWAY)
        }
    }
}

/// The status for a tunnel in this state that is not as it was to be.
const fn refused(state: StateName) -> StatusCode {
    match state {
        StateName::AwaitingPort | StateName::NeedsAuth => StatusCode::CONFLICT,
        StateName::Connecting | StateName::Forwarding | StateName::Backoff => StatusCode::SERVICE_UNAVAILABLE,
        StateName::Failed
        | StateName::Up
        | StateName::Replacing
        | StateName::Stopping
        | StateName::Stopped => StatusCode::BAD_GATEWAY,
    }
}

/// The answer to one of these requests.
type Answer = Result<Response, Refusal>;

/// Brings a tunnel up.
#[utoipa::path(
    post,
    path = "/start/{id}",
    params(TunnelId, ActQuery),
    responses((status = OK, body = Acted), (status = ACCEPTED, body = Acted), NotDone)
)]
pub(super) async fn start(context: State<Context>, tunnel: Tunnel, query: Parameters<ActQuery>) -> Answer {
    act_on_one(Verb::Start, context, tunnel, query).await
}

/// Brings up all tunnels that are not interactive.
#[utoipa::path(
    post,
    path = "/start",
    params(ActQuery),
    responses((status = OK, body = AllActed), (status = ACCEPTED, body = AllActed), NotDone)
)]
pub(super) async fn start_all(context: State<Context>, query: Parameters<ActQuery>) -> Answer {
    act_on_all(Verb::Start, context, query).await
}

/// Brings a tunnel down, and leaves nothing of it behind.
#[utoipa::path(
    post,
    path = "/stop/{id}",
    params(TunnelId, ActQuery),
    responses((status = OK, body = Acted), (status = ACCEPTED, body = Acted), NotDone)
)]
pub(super) async fn stop(context: State<Context>, tunnel: Tunnel, query: Parameters<ActQuery>) -> Answer {
    act_on_one(Verb::Stop, context, tunnel, query).await
}

/// Brings down all tunnels that are not interactive.
#[utoipa::path(
    post,
    path = "/stop",
    params(ActQuery),
    responses((status = OK, body = AllActed), (status = ACCEPTED, body = AllActed), NotDone)
)]
pub(super) async fn stop_all(context: State<Context>, query: Parameters<ActQuery>) -> Answer {
    act_on_all(Verb::Stop, context, query).await
}

/// Replaces the connection of a tunnel: the new one is made before the old one is given up. A tunnel that is not up is started.
#[utoipa::path(
    post,
    path = "/restart/{id}",
    params(TunnelId, ActQuery),
    responses((status = OK, body = Acted), (status = ACCEPTED, body = Acted), NotDone)
)]
pub(super) async fn restart(context: State<Context>, tunnel: Tunnel, query: Parameters<ActQuery>) -> Answer {
    act_on_one(Verb::Restart, context, tunnel, query).await
}

/// Replaces the connections of all tunnels that are neither interactive nor stopped.
#[utoipa::path(
    post,
    path = "/restart",
    params(ActQuery),
    responses((status = OK, body = AllActed), (status = ACCEPTED, body = AllActed), NotDone)
)]
pub(super) async fn restart_all(context: State<Context>, query: Parameters<ActQuery>) -> Answer {
    act_on_all(Verb::Restart, context, query).await
}

async fn act_on_one(
    verb: Verb,
    State(context): State<Context>,
    Tunnel(tunnel): Tunnel,
    Parameters(ActQuery { timeout }): Parameters<ActQuery>,
) -> Answer {
    let _place = context.begin_wait()?;
    let acted = act(&context, verb, tunnel, timeout).await?;
    Ok((code(acted.status, std::slice::from_ref(&acted)), Json(acted)).into_response())
}

async fn act_on_all(
    verb: Verb,
    State(context): State<Context>,
    Parameters(ActQuery { timeout }): Parameters<ActQuery>,
) -> Answer {
    let _place = context.begin_wait()?;
    let snapshot = context.snapshot().await?;
    // What is stopped on purpose has no connection to be replaced.
    let is_left_out = |tunnel: &TunnelStatus| verb == Verb::Restart && tunnel.state == StateName::Stopped;
    let tunnels =
        snapshot.tunnels.iter().filter(|tunnel| !tunnel.interactive && !is_left_out(tunnel)).cloned();
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
    Ok((code(all.status, &all.tunnels), Json(all)).into_response())
}

async fn act(
    context: &Context,
    verb: Verb,
    tunnel: TunnelStatus,
    timeout: Option<Timeout>,
) -> Result<Acted, Refusal> {
    let Timeout(longest) = timeout.unwrap_or_default();
    let outcome = answer(longest, context.handle.act(verb, &tunnel.hash, longest)).await?;
    // The tunnel was there a moment ago: a reload has removed it since.
    let outcome = outcome.ok_or(LookupError::Unknown { id: tunnel.name })?;
    Ok(describe(verb, outcome, timeout.is_some()))
}

/// Whether something is known to be in the way of a tunnel that is to come up.
fn is_hindered(status: &TunnelStatus) -> bool {
    match status.state {
        StateName::AwaitingPort => !status.held_by.is_empty() || status.last_error.is_some(),
        StateName::Backoff => true,
        StateName::Connecting | StateName::Forwarding => status.last_error.is_some(),
        StateName::Up
        | StateName::Replacing
        | StateName::Stopping
        | StateName::Stopped
        | StateName::Failed
        | StateName::NeedsAuth => false,
    }
}

/// `waits`: the client has said how long to wait, and knows that 202 is "not yet".
fn describe(verb: Verb, outcome: Outcome, waits: bool) -> Acted {
    let (status, word, took, failure) = match outcome {
        Outcome::Done { status, took } => (status, Conclusion::Success, Some(took), None),
        Outcome::Unfinished { status } if !waits && verb != Verb::Stop && is_hindered(&status) => {
            (status, Conclusion::Error, None, None)
        }
        Outcome::Unfinished { status } => (status, Conclusion::Pending, None, None),
        Outcome::NotDone { status, failure } => (status, Conclusion::Error, None, Some(failure)),
    };
    let (name, quoted) = (&status.name, shell::word(&status.name));
    let message = match (took, &failure) {
        (Some(took), _) => done(verb, &status, took),
        (None, Some(failure)) => format!("{name} was not {}: {failure}", past(verb)),
        (None, None) => format!(
            "{name} is not {} yet, but {}{} `portward status {quoted}` shows the progress.",
            wanted(verb),
            status.state,
            explain(&status, Timestamp::now()).map_or_else(|| ".".to_owned(), |text| format!(": it {text}"))
        ),
    };
    Acted {
        status: word,
        success: word == Conclusion::Success,
        error: (word == Conclusion::Error).then(|| message.clone()),
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

fn done(verb: Verb, status: &TunnelStatus, took: Took) -> String {
    let name = &status.name;
    let Took { connect_ms, release_ms, forward_ms, total_ms } = took;
    match verb {
        Verb::Restart if status.is_asleep() => {
            format!(
                "{name} sleeps: there is no connection to restart, and a new one is made when a client comes"
            )
        }
        Verb::Start if status.is_asleep() => {
            format!("{name} is up after {total_ms:.1} ms, and sleeps until a client comes")
        }
        Verb::Start | Verb::Restart => format!(
            "{name} is up after {total_ms:.1} ms (connect {connect_ms:.1}, release {release_ms:.1}, forward {forward_ms:.1})"
        ),
        Verb::Stop => format!("{name} is stopped after {total_ms:.1} ms"),
    }
}

fn summarize(verb: Verb, tunnels: Vec<Acted>) -> AllActed {
    let status = tunnels.iter().map(|tunnel| tunnel.status).max().unwrap_or(Conclusion::Success);
    let done = tunnels.iter().filter(|tunnel| tunnel.success).count();
    let message = match tunnels.len() {
        0 if verb == Verb::Restart => "there is no tunnel that is neither interactive nor stopped".to_owned(),
        0 => "there is no tunnel that is not interactive".to_owned(),
        total => format!("{done} of {total} tunnels {}", past(verb)),
    };
    let not_done: Vec<&str> =
        tunnels.iter().filter(|tunnel| !tunnel.success).map(|tunnel| tunnel.message.as_str()).collect();
    let error = (status == Conclusion::Error).then(|| format!("{message}. {}", not_done.join(" ")));
    let output = tunnels.iter().map(|tunnel| tunnel.output.as_str()).collect::<Vec<_>>().join("\n");
    AllActed { status, success: status == Conclusion::Success, message, output, tunnels, error }
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
