//! Accepts connections and serves each until it ends, with a deadline for everything that a client may be slow at.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time;

use super::context::{Context, Ending};
use super::deadline::WriteDeadline;
use super::listen::Listeners;
use super::socket::UnixDoorway;
use super::{peer, router};
use crate::daemon::handle::Handle;

/// Connections at a time on the unix socket, and on TCP. They are counted apart, so that strangers on TCP cannot lock out the
/// command line; who comes when all are taken waits in the kernel's queue.
const CONNECTIONS: usize = 256;

/// The head of a request must have arrived this long after the connection was made or the answer before it was sent.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// Longest head of a request, in bytes.
const LONGEST_HEAD: usize = 64 * 1024;

/// What is still being answered this long after the API was told to end is cut off.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(2);

/// Wait before the next try when the process has no file descriptor left: accepting again at once would spin.
const NO_DESCRIPTOR_WAIT: Duration = Duration::from_secs(1);

/// A TCP client that does not answer the kernel's probes from this long after its last word on is gone.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Serves the API until `shutdown`. Streams end then too; the socket's file is removed.
pub async fn serve(listeners: Listeners, handle: Handle, shutdown: impl Future<Output = ()>) {
    let Listeners { unix, tcp, socket_file, lock: _lock } = listeners;
    let (end, ending) = watch::channel(false);
    let ending = Ending(ending);
    let context = Context { handle, ending: ending.clone() };

    let unix =
        UnixDoor { listener: unix, open: router::router(context.clone()), closed: router::closed_router() };
    let unix = accept(unix, ending.clone());
    let tcp = async {
        if let Some((listener, token)) = tcp {
            accept(TcpDoor { listener, router: router::guarded_router(context, token) }, ending).await;
        }
    };
    let shutdown = async {
        shutdown.await;
        // From here on a new daemon finds no socket rather than one that nobody answers.
        drop(socket_file);
        end.send_replace(true);
    };
    tokio::join!(unix, tcp, shutdown);
}

/// A listener, and what those who come through it may do.
trait Door {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Router)>> + Send;
}

struct UnixDoor {
    listener: UnixDoorway,
    open: Router,
    closed: Router,
}

impl Door for UnixDoor {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Router)> {
        let (stream, _) = self.listener.accept().await?;
        let router = if peer::is_allowed(&stream) { &self.open } else { &self.closed };
        Ok((stream, router.clone()))
    }
}

struct TcpDoor {
    listener: TcpListener,
    router: Router,
}

impl Door for TcpDoor {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Router)> {
        let (stream, _) = self.listener.accept().await?;
        SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
        Ok((stream, self.router.clone()))
    }
}

async fn accept(door: impl Door, mut ending: Ending) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await.ok();
            (place, door.next().await)
        };
        tokio::select! {
            (place, next) = next => match next {
                Ok((stream, router)) => {
                    let connection = connection(stream, router, ending.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => recover(&error).await,
            },
            Some(_) = connections.join_next() => {}
            () = ending.begun() => break,
        }
    }
    drop(door);
    // Whatever is left after the deadline ends with the set.
    let _ =
        time::timeout(SHUTDOWN_DEADLINE, async { while connections.join_next().await.is_some() {} }).await;
}

/// Most failures to accept are a client's that gave up; without file descriptors nothing can be accepted for now.
async fn recover(error: &io::Error) {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    if matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM)) {
        tracing::warn!(%error, "the API cannot accept connections for now: raise LimitNOFILE= or close clients");
        time::sleep(NO_DESCRIPTOR_WAIT).await;
    }
}

async fn connection<S>(stream: S, router: Router, mut ending: Ending)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(WriteDeadline::new(stream)), TowerToHyperService::new(router));
    let mut served = pin!(served);
    let ended: Result<(), hyper::Error> = tokio::select! {
        ended = served.as_mut() => ended,
        () = ending.begun() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        // The client's affair: it went away, was too slow, or spoke no HTTP.
        tracing::debug!(%error, "a connection to the API broke off");
    }
}
