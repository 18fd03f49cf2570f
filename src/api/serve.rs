//! Accepts connections and serves each until it ends, with a deadline for everything that a client may be slow at.

use std::fs::File;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{self, Instant};

use super::context::{Context, Ending};
use super::deadline::WriteDeadline;
use super::examine::Examine;
use super::guests::{Guests, Visit};
use super::listen::Listeners;
use super::{peer, router};
use crate::daemon::handle::Handle;
use crate::socket::Doorway;

/// Connections at a time on the unix socket, and on TCP. They are counted apart, so that strangers on TCP cannot lock out the
/// command line. Streams and requests that wait have their own, lower bounds ([`Context`]): there is always room for short requests.
const CONNECTIONS: usize = 256;

/// The head of a request must have arrived this long after the connection was made or the answer before it was sent.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// Longest head of a request, in bytes.
const LONGEST_HEAD: usize = 64 * 1024;

/// What is still being answered this long after the API was told to end is cut off.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(2);

/// Wait before the next try when the process has no file descriptor left: accepting again at once would spin.
const NO_DESCRIPTOR_WAIT: Duration = Duration::from_secs(1);

/// That there is no descriptor is logged no more often than this.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// A TCP client that does not answer the kernel's probes from this long after its last word on is gone.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Serves the API until `shutdown`; `examine` answers `GET /doctor`. Streams end then too; the socket's file is removed.
pub async fn serve(
    listeners: Listeners,
    handle: Handle,
    examine: Examine,
    shutdown: impl Future<Output = ()>,
) {
    let Listeners { unix, tcp, socket_file, lock: _lock } = listeners;
    let (end, ending) = watch::channel(false);
    let ending = Ending(ending);
    let context = || Context::new(handle.clone(), ending.clone(), examine.clone());

    let unix =
        UnixDoor { listener: unix, open: router::local_router(context()), closed: router::closed_router() };
    let unix = accept(unix, ending.clone());
    let tcp = async {
        if let Some((listener, rules)) = tcp {
            let router = router::guarded_router(context(), rules);
            accept(TcpDoor { listener, router }, ending.clone()).await;
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

    fn next(&self) -> impl Future<Output = io::Result<Caller<Self::Stream>>> + Send;

    /// Whether a client waits to be accepted. Without a descriptor for it, accept(2) fails before it looks.
    fn has_waiting(&self) -> bool;
}

/// Who has come through a door.
struct Caller<S> {
    stream: S,
    peer: Option<IpAddr>,
    router: Router,
}

struct UnixDoor {
    listener: Doorway,
    open: Router,
    closed: Router,
}

impl Door for UnixDoor {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<Caller<UnixStream>> {
        let (stream, _) = self.listener.accept().await?;
        let router = if peer::is_allowed(&stream) { &self.open } else { &self.closed };
        Ok(Caller { stream, peer: None, router: router.clone() })
    }

    fn has_waiting(&self) -> bool {
        self.listener.current().is_some_and(|listener| is_readable(&listener))
    }
}

struct TcpDoor {
    listener: TcpListener,
    router: Router,
}

impl Door for TcpDoor {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<Caller<TcpStream>> {
        let (stream, peer) = self.listener.accept().await?;
        SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
        Ok(Caller { stream, peer: Some(peer.ip()), router: self.router.clone() })
    }

    fn has_waiting(&self) -> bool {
        is_readable(&self.listener)
    }
}

async fn accept(door: impl Door, mut ending: Ending) {
    let guests = Guests::new(CONNECTIONS);
    let mut connections = JoinSet::new();
    let mut spare = Spare::default();
    spare.put_back();
    loop {
        let next = async {
            guests.room().await;
            door.next().await
        };
        tokio::select! {
            next = next => match next {
                Ok(Caller { stream, peer, router }) => {
                    let (place, visit) = guests.seat(peer);
                    let number = place.number();
                    let connection = connection(stream, router, visit, ending.clone());
                    let task = connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                    guests.seated(number, task);
                    spare.put_back();
                }
                Err(error) if is_exhausted(&error) => {
                    tokio::select! {
                        () = spare.recover(&guests, &error, door.has_waiting()) => {}
                        Some(_) = connections.join_next() => spare.put_back(),
                        () = ending.begun() => break,
                    }
                }
                // A client's that gave up.
                Err(_) => {}
            },
            Some(_) = connections.join_next() => spare.put_back(),
            () = ending.begun() => break,
        }
    }
    drop(door);
    // Whatever is left after the deadline ends with the set.
    let _ =
        time::timeout(SHUTDOWN_DEADLINE, async { while connections.join_next().await.is_some() {} }).await;
}

/// Whether nothing can be accepted for now, because the process or the machine has no descriptor or memory left.
fn is_exhausted(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

fn is_readable(listener: &impl AsFd) -> bool {
    poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
        .is_ok_and(|ready| ready > 0)
}

/// A descriptor that is kept for the next client when there is no other.
#[derive(Debug, Default)]
struct Spare {
    descriptor: Option<File>,
    /// When the log has told that there is no descriptor left.
    told: Option<Instant>,
}

impl Spare {
    /// Takes a descriptor again, if there is one.
    fn put_back(&mut self) {
        if self.descriptor.is_none() {
            self.descriptor = File::open("/dev/null").ok();
        }
    }

    /// Nothing can be accepted: makes room for one client, or waits.
    async fn recover(&mut self, guests: &Guests, error: &io::Error, has_waiting: bool) {
        if self.descriptor.take().is_some() {
            return;
        }
        if !has_waiting {
            return time::sleep(NO_DESCRIPTOR_WAIT).await;
        }
        if self.told.is_none_or(|told| told.elapsed() > TOLD_AGAIN) {
            tracing::warn!(%error, "the API cannot accept connections for now: raise LimitNOFILE= or close clients");
            self.told = Some(Instant::now());
        }
        if guests.make_room() {
            // The connection that was ended closes its socket in between.
            tokio::task::yield_now().await;
        } else {
            time::sleep(NO_DESCRIPTOR_WAIT).await;
        }
    }
}

async fn connection<S>(stream: S, router: Router, visit: Visit, mut ending: Ending)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = WriteDeadline::new(stream, visit.clone());
    let router = TowerToHyperService::new(router);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(move |mut request: hyper::Request<Incoming>| {
                request.extensions_mut().insert(visit.clone());
                router.call(request)
            }),
        )
        .with_upgrades();
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
