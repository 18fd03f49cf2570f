//! Answers that say no, as JSON.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::json::Json;
use crate::daemon::handle::ShuttingDown;
use crate::protocol::{LookupError, Refused};
use crate::text;

/// Longest reason, in bytes: the list of a configuration's errors.
const LONGEST: usize = 64 * 1024;

/// Longest reason for a request that makes no sense, in bytes: it repeats what was asked for.
const LONGEST_ECHO: usize = 1024;

/// When whoever was refused for want of room may ask again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// Why a request is refused, and the next step.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    body: Refused,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, body: Refused { error: text::cut(error.into(), LONGEST), message: None } }
    }

    pub(super) fn bad_request(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text::excerpt(&error.into(), LONGEST_ECHO))
    }

    /// The same, with 400 in place of 404.
    pub(super) fn or_bad_request(mut self) -> Self {
        if self.status == StatusCode::NOT_FOUND {
            self.status = StatusCode::BAD_REQUEST;
        }
        self
    }

    /// For now; the client is told when to ask again.
    pub(super) fn unavailable(error: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }

    /// autossh-tunnel's words for a missing or wrong token.
    pub(super) fn unauthorized() -> Self {
        let message = "send a line of api.token_file as `Authorization: Bearer TOKEN`";
        let body = Refused { error: "Unauthorized".to_owned(), message: Some(message.to_owned()) };
        Self { status: StatusCode::UNAUTHORIZED, body }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

impl From<LookupError> for Refusal {
    fn from(error: LookupError) -> Self {
        let status = match error {
            LookupError::Unknown { .. } => StatusCode::NOT_FOUND,
            LookupError::Ambiguous { .. } => StatusCode::CONFLICT,
        };
        Self::new(status, error.to_string())
    }
}

impl From<ShuttingDown> for Refusal {
    fn from(error: ShuttingDown) -> Self {
        Self::unavailable(format!("{error}; ask again once it is started"))
    }
}
