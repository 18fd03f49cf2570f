//! Server-sent events that end with the client, with their source or with the daemon.
//!
//! There is no keep-alive comment: nothing in portward runs by the clock. A client that is gone is noticed by its closed
//! connection.

use std::convert::Infallible;

use axum::response::Sse;
use axum::response::sse::Event;
use tokio::sync::mpsc::{self, error::SendError};
use tokio_stream::wrappers::ReceiverStream;

use super::context::Context;
use super::refusal::Refusal;
use crate::daemon::handle::ShuttingDown;
use crate::protocol::Change;
use crate::text;

/// Events on their way to one client; who cannot keep up with more is caught up by a snapshot.
const QUEUE: usize = 2;

/// Where a feed puts its events.
#[derive(Debug, Clone)]
pub(super) struct Outlet(mpsc::Sender<Result<Event, Infallible>>);

/// The client is gone, the daemon is ending, or an event could not be written as JSON: the stream is over.
#[derive(Debug)]
pub(super) struct Over;

impl From<ShuttingDown> for Over {
    fn from(ShuttingDown: ShuttingDown) -> Self {
        Self
    }
}

impl Outlet {
    /// Sends a change, with its data as JSON.
    pub(super) async fn change(&self, change: &Change) -> Result<(), Over> {
        let json = change.data().map_err(|_| Over)?;
        self.send(Event::default().event(change.name()).data(text::json(&json))).await
    }

    /// Sends `text` as one line of data.
    pub(super) async fn line(&self, text: &str) -> Result<(), Over> {
        self.send(Event::default().data(text.replace(['\r', '\n'], " "))).await
    }

    async fn send(&self, event: Event) -> Result<(), Over> {
        self.0.send(Ok(event)).await.map_err(|SendError(_)| Over)
    }
}

/// A response that streams what `feed` puts into its outlet; 503 when there are too many streams already.
pub(super) fn stream<F>(
    context: &Context,
    feed: impl FnOnce(Outlet) -> F,
) -> Result<Sse<ReceiverStream<Result<Event, Infallible>>>, Refusal>
where
    F: Future<Output = Result<(), Over>> + Send + 'static,
{
    let place = context.begin_stream()?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let mut ending = context.ending.clone();
    let feed = feed(Outlet(sender.clone()));
    tokio::spawn(async move {
        tokio::select! {
            _ = feed => {}
            () = ending.begun() => {}
            () = sender.closed() => {}
        }
        drop(place);
    });
    Ok(Sse::new(ReceiverStream::new(receiver)))
}
