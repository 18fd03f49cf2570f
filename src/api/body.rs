//! Reads the body of every request: bounded in size and time, whatever becomes of it.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use tokio::time;

use super::refusal::Refusal;

/// Longest body of a request, in bytes.
const LONGEST: usize = 64 * 1024;

/// A body that is too long is read up to here and thrown away, so that a client that sends first and reads afterwards still
/// gets its 413; beyond it, the connection is closed.
const DRAINED_AT_MOST: usize = 16 * LONGEST;

/// A body must have arrived after this.
const DEADLINE: Duration = Duration::from_secs(10);

/// Middleware: hands on the request with its body read. What is not empty must be JSON, whatever its type is said to be: curl says that it is a form.
pub(super) async fn read(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let read = match time::timeout(DEADLINE, collect(body)).await {
        Ok(read) => read.and_then(check_json),
        Err(_) => Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive within {} s: send it at once, or none", DEADLINE.as_secs()),
        )),
    };
    match read {
        Ok(bytes) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Err(refusal) => refusal.into_response(),
    }
}

async fn collect(mut body: Body) -> Result<Bytes, Refusal> {
    let mut bytes = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refusal::bad_request(format!("the body is broken: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length <= LONGEST {
            bytes.extend_from_slice(&data);
        } else if length > DRAINED_AT_MOST {
            break;
        }
    }
    if length > LONGEST {
        let error = format!("the body is longer than {LONGEST} bytes: no request needs that");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, error));
    }
    Ok(bytes.into())
}

fn check_json(bytes: Bytes) -> Result<Bytes, Refusal> {
    if bytes.is_empty() {
        return Ok(bytes);
    }
    match serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => {
            Err(Refusal::bad_request(format!("the body is not JSON ({error}): send JSON, or no body at all")))
        }
    }
}
