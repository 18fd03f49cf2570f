//! `http`: a page comes through the tunnel.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;

use super::reach::{closed, connect};
use crate::core::{CheckError, CheckErrorKind};
use crate::relay::Announcer;

/// Bytes of an answer that are read: its head must fit in them. The body is not wanted.
const LONGEST_HEAD: usize = 16 * 1024;

/// Statuses that mean that the service is well: success, and a redirection, which is not followed.
const WELL: std::ops::Range<u16> = 200..400;

/// Sends `GET path` with this `Host`; the answer must be one of [`WELL`].
pub(super) async fn get(
    listen: SocketAddr,
    announcer: Option<&Announcer>,
    path: &str,
    host: &str,
    next_step: &str,
) -> Result<(), CheckError> {
    let answered = |kind: CheckErrorKind, how: &str, step: &str| {
        CheckError::new(kind, format!("GET {path} on {listen} {how}: {step}"))
    };
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "close")
        .header(header::USER_AGENT, concat!("portward/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new());
    let request = request.map_err(|error| {
        answered(CheckErrorKind::Failed, &format!("cannot be sent ({error})"), "correct `http`")
    })?;
    let stream = TokioIo::new(connect(listen, announcer).await?);
    let broken = |error: &hyper::Error| {
        if is_end(error) {
            closed(listen, &format!("did not answer GET {path} ({error})"), next_step)
        } else {
            let how = format!("was answered with something else than HTTP ({error})");
            let step = "`connect: true` checks services that speak another protocol";
            answered(CheckErrorKind::Answer, &how, step)
        }
    };
    let handshake = http1::Builder::new().max_buf_size(LONGEST_HEAD).handshake(stream).await;
    let (mut sender, connection) = handshake.map_err(|error| broken(&error))?;
    let mut connection = pin!(connection);
    let mut answer = pin!(sender.send_request(request));
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        // With the end of the connection the answer is there, or never comes.
        _ = &mut connection => answer.await,
    };
    let status = answer.map_err(|error| broken(&error))?.status();
    if WELL.contains(&status.as_u16()) {
        return Ok(());
    }
    Err(answered(
        CheckErrorKind::Answer,
        &format!("was answered with {status}"),
        "see the log of the service",
    ))
}

/// Whether the connection has ended; otherwise something came that is no answer.
fn is_end(error: &hyper::Error) -> bool {
    let is_of_socket = error.source().and_then(|source| source.downcast_ref::<io::Error>()).is_some();
    is_of_socket || error.is_incomplete_message() || error.is_closed() || error.is_canceled()
}
