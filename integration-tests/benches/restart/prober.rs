//! Connects to the port all the while, and tells for how long it could not.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use integration_tests::within_deadline;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Outside the ephemeral range: no prober is ever given it as its own port and connects to itself.
const PORT: u16 = 9443;

/// From one connect to the next.
pub(crate) const PERIOD: Duration = Duration::from_micros(100);

/// One connect: when it was begun, when it was over, and how it ended.
#[derive(Debug, Clone, Copy)]
struct Probe {
    begun: Instant,
    over: Instant,
    ended: Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Somebody listens.
    Worked,
    /// Nobody listens.
    Refused,
    /// Somebody listens, and its queue of connections not yet accepted is full.
    Unanswered,
}

/// A thread that connects every [`PERIOD`].
pub(crate) struct Prober {
    probes: Arc<Mutex<Vec<Probe>>>,
    worked: Arc<Notify>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Prober {
    /// Starts the thread, in the namespace of this one.
    pub(crate) fn start() -> Self {
        let probes = Arc::new(Mutex::new(Vec::new()));
        let worked = Arc::new(Notify::new());
        let end = Arc::new(AtomicBool::new(false));
        let (record, notify, ended) = (Arc::clone(&probes), Arc::clone(&worked), Arc::clone(&end));
        let thread = std::thread::spawn(move || {
            // The kernel may lengthen sleeps by 50 us otherwise.
            nix::sys::prctl::set_timerslack(1).unwrap();
            let mut next = Instant::now();
            while !ended.load(Ordering::Relaxed) {
                let probe = probe();
                record.lock().unwrap().push(probe);
                if probe.ended == Ended::Worked {
                    notify.notify_waiters();
                }
                next = (next + PERIOD).max(Instant::now());
                std::thread::sleep(next - Instant::now());
            }
        });
        Self { probes, worked, end, thread: Some(thread) }
    }

    /// Waits for a connect that works; returns how many were made until then.
    pub(crate) async fn next_success(&self) -> usize {
        within_deadline("a connect that works", self.worked.notified()).await;
        self.probes.lock().unwrap().len()
    }

    /// Milliseconds from the beginning of the first refused connect after the first `before` ones to the end of the next one
    /// that worked; the longest, if there are several such times, and 0 if there is none.
    pub(crate) fn outage_since(&self, before: usize) -> f64 {
        let mut longest = Duration::ZERO;
        let mut down_since = None;
        for probe in &self.probes.lock().unwrap()[before..] {
            match (probe.ended, down_since) {
                (Ended::Refused, None) => down_since = Some(probe.begun),
                (Ended::Worked, Some(begun)) => {
                    longest = longest.max(probe.over - begun);
                    down_since = None;
                }
                (Ended::Refused, Some(_)) | (Ended::Worked, None) | (Ended::Unanswered, _) => {}
            }
        }
        longest.as_secs_f64() * 1000.0
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the prober has failed");
    }
}

/// Over loopback the answer is there as soon as the call returns, and a second call takes it: nothing is waited for, so that
/// a full queue does not make the prober blind.
fn probe() -> Probe {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
    // Closing with a reset leaves no TIME_WAIT: tens of thousands of those would use up the ephemeral ports.
    set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT);
    let begun = Instant::now();
    let answer = match connect(&socket, &address) {
        Err(Errno::INPROGRESS) => connect(&socket, &address),
        answer => answer,
    };
    let ended = match answer {
        Ok(()) => Ended::Worked,
        // A reset: the listener went away between the two calls.
        Err(Errno::CONNREFUSED | Errno::CONNRESET) => Ended::Refused,
        Err(Errno::ALREADY) => Ended::Unanswered,
        Err(error) => panic!("connecting to port {PORT}: {error}"),
    };
    Probe { begun, over: Instant::now(), ended }
}
