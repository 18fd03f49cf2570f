//! The smallest HTTP client that can talk to the daemon's unix socket.

use std::path::Path;

use portward::protocol::{Change, Decoder, SentEvent, TunnelStatus};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::record::Record;

/// An answer of the API.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The status line and the headers.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }
}

/// Sends one request over the unix socket and reads the whole answer.
pub async fn request(socket: &Path, method: &str, path: &str, body: &str) -> Answer {
    let mut stream = UnixStream::connect(socket).await.expect("connecting to the API's socket");
    // HTTP/1.0: the answer ends with the connection, and is never chunked.
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: portward\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    let (head, body) =
        text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer {
        status: status.unwrap_or_else(|| panic!("{method} {path}: no status in {head:?}")),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

/// Follows `/events`, and records every status that it tells of; those of the first snapshot are there when this returns.
pub(crate) async fn follow_events(socket: &Path, statuses: Record<TunnelStatus>) {
    let mut stream = UnixStream::connect(socket).await.expect("connecting to the API's socket");
    stream.write_all(b"GET /events HTTP/1.0\r\nHost: portward\r\n\r\n").await.unwrap();
    let mut events = Events { stream, decoder: Decoder::default() };
    // The first one comes with the head of the answer in front of it.
    let first = events.next().await.expect("/events begins with a snapshot");
    record(&first, &statuses);
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            record(&event, &statuses);
        }
    });
}

/// Other changes (a tunnel is gone, the configuration was read) are no statuses.
fn record(event: &SentEvent, statuses: &Record<TunnelStatus>) {
    let change = Change::parse(&event.name, &event.data);
    match change.unwrap_or_else(|error| panic!("{event:?}: {error}")) {
        Some(Change::Snapshot(snapshot)) => {
            snapshot.tunnels.into_iter().for_each(|status| statuses.push(status));
        }
        Some(Change::Tunnel(status)) => statuses.push(TunnelStatus::clone(&status)),
        _ => {}
    }
}

struct Events {
    stream: UnixStream,
    decoder: Decoder,
}

impl Events {
    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<SentEvent> {
        loop {
            if let Some(event) = self.decoder.take() {
                return Some(event);
            }
            let mut piece = Vec::with_capacity(4096);
            match self.stream.read_buf(&mut piece).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => self.decoder.push(&piece),
            }
        }
    }
}
