//! The clients of one tunnel: one that asks anew all the time, and one that holds a connection.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use integration_tests::{DEADLINE, Record};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// From the beginning of one try to that of the next, unless the first takes longer.
const PERIOD: Duration = Duration::from_millis(1);
/// From one byte of the held connection to the next.
const BEAT: Duration = Duration::from_millis(10);
/// A try without an answer ends then. Longer than any outage here.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a try ended: a connection to the tunnel, over which a byte is to come back from behind the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answered,
    /// Nobody listened.
    Refused,
    /// The connection was made, and ended without an answer.
    Reset,
}

#[derive(Debug, Clone, Copy)]
struct Try {
    begun: Instant,
    over: Instant,
    outcome: Outcome,
}

/// What happened to the held connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beat {
    Passed,
    Broken,
}

/// What the clients saw while one thing happened to the tunnel.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    /// Tries to connect,
    pub(crate) tried: usize,
    /// those that were refused,
    pub(crate) refused: usize,
    /// and those whose connection ended without an answer.
    pub(crate) reset: usize,
    /// How often the held connection was broken.
    pub(crate) broken: usize,
    /// From the first try of a client that tries until it is answered to the answer; the longest.
    pub(crate) wait: Duration,
}

/// Where a record of the clients was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    tries: usize,
    beats: usize,
}

/// Both clients, on a thread of their own.
pub(crate) struct Clients {
    tries: Record<Try>,
    beats: Record<Beat>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Clients {
    /// Starts them on 127.0.0.1:`port`, in the namespace of this thread.
    pub(crate) fn start(port: u16) -> Self {
        let (tries, beats) = (Record::default(), Record::default());
        let (stop, stopped) = oneshot::channel();
        let (asker, holder) = (ask_on(port, tries.clone()), hold(port, beats.clone()));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = asker => {}
                    () = holder => {}
                    _ = stopped => {}
                }
            });
        });
        Self { tries, beats, stop: Some(stop), thread: Some(thread) }
    }

    /// From now on.
    pub(crate) fn mark(&self) -> Mark {
        Mark { tries: self.tries.mark(), beats: self.beats.mark() }
    }

    /// Waits until a try that is begun after this call is answered, and the held connection is held.
    pub(crate) async fn served(&self) {
        let (now, mark) = (Instant::now(), self.mark());
        let is_answer = |one: &Try| one.begun >= now && one.outcome == Outcome::Answered;
        let answer = self.tries.find(mark.tries, is_answer).await;
        assert!(answer.is_some(), "no client was answered for {DEADLINE:?}");
        let beat = self.beats.find(mark.beats, |beat| *beat == Beat::Passed).await;
        assert!(beat.is_some(), "the held connection stands still");
    }

    /// What they have seen since `mark`.
    pub(crate) fn seen(&self, mark: Mark) -> Seen {
        let tries = self.tries.since(mark.tries);
        let count = |outcome| tries.iter().filter(|one| one.outcome == outcome).count();
        let (mut wait, mut waits_since) = (Duration::ZERO, None);
        for one in &tries {
            let since = waits_since.get_or_insert(one.begun);
            if one.outcome == Outcome::Answered {
                wait = wait.max(one.over - *since);
                waits_since = None;
            }
        }
        let broken = self.beats.since(mark.beats).iter().filter(|beat| **beat == Beat::Broken).count();
        Seen {
            tried: tries.len(),
            refused: count(Outcome::Refused),
            reset: count(Outcome::Reset),
            broken,
            wait,
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the clients have failed");
    }
}

async fn ask_on(port: u16, tries: Record<Try>) {
    loop {
        let begun = Instant::now();
        let outcome = match timeout(PATIENCE, ask(port)).await {
            Ok(Ok(())) => Outcome::Answered,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Outcome::Refused,
            Ok(Err(_)) | Err(_) => Outcome::Reset,
        };
        tries.push(Try { begun, over: Instant::now(), outcome });
        sleep_until(begun + PERIOD).await;
    }
}

async fn ask(port: u16) -> io::Result<()> {
    beat(&mut TcpStream::connect(("127.0.0.1", port)).await?).await
}

async fn beat(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"?").await?;
    stream.read_exact(&mut [0]).await.map(drop)
}

async fn hold(port: u16, beats: Record<Beat>) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await {
            let mut is_held = false;
            while beat(&mut stream).await.is_ok() {
                is_held = true;
                beats.push(Beat::Passed);
                sleep(BEAT).await;
            }
            if is_held {
                beats.push(Beat::Broken);
            }
        }
        sleep(BEAT).await;
    }
}
