//! Clients that use a tunnel while the test does something to it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::origin::PAGE;
use crate::record::{DEADLINE, Record};

/// A fetch that hangs (its ssh is stopped, say) counts as failed after this.
const FETCH_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two fetches, so that the client is no load test.
const PAUSE: Duration = Duration::from_millis(1);

/// Fetches the page once from 127.0.0.1:`port`.
pub async fn fetch(port: u16) -> io::Result<()> {
    fetch_from((Ipv4Addr::LOCALHOST, port).into(), FETCH_TIMEOUT).await
}

/// Fetches the page once from `address`; takes `patience` at most.
pub async fn fetch_from(address: SocketAddr, patience: Duration) -> io::Result<()> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        Ok(response)
    };
    let response: io::Result<String> = tokio::time::timeout(patience, exchange)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    if response?.ends_with(PAGE) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Fetches the page all the while.
#[derive(Debug)]
pub struct Fetcher {
    /// The moment that a fetch ended, and whether it was well.
    fetches: Record<(Instant, bool)>,
    task: JoinHandle<()>,
}

/// What a [`Fetcher`] saw.
#[derive(Debug, Clone, Copy)]
pub struct Fetched {
    /// Fetches that got the page.
    pub ok: usize,
    /// Fetches that did not.
    pub failed: usize,
    /// The longest time from one page to the next.
    pub longest_gap: Duration,
}

impl Fetcher {
    /// Starts fetching from 127.0.0.1:`port`.
    pub fn start(port: u16) -> Self {
        let fetches = Record::default();
        let record = fetches.clone();
        let task = tokio::spawn(async move {
            loop {
                let well = fetch(port).await.is_ok();
                record.push((Instant::now(), well));
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { fetches, task }
    }

    /// Waits for a page that was asked for after this call.
    pub async fn next_page(&self) {
        // The fetch under way may have been answered before.
        let mark = self.fetches.mark() + 1;
        let mut seen = self.fetches.mark();
        let found = self
            .fetches
            .find(seen, |&(_, well)| {
                seen += 1;
                seen > mark && well
            })
            .await;
        assert!(found.is_some(), "no page came through the tunnel for {DEADLINE:?}");
    }

    /// Stops and tells.
    pub fn finish(self) -> Fetched {
        self.task.abort();
        let fetches = self.fetches.all();
        let pages: Vec<Instant> = fetches.iter().filter(|(_, well)| *well).map(|(at, _)| *at).collect();
        let longest_gap = pages.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        Fetched { ok: pages.len(), failed: fetches.len() - pages.len(), longest_gap }
    }
}

/// A connection to an echo through a tunnel, over which numbered bytes go there and back all the while.
#[derive(Debug)]
pub struct NumberedStream {
    /// Bytes that have come back so far, after each block.
    passed: Record<u64>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

impl NumberedStream {
    /// Connects to 127.0.0.1:`port`; some bytes have passed when this returns.
    pub async fn open(port: u16) -> Self {
        let connection = TcpStream::connect(("127.0.0.1", port)).await.expect("connecting to the tunnel");
        Self::over(connection).await
    }

    /// Uses this connection; some bytes have passed when this returns.
    pub async fn over(connection: TcpStream) -> Self {
        let passed = Record::default();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(count(connection, passed.clone(), stopped));
        let stream = Self { passed, stop, task };
        stream.next_bytes().await;
        stream
    }

    /// Waits until bytes have come back that were sent after this call.
    pub async fn next_bytes(&self) {
        let mark = self.passed.mark() + 1;
        let found = self.passed.find(mark, |_| true).await;
        assert!(found.is_some(), "the stream stands still after {:?} bytes", self.passed.all().last());
    }

    /// Whether the connection has been broken.
    pub fn is_broken(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until the connection breaks.
    pub async fn broken(self) -> io::Error {
        let ended = tokio::time::timeout(DEADLINE, self.task).await.expect("the stream goes on").unwrap();
        ended.expect_err("nobody stopped the stream")
    }

    /// Ends the stream: every byte sent has come back, in order; returns how many.
    pub async fn finish(self) -> u64 {
        // A stream that is broken already says why below.
        let _ = self.stop.send(());
        self.task.await.unwrap().expect("no byte of the stream is lost");
        self.passed.all().last().copied().unwrap_or_default()
    }
}

/// Sends blocks of numbered bytes, and expects each back before the next.
async fn count(
    mut stream: TcpStream,
    passed: Record<u64>,
    mut stop: oneshot::Receiver<()>,
) -> io::Result<()> {
    const BLOCK_NUMBERS: u64 = 512;
    let mut first = 0_u64;
    while stop.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
        let block: Vec<u8> = (first..first + BLOCK_NUMBERS).flat_map(u64::to_be_bytes).collect();
        stream.write_all(&block).await?;
        let mut echoed = vec![0; block.len()];
        stream.read_exact(&mut echoed).await?;
        if echoed != block {
            return Err(io::Error::other(format!("what came back differs after byte {}", first * 8)));
        }
        first += BLOCK_NUMBERS;
        passed.push(first * 8);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
