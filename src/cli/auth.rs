//! `portward auth`: the user's terminal becomes that of the WebSocket `/ws/auth/{hash}`.

use std::io::{self, Write};

use futures_util::{SinkExt, StreamExt};
use hyper::StatusCode;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::arguments::AuthArguments;
use super::client::{Answer, Client};
use super::failure::Failed;
use super::output;
use super::terminal::RawTerminal;
use crate::protocol::{LoginCode, LoginEnd, TunnelStatus, find};
use crate::{shell, text};

/// Ctrl-C.
const INTERRUPT: u8 = 0x03;

/// Logs in for a tunnel.
pub(super) async fn auth(client: &Client, arguments: &AuthArguments) -> Result<(), Failed> {
    let answer = client.get("/status").await?;
    let tunnels: Vec<TunnelStatus> = client.parse(&answer.body)?;
    let tunnel = find(&tunnels, &arguments.tunnel)?;
    let name = shell::word(&tunnel.name);
    let Some(terminal) = RawTerminal::take()? else {
        return Err(Failed::NotDone(format!(
            "standard input is no terminal, and a person has to log in: run `portward auth {name}` in one; over ssh, with \
             `ssh -t HOST portward auth {name}`"
        )));
    };
    // Also where the daemon refuses it the terminal is to be as it was before anything is printed.
    let ended = match open(client, &tunnel.hash).await {
        Ok(socket) => converse(client, &terminal, socket).await,
        Err(failed) => Err(failed),
    };
    drop(terminal);
    let LoginEnd { code, message, .. } = ended?;
    match code {
        LoginCode::Success => Ok(output::print(&text::line(&message))?),
        LoginCode::Error | LoginCode::Timeout => Err(Failed::NotDone(message)),
    }
}

async fn open(client: &Client, hash: &str) -> Result<WebSocketStream<UnixStream>, Failed> {
    let stream = client.connect().await?;
    match client_async(format!("ws://portward/ws/auth/{hash}"), stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            let body = String::from_utf8_lossy(body).into_owned();
            let status = StatusCode::from_u16(response.status().as_u16()).unwrap_or_default();
            Err(client.refusal(&Answer { status, body }))
        }
        Err(error) => Err(client.odd(error).into()),
    }
}

/// Passes on what is typed and what is to be shown, until the daemon tells how the login ended.
async fn converse(
    client: &Client,
    terminal: &RawTerminal,
    mut socket: WebSocketStream<UnixStream>,
) -> Result<LoginEnd, Failed> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut given_up = false;
    loop {
        tokio::select! {
            typed = terminal.typed() => {
                let typed = typed?;
                // Whoever gives up twice does not wait for the daemon.
                if typed.is_empty() || (given_up && typed.contains(&INTERRUPT)) {
                    return Err(gone());
                }
                given_up |= typed.contains(&INTERRUPT);
                socket.send(Message::Binary(typed.into())).await.map_err(|error| client.odd(error))?;
            }
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    let mut stdout = io::stdout().lock();
                    stdout.write_all(&bytes)?;
                    stdout.flush()?;
                }
                Some(Ok(Message::Text(end))) => return Ok(client.parse(end.as_str())?),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return Err(client.odd(error).into()),
                Some(Ok(Message::Close(_))) | None => {
                    return Err(client.odd("nothing, and closed the connection").into());
                }
            },
            _ = terminate.recv() => return Err(gone()),
            _ = hangup.recv() => return Err(gone()),
            _ = interrupt.recv() => return Err(gone()),
            _ = quit.recv() => return Err(gone()),
        }
    }
}

fn gone() -> Failed {
    Failed::NotDone("the login was given up: the tunnel still needs a person".to_owned())
}
