//! The WebSocket `/ws/auth/{hash}`: a person logs in for a tunnel. It is that of autossh-tunnel, whose panel shows it as a terminal.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use percent_encoding::percent_decode_str;

use super::context::{Context, Ending, answer};
use super::login::{Gone, Terminal, attend};
use super::refusal::Refusal;
use crate::daemon::handle::{Login, NoLogin};
use crate::protocol::{Change, TunnelStatus};

const PATH: &str = "/ws/auth/";

/// Longest message of a client, in bytes: nobody types more at once.
const LONGEST_MESSAGE: usize = 4096;

/// Middleware, before the token is looked for: a browser can send none but in the query, `?token=`. That counts for this path only.
pub(super) async fn take_token_of_query(mut request: Request, next: Next) -> Response {
    if request.uri().path().starts_with(PATH)
        && !request.headers().contains_key(AUTHORIZATION)
        && let Some(token) = request.uri().query().and_then(token_of)
        && let Ok(header) = HeaderValue::from_bytes(&[b"Bearer ", &token[..]].concat())
    {
        request.headers_mut().insert(AUTHORIZATION, header);
    }
    next.run(request).await
}

fn token_of(query: &str) -> Option<Vec<u8>> {
    let token = query.split('&').find_map(|parameter| parameter.strip_prefix("token="))?;
    Some(percent_decode_str(token).collect())
}

/// A WebSocket through which a person logs in for a tunnel: it carries a terminal, and ends with a message in JSON.
#[utoipa::path(
    get,
    path = "/ws/auth/{hash}",
    params(
        ("hash" = String, Path, description = "The hash of the tunnel", pattern = "^[0-9a-f]{32}$"),
        ("token" = Option<String>, Query, description = "The token, for browsers, which can send no header with this request")
    ),
    responses((status = SWITCHING_PROTOCOLS, description = "The terminal begins"))
)]
pub(super) async fn log_in(
    State(context): State<Context>,
    Path(hash): Path<String>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if hash.len() != 32 || !hash.bytes().all(is_digit) {
        return Err(Refusal::bad_request("Invalid hash format"));
    }
    let changes = context.handle.changes();
    let snapshot = context.snapshot().await?;
    let tunnel = snapshot.tunnels.into_iter().find(|tunnel| tunnel.hash == hash);
    let tunnel = tunnel.ok_or_else(|| Refusal::from(NoLogin::Unknown))?;
    let upgrade = upgrade.map_err(|rejection| {
        Refusal::bad_request(format!(
            "this is a WebSocket: `portward auth` opens it ({})",
            rejection.body_text()
        ))
    })?;
    let login = answer(Duration::ZERO, context.handle.log_in(&hash)).await?.map_err(Refusal::from)?;
    let ending = context.ending.clone();
    let upgrade = upgrade.max_message_size(LONGEST_MESSAGE).max_frame_size(LONGEST_MESSAGE);
    Ok(upgrade.on_upgrade(move |socket| run(socket, tunnel, login, changes, ending)))
}

async fn run(
    mut socket: WebSocket,
    tunnel: TunnelStatus,
    login: Login,
    changes: tokio::sync::broadcast::Receiver<Change>,
    ending: Ending,
) {
    let Ok(end) = attend(&mut socket, &tunnel, login, changes, ending).await else { return };
    // Whoever is gone by now misses it.
    if let Ok(text) = serde_json::to_string(&end) {
        let _ = socket.send(Message::Text(text.into())).await;
    }
    let _ =
        socket.send(Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }))).await;
}

impl Terminal for WebSocket {
    async fn typed(&mut self) -> Result<Bytes, Gone> {
        loop {
            match self.recv().await {
                Some(Ok(Message::Binary(bytes))) => return Ok(bytes),
                Some(Ok(Message::Text(text))) => return Ok(text.into()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(Gone),
            }
        }
    }

    async fn show(&mut self, bytes: Vec<u8>) -> Result<(), Gone> {
        self.send(Message::Binary(bytes.into())).await.map_err(|_| Gone)
    }
}

impl From<NoLogin> for Refusal {
    fn from(error: NoLogin) -> Self {
        let status = match error {
            NoLogin::Unknown => StatusCode::NOT_FOUND,
            NoLogin::NotInteractive { .. } | NoLogin::Attended => StatusCode::CONFLICT,
            NoLogin::TooMany | NoLogin::NoToken(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_of_a_query_is_decoded() {
        assert_eq!(token_of("token=a%2Bb").unwrap(), b"a+b");
        assert_eq!(token_of("x=1&token=s3cret&y").unwrap(), b"s3cret");
        assert_eq!(token_of("tokens=1&nottoken=2"), None);
    }
}
