//! Paths to handlers.

use axum::http::{Method, StatusCode, Uri};
use axum::{Extension, Router, middleware};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::context::Context;
use super::description::Description;
use super::listen::Rules;
use super::refusal::Refusal;
use super::{
    act, askpass, auth, body, configure, cors, description, doctor, events, guests, host, logs, metrics,
    ports, read, reload, token,
};

/// All routes that clients may use, with their description.
fn described() -> OpenApiRouter<Context> {
    OpenApiRouter::with_openapi(description::base())
        .routes(routes!(read::list))
        .routes(routes!(read::status))
        .routes(routes!(read::health))
        .routes(routes!(act::start))
        .routes(routes!(act::start_all))
        .routes(routes!(act::stop))
        .routes(routes!(act::stop_all))
        .routes(routes!(act::restart))
        .routes(routes!(act::restart_all))
        .routes(routes!(read::configuration, configure::replace_all))
        .routes(routes!(configure::add))
        .routes(routes!(read::configured, configure::change, configure::remove))
        .routes(routes!(configure::remove_by_post))
        .routes(routes!(reload::reload))
        .routes(routes!(logs::summaries))
        .routes(routes!(logs::log))
        .routes(routes!(ports::who))
        .routes(routes!(events::events))
        .routes(routes!(doctor::doctor))
        .routes(routes!(metrics::metrics))
        .routes(routes!(auth::log_in))
        .routes(routes!(description::openapi))
}

/// The API for clients that may use it.
pub(super) fn router(context: Context) -> Router {
    let (router, api) = described().split_for_parts();
    let description = Description::of(api);
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(Extension(description))
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

async fn unknown_path(Extension(description): Extension<Description>, uri: Uri) -> Refusal {
    let error = format!("there is no {}: {}; /openapi.json describes them", uri.path(), description.paths());
    Refusal::new(StatusCode::NOT_FOUND, error)
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let error = format!("{method} does not go with {}: the header `Allow` says what does", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, error)
}
