//! Which version of the configuration an answer shows: its ETag, for `If-Match` of a later change.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::context::Context;
use super::json::Json;
use super::refusal::Refusal;

/// The version of the configuration, for `If-Match`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `Tagged` sends")]
pub(super) struct ETag(String);

/// An answer that shows this version.
#[derive(Debug)]
pub(super) struct Tagged<T>(pub(super) String, pub(super) T);

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.1).into_response();
        // Hex digits are a header's value.
        if let Ok(tag) = HeaderValue::try_from(format!("\"{}\"", self.0)) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response
    }
}

/// The version that is in force. To be asked for before what it is the version of: then a change in between makes a later
/// `If-Match` fail, and is not overwritten.
#[derive(Debug)]
pub(super) struct Version(pub(super) String);

impl FromRequestParts<Context> for Version {
    type Rejection = Refusal;

    async fn from_request_parts(_: &mut Parts, context: &Context) -> Result<Self, Refusal> {
        Ok(Self(context.snapshot().await?.config_version))
    }
}
