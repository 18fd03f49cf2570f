//! A person who logs in: at a pseudo-terminal, or at the WebSocket that the panel of autossh-tunnel opens.

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{ExitStatus, Stdio};

use futures_util::{SinkExt as _, StreamExt as _};
use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, tcgetattr};
use serde_json::Value;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::api::API_PORT;
use crate::daemon::Daemon;
use crate::record::within_deadline;

/// A program whose standard streams are a pseudo-terminal.
#[derive(Debug)]
pub struct Terminal {
    master: AsyncFd<OwnedFd>,
    /// Kept open, so that its settings can be looked at.
    slave: OwnedFd,
    child: Child,
    shown: String,
    /// Up to here it has been looked at.
    seen: usize,
}

impl Terminal {
    /// Starts it.
    pub fn start(mut command: Command) -> Self {
        let pair = openpty(None, None).expect("making a pseudo-terminal");
        rustix::io::ioctl_fionbio(&pair.master, true).unwrap();
        let stream = || Stdio::from(pair.slave.try_clone().unwrap());
        let child = command.stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap();
        // SAFETY: the descriptor is open and owned, and nothing closes or replaces it while the `AsyncFd` owns it.
        let master = unsafe { AsyncFd::register_with_interest(pair.master, Interest::READABLE) }.unwrap();
        Self { master, slave: pair.slave, child, shown: String::new(), seen: 0 }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Waits until it shows this, after what was waited for before; returns what it has shown between.
    pub async fn sees(&mut self, wanted: &str) -> String {
        loop {
            if let Some(at) = self.shown[self.seen..].find(wanted) {
                let end = self.seen + at + wanted.len();
                let shown = self.shown[self.seen..end].to_owned();
                self.seen = end;
                return shown;
            }
            within_deadline(&format!("{wanted:?} in {:?}", self.shown), self.read()).await;
        }
    }

    async fn read(&mut self) {
        loop {
            let mut ready = self.master.readable().await.unwrap();
            let mut bytes = [0; 4096];
            match ready.try_io(|master| Ok(rustix::io::read(master, &mut bytes)?)) {
                Ok(Ok(length)) => {
                    self.shown.push_str(&String::from_utf8_lossy(&bytes[..length]));
                    return;
                }
                Ok(Err(error)) => panic!("{error} after {:?}", self.shown),
                Err(_) => {}
            }
        }
    }

    /// Types this.
    pub fn types(&self, text: &str) {
        assert_eq!(rustix::io::write(self.master.get_ref(), text.as_bytes()).unwrap(), text.len());
    }

    /// Whether the terminal shows what is typed, as it does at first.
    pub fn echoes(&self) -> bool {
        tcgetattr(self.slave.as_fd()).unwrap().local_flags.contains(LocalFlags::ECHO)
    }

    /// All that it has shown.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Waits until the program has ended.
    pub async fn ends(&mut self) -> ExitStatus {
        within_deadline("the program's end", self.child.wait()).await.unwrap()
    }
}

/// The WebSocket `/ws/auth/{hash}`, as the panel uses it.
#[derive(Debug)]
pub struct Panel<S> {
    socket: WebSocketStream<S>,
    shown: String,
}

impl Panel<UnixStream> {
    /// Opens it over the daemon's socket; or the status and the reason of a refusal.
    pub async fn open(daemon: &Daemon<'_>, hash: &str) -> Result<Self, (u16, String)> {
        let stream = UnixStream::connect(daemon.socket()).await.unwrap();
        Self::over(stream, &format!("ws://portward/ws/auth/{hash}")).await
    }
}

impl Panel<TcpStream> {
    /// Opens it over TCP, with this behind the path.
    pub async fn open_over_tcp(hash: &str, query: &str) -> Result<Self, (u16, String)> {
        let stream = TcpStream::connect(("127.0.0.1", API_PORT)).await.unwrap();
        Self::over(stream, &format!("ws://127.0.0.1:{API_PORT}/ws/auth/{hash}{query}")).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Panel<S> {
    async fn over(stream: S, url: &str) -> Result<Self, (u16, String)> {
        match client_async(url, stream).await {
            Ok((socket, _)) => Ok(Self { socket, shown: String::new() }),
            Err(Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                let error =
                    serde_json::from_slice::<Value>(body).unwrap()["error"].as_str().unwrap().to_owned();
                Err((response.status().as_u16(), error))
            }
            Err(error) => panic!("{url}: {error}"),
        }
    }

    async fn next(&mut self) -> Message {
        let next = within_deadline("a message", self.socket.next()).await;
        next.unwrap_or_else(|| panic!("closed after {:?}", self.shown)).unwrap()
    }

    /// Waits until it shows this, after what was waited for before.
    pub async fn sees(&mut self, wanted: &str) -> String {
        loop {
            if let Some(at) = self.shown.find(wanted) {
                let rest = self.shown.split_off(at + wanted.len());
                return std::mem::replace(&mut self.shown, rest);
            }
            match self.next().await {
                Message::Binary(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                other => panic!("{other:?} instead of {wanted:?} in {:?}", self.shown),
            }
        }
    }

    /// Types this.
    pub async fn types(&mut self, text: &str) {
        self.socket.send(Message::Binary(text.as_bytes().to_vec().into())).await.unwrap();
    }

    /// Waits for the message that says how it ended, and for the close after it.
    pub async fn ends(mut self) -> Value {
        loop {
            match self.next().await {
                Message::Text(text) => {
                    assert!(matches!(self.next().await, Message::Close(_)));
                    return serde_json::from_str(text.as_str()).unwrap();
                }
                Message::Binary(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                other => panic!("{other:?} after {:?}", self.shown),
            }
        }
    }
}
