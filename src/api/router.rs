//! Paths to handlers.

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware;
use axum::routing::{get, post};

use super::context::Context;
use super::listen::Rules;
use super::refusal::Refusal;
use super::{
    act, askpass, auth, body, configure, cors, doctor, events, guests, host, logs, metrics, ports, read,
    reload, token,
};

/// The API for clients that may use it.
pub(super) fn router(context: Context) -> Router {
    Router::new()
        .route("/list", get(read::list))
        .route("/status", get(read::status))
        .route("/health", get(read::health))
        .route("/config", configure::all())
        .route("/config/new", post(configure::add))
        .route("/config/{id}", configure::one())
        .route("/config/{id}/delete", post(configure::remove))
        .route("/logs", get(logs::summaries))
        .route("/logs/{id}", get(logs::log))
        .route("/ports/{port}", get(ports::who))
        .route("/doctor", get(doctor::doctor))
        .route("/metrics", get(metrics::metrics))
        .route("/events", get(events::events))
        .route("/reload", post(reload::reload))
        .merge(act::routes())
        .merge(auth::routes())
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(guests::answer))
        .layer(middleware::from_fn(body::read))
        .with_state(context)
}

/// The API for clients of the unix socket that may use it.
pub(super) fn local_router(context: Context) -> Router {
    let own = askpass::routes()
        .layer(middleware::from_fn(guests::answer))
        .layer(middleware::from_fn(body::read))
        .with_state(context.clone());
    router(context).merge(own)
}

/// The API for clients that may use it if they have a token, and are not sent by a page of another site than the `rules` allow.
pub(super) fn guarded_router(context: Context, rules: Rules) -> Router {
    let Rules { tokens, hosts, cors_origins } = rules;
    let guarded = router(context).layer(middleware::from_fn_with_state(tokens, token::require));
    let guarded = guarded.layer(middleware::from_fn(auth::take_token_of_query));
    cors::allow(guarded, &cors_origins).layer(middleware::from_fn_with_state(hosts, host::check))
}

/// The API for peers that may not use it.
pub(super) fn closed_router() -> Router {
    Router::new().fallback(async || {
        let error = "this socket is for the user that portward runs as, and for root: use sudo";
        Refusal::new(StatusCode::FORBIDDEN, error)
    })
}

async fn unknown_path(uri: Uri) -> Refusal {
    let error = format!(
        "there is no {}: GET has /list, /status, /health, /logs, /logs/{{id}}, /events, /metrics, /doctor, /ports/{{port}}, /config, /config/{{id}} and the WebSocket /ws/auth/{{hash}}; POST \
         has /start, /stop and /restart, each also with /{{id}}, /reload, /config, /config/new, /config/{{id}} and \
         /config/{{id}}/delete",
        uri.path()
    );
    Refusal::new(StatusCode::NOT_FOUND, error)
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let error = format!("{method} does not go with {}: the header `Allow` says what does", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, error)
}
