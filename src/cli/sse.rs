//! The stream of server-sent events over HTTP.

use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::failure::Failed;
use crate::protocol::{Decoder, SentEvent};

/// A stream of events.
#[derive(Debug)]
pub(super) struct EventStream {
    body: Incoming,
    decoder: Decoder,
}

impl EventStream {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, decoder: Decoder::default() }
    }

    /// The next event.
    pub(super) async fn next(&mut self) -> Result<SentEvent, Failed> {
        loop {
            if let Some(event) = self.decoder.take() {
                return Ok(event);
            }
            let Some(Ok(frame)) = self.body.frame().await else {
                let reason = "the daemon has ended the stream: it was stopped, the tunnel was removed, or nobody read for 30 s";
                return Err(Failed::NotDone(reason.to_owned()));
            };
            self.decoder.push(&frame.into_data().unwrap_or_default());
        }
    }
}
