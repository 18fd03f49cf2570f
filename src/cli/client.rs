//! Asks the daemon over its unix socket.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time;

use super::failure::{ClientError, Failed};
use super::sse::EventStream;
use crate::protocol::{Change, Refused, SentEvent};

/// The daemon answers within what it was told and 5 s; who waits for longer talks to a daemon that stands still.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer, in bytes. The status of a thousand tunnels is one megabyte.
const LONGEST_ANSWER: usize = 64 * 1024 * 1024;

/// The way to the daemon.
#[derive(Debug, Clone)]
pub(super) struct Client {
    socket: PathBuf,
}

/// A complete answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: StatusCode,
    /// JSON.
    pub(super) body: String,
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// `GET path`, which must be granted.
    pub(super) async fn get(&self, path: &str) -> Result<Answer, Failed> {
        let answer = self.ask(Method::GET, path, Duration::ZERO).await?;
        self.granted(answer)
    }

    /// `GET path`, which the daemon may take `limit` for; whatever it answers.
    pub(super) async fn ask_get(&self, path: &str, limit: Duration) -> Result<Answer, ClientError> {
        self.ask(Method::GET, path, limit).await
    }

    /// `POST path`, which the daemon may take `limit` for; whatever it answers.
    pub(super) async fn post(&self, path: &str, limit: Duration) -> Result<Answer, ClientError> {
        self.ask(Method::POST, path, limit).await
    }

    /// The server-sent events of `GET path`.
    pub(super) async fn follow(&self, path: &str) -> Result<EventStream, Failed> {
        let response = self.within(Duration::ZERO, self.send(Method::GET, path)).await?;
        if response.status() == StatusCode::OK {
            return Ok(EventStream::new(response.into_body()));
        }
        let answer = self.within(Duration::ZERO, self.collect(response)).await?;
        Err(self.refusal(&answer))
    }

    /// A connection to the daemon.
    pub(super) async fn connect(&self) -> Result<UnixStream, ClientError> {
        UnixStream::connect(&self.socket).await.map_err(|source| self.unreachable(source))
    }

    /// Reads an answer's JSON.
    pub(super) fn parse<T: DeserializeOwned>(&self, json: &str) -> Result<T, ClientError> {
        serde_json::from_str(json).map_err(|error| self.odd(error))
    }

    /// Reads an event of `/events`; `None`: this version does not know it.
    pub(super) fn parse_change(&self, event: &SentEvent) -> Result<Option<Change>, ClientError> {
        Change::parse(&event.name, &event.data).map_err(|error| self.odd(error))
    }

    /// The error of an answer that refuses.
    pub(super) fn refusal(&self, answer: &Answer) -> Failed {
        if let Ok(Refused { error, .. }) = serde_json::from_str(&answer.body) {
            return Failed::NotDone(error);
        }
        Failed::Client(self.odd(format_args!("{} without a reason", answer.status)))
    }

    fn granted(&self, answer: Answer) -> Result<Answer, Failed> {
        if answer.status == StatusCode::OK { Ok(answer) } else { Err(self.refusal(&answer)) }
    }

    async fn ask(&self, method: Method, path: &str, limit: Duration) -> Result<Answer, ClientError> {
        let exchange = async { self.collect(self.send(method, path).await?).await };
        self.within(limit, exchange).await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        asked: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let answer = time::timeout(limit + PATIENCE, asked).await;
        answer.unwrap_or_else(|_| Err(ClientError::Silent { socket: self.socket.clone() }))
    }

    async fn send(&self, method: Method, path: &str) -> Result<Response<Incoming>, ClientError> {
        let stream = self.connect().await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|source| self.broken(source))?;
        // Its errors come back through the response as well.
        tokio::spawn(connection);
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| self.odd(format_args!("no {path}")))?;
        request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("portward"));
        sender.send_request(request).await.map_err(|source| self.broken(source))
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Answer, ClientError> {
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
        let bytes = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(source) => self.broken(*source),
            Err(too_long) => self.odd(too_long),
        })?;
        Ok(Answer { status, body: String::from_utf8_lossy(&bytes.to_bytes()).into_owned() })
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotOurs { socket, source },
            _ => ClientError::NoDaemon { socket, source },
        }
    }

    pub(super) fn odd(&self, told: impl Display) -> ClientError {
        ClientError::Odd { socket: self.socket.clone(), told: told.to_string() }
    }

    fn broken(&self, source: hyper::Error) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), source }
    }
}

/// What a URL may contain as it is (RFC 3986, section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_one_segment() {
        assert_eq!(segment("data base/1?x#y%"), "data%20base%2F1%3Fx%23y%25");
        assert_eq!(segment("caf\u{e9}-1_2.3~"), "caf%C3%A9-1_2.3~");
    }

    #[tokio::test]
    async fn a_missing_daemon_is_named_with_its_socket_and_what_to_do() {
        let client = Client::new("/nonexistent/portward.sock".into());
        let error = client.get("/status").await.unwrap_err().to_string();
        for words in ["/nonexistent/portward.sock", "systemctl start portward", "--socket"] {
            assert!(error.contains(words), "{error}");
        }
    }
}
