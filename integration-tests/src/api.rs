//! The smallest HTTP client that can talk to the daemon's unix socket.

use std::path::Path;

use portward::protocol::{Change, Decoder, SentEvent, TunnelStatus};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::record::Record;

/// Where the API listens on 127.0.0.1 with [`Lab::configure_tcp`](crate::Lab::configure_tcp).
pub const API_PORT: u16 = 5002;
/// Its token.
pub const API_TOKEN: &str = "a-token-for-this-test";

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

    /// Reads an answer to its end, which is that of the connection.
    pub async fn read(mut stream: impl AsyncRead + Unpin) -> Self {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap_or_else(|error| panic!("{error} after {text:?}"));
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status in {head:?}"));
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }
}

/// Sends one request over the unix socket and reads the whole answer.
pub async fn request(socket: &Path, method: &str, path: &str, body: &str) -> Answer {
    let stream = UnixStream::connect(socket).await.expect("connecting to the API's socket");
    exchange(stream, method, path, "Host: portward\r\n", body).await
}

/// Asks another program for `path` over HTTP; `None`: it does not listen on this port of 127.0.0.1.
pub async fn get_of_other(port: u16, path: &str) -> Option<Answer> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    Some(exchange(stream, "GET", path, "Host: localhost\r\n", "").await)
}

/// The same with these headers; each ends with a line end.
pub async fn request_with(socket: &Path, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let stream = UnixStream::connect(socket).await.expect("connecting to the API's socket");
    exchange(stream, method, path, &format!("Host: portward\r\n{headers}"), body).await
}

/// Sends one request with the token and a body over TCP, and reads the whole answer.
pub async fn send_over_tcp(method: &str, path: &str, body: &str) -> Answer {
    let stream = TcpStream::connect(("127.0.0.1", API_PORT)).await.expect("connecting to the API over TCP");
    let headers = format!("Host: 127.0.0.1:{API_PORT}\r\nAuthorization: Bearer {API_TOKEN}\r\n");
    exchange(stream, method, path, &headers, body).await
}

/// Sends one request without a body over TCP, with this `Authorization` if any, and reads the whole answer.
pub async fn request_over_tcp(method: &str, path: &str, authorization: Option<&str>) -> Answer {
    let header = authorization.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
    request_over_tcp_with(method, path, &format!("Host: 127.0.0.1:{API_PORT}\r\n{header}")).await
}

/// The same with these headers, `Host` among them; each ends with a line end.
pub async fn request_over_tcp_with(method: &str, path: &str, headers: &str) -> Answer {
    let stream = TcpStream::connect(("127.0.0.1", API_PORT)).await.expect("connecting to the API over TCP");
    exchange(stream, method, path, headers, "").await
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Answer {
    let kind = if headers.contains("Content-Type:") { "" } else { "Content-Type: application/json\r\n" };
    // HTTP/1.0: the answer ends with the connection, and is never chunked.
    let request =
        format!("{method} {path} HTTP/1.0\r\n{kind}{headers}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    Answer::read(stream).await
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
