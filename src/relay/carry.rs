//! Copies bytes between a client and ssh, both ways, until both sides have ended.
//!
//! The end of one side is passed on as such, and the other direction goes on (half-close). A side that breaks ends both: a
//! reset by ssh resets the client, and after a reset by the client ssh's socket is closed, which has no resets of its own.
//! What is not read on one side is not read on the other (back-pressure).

use std::cell::RefCell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use super::figures::{self, Figures};

/// Bytes that are read at a time.
const BUFFER_SIZE: usize = 128 * 1024;

/// Buffers that are kept for the next use. A connection has one only while there is something to copy, so that a client that
/// says nothing costs none.
const BUFFERS_KEPT: usize = 16;

/// How the relay of a client ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides have ended, or one has broken.
    Over,
    /// ssh stopped listening before it accepted the connection. Nothing was copied, and so the client can be connected again.
    Unheard,
}

/// Which operation of a direction failed.
#[derive(Debug)]
enum Broken {
    Reading(io::Error),
    Writing,
}

/// Copies until both sides have ended. After [`End::Over`] both streams are to be dropped.
pub(super) async fn carry(client: &mut TcpStream, ssh: &mut UnixStream, figures: &Figures) -> End {
    let copied = AtomicBool::new(false);
    let broken = {
        let (client_read, mut client_write) = client.split();
        let (ssh_read, mut ssh_write) = ssh.split();
        let mut up = pin!(copy(&client_read, &mut ssh_write, &figures.sent, &copied));
        let mut down = pin!(copy(&ssh_read, &mut client_write, &figures.received, &copied));
        let (mut up_ended, mut down_ended) = (false, false);
        loop {
            if up_ended && down_ended {
                return End::Over;
            }
            tokio::select! {
                result = &mut up, if !up_ended => match result {
                    Ok(()) => up_ended = true,
                    Err(Broken::Reading(_)) => return End::Over,
                    Err(Broken::Writing) => break None,
                },
                result = &mut down, if !down_ended => match result {
                    // ssh has not only ended what it sends: it takes nothing any more.
                    Ok(()) if is_closed(ssh_read.as_ref()) => return End::Over,
                    Ok(()) => down_ended = true,
                    Err(Broken::Reading(error)) => break Some(error),
                    Err(Broken::Writing) => return End::Over,
                },
            }
        }
    };
    // The kernel resets what it had queued for a listener that is closed. A socket that ssh has accepted and closes is reset
    // only if ssh has left something unread.
    let is_reset = broken.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionReset);
    if is_reset && !copied.load(Ordering::Relaxed) {
        return End::Unheard;
    }
    reset_on_close(client);
    End::Over
}

/// Makes the kernel send a reset when the client's socket is closed.
pub(super) fn reset_on_close(client: &TcpStream) {
    // If that fails, the client reads an end instead.
    let _ = SockRef::from(client).set_linger(Some(Duration::ZERO));
}

/// Copies one direction until its end, which is passed on.
async fn copy(
    from: &impl Source,
    to: &mut (impl AsyncWrite + Unpin),
    figure: &AtomicU64,
    copied: &AtomicBool,
) -> Result<(), Broken> {
    loop {
        from.readable().await.map_err(Broken::Reading)?;
        let mut buffer = Buffer::take();
        loop {
            match from.try_read(&mut buffer) {
                Ok(0) => {
                    // A side that is closed already needs to be told no more.
                    let _ = to.shutdown().await;
                    return Ok(());
                }
                Ok(length) => {
                    copied.store(true, Ordering::Relaxed);
                    to.write_all(&buffer[..length]).await.map_err(|_| Broken::Writing)?;
                    figures::add(figure, length as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(Broken::Reading(error)),
            }
        }
    }
}

/// Whether the other end of a unix socket is closed, and not only done with sending.
fn is_closed(stream: &UnixStream) -> bool {
    let mut state = [PollFd::new(stream, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut state, Some(&at_once)).is_ok() && state[0].revents().contains(PollFlags::HUP)
}

/// The side that a direction is read from.
trait Source {
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send;
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;
}

impl Source for tcp::ReadHalf<'_> {
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send {
        self.readable()
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.try_read(buffer)
    }
}

impl Source for unix::ReadHalf<'_> {
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send {
        self.readable()
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.try_read(buffer)
    }
}

/// A buffer; kept for the next use when dropped.
struct Buffer(Vec<u8>);

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

impl Buffer {
    fn take() -> Self {
        let kept = BUFFERS.with_borrow_mut(Vec::pop);
        Self(kept.unwrap_or_else(|| vec![0; BUFFER_SIZE]))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // At the end of the thread they are gone.
        let _ = BUFFERS.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < BUFFERS_KEPT {
                kept.push(buffer);
            }
        });
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests;
