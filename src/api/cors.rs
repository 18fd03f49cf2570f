//! Lets pages of other origins call the API from a browser, as panels of autossh-tunnel up to v2.3.0 do.

use axum::Router;
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, IF_MATCH};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use tower_http::cors::CorsLayer;

/// Answers what a browser asks beforehand, which it does without a token, and lets pages of these origins read all answers.
pub(super) fn allow(router: Router, origins: &[String]) -> Router {
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    if origins.is_empty() {
        return router;
    }
    let layer = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE, IF_MATCH])
        .expose_headers([ETAG]);
    router.layer(layer).layer(middleware::from_fn(without_content))
}

/// What the layer answers to OPTIONS has no body: autossh-tunnel says so by 204.
async fn without_content(request: Request, next: Next) -> Response {
    let is_asked_beforehand = request.method() == Method::OPTIONS;
    let mut response = next.run(request).await;
    if is_asked_beforehand && response.status() == StatusCode::OK {
        *response.status_mut() = StatusCode::NO_CONTENT;
    }
    response
}
