//! A stream whose writes have a deadline: a client that does not read, or reads too slowly, is let go.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{self, Instant, Sleep};

use super::guests::Visit;

/// Writes may be held up for this long in all;
const LONGEST_STALL: Duration = Duration::from_secs(30);

/// and each time that the client has read so many bytes, for a second more. What is not read yet takes memory.
const SLOWEST_READER: u32 = 4096;

/// Wraps a stream. The timer exists only while a write is held up.
#[derive(Debug)]
pub(super) struct WriteDeadline<S> {
    stream: S,
    visit: Visit,
    /// How long a write may be held up from now on.
    patience: Duration,
    stalled: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<S> WriteDeadline<S> {
    pub(super) fn new(stream: S, visit: Visit) -> Self {
        Self { stream, visit, patience: LONGEST_STALL, stalled: None }
    }

    /// Puts the deadline on what the stream said to a write; `progress` is the number of bytes that were written.
    fn bound<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        progress: impl Fn(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(result) = &written {
            if let Some((since, _)) = self.stalled.take() {
                self.patience = self.patience.saturating_sub(since.elapsed());
                self.visit.set_stalled(false);
            }
            let bytes = result.as_ref().map_or(0, progress);
            let earned = Duration::from_secs(1) * u32::try_from(bytes).unwrap_or(u32::MAX) / SLOWEST_READER;
            self.patience = (self.patience + earned).min(LONGEST_STALL);
            return written;
        }
        if self.stalled.is_none() {
            self.visit.set_stalled(true);
            self.stalled = Some((Instant::now(), Box::pin(time::sleep(self.patience))));
        }
        let Some((_, deadline)) = &mut self.stalled else { return written };
        deadline.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteDeadline<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteDeadline<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bound(context, written, |bytes| *bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.bound(context, written, |bytes| *bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.bound(context, flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bound(context, shut, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn visit() -> Visit {
        crate::api::guests::Guests::new(1).seat(None).1
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_reading_is_let_go() {
        let (ours, _theirs) = tokio::io::duplex(4);
        let error = WriteDeadline::new(ours, visit()).write_all(b"more than four").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    /// Writes 1 MiB to a reader that reads so much every 15 s.
    async fn write_to(reads: usize) -> io::Result<()> {
        let (ours, mut theirs) = tokio::io::duplex(reads);
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; reads];
            while theirs.read_exact(&mut buffer).await.is_ok() {
                time::sleep(LONGEST_STALL / 2).await;
            }
        });
        let written = WriteDeadline::new(ours, visit()).write_all(&vec![0; 1024 * 1024]).await;
        reader.abort();
        written
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_that_goes_on_reading_is_served() {
        write_to(64 * 1024).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_reads_just_enough_not_to_stop_is_let_go() {
        let start = Instant::now();
        assert_eq!(write_to(1024).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() < 2 * LONGEST_STALL, "{:?}", start.elapsed());
    }
}
