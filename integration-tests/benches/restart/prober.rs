//! Looks for the listener all the while, and reports for how long there was none.
//!
//! It asks the kernel, which disturbs nobody. Connecting instead would make ssh and sshd open and close a channel each time,
//! ten thousand times a second, and measure how they bear that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use integration_tests::within_deadline;
use portward::port::diag::Diag;
use tokio::sync::Notify;
use tokio::time::Instant;

/// From one look to the next.
pub(crate) const PERIOD: Duration = Duration::from_micros(50);

/// One look: when it was begun, when it was over, and whether somebody listened.
#[derive(Debug, Clone, Copy)]
struct Look {
    begun: Instant,
    over: Instant,
    listens: bool,
}

/// A thread that looks every [`PERIOD`].
pub(crate) struct Prober {
    looks: Arc<Mutex<Vec<Look>>>,
    seen: Arc<Notify>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Prober {
    /// Starts the thread, in the namespace of this one.
    pub(crate) fn start() -> Self {
        let looks = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::new(Notify::new());
        let end = Arc::new(AtomicBool::new(false));
        let (record, notify, ended) = (Arc::clone(&looks), Arc::clone(&seen), Arc::clone(&end));
        let thread = std::thread::spawn(move || {
            // The kernel may lengthen sleeps by 50 us otherwise.
            nix::sys::prctl::set_timerslack(1).unwrap();
            let mut diag = Diag::new().unwrap();
            let mut next = Instant::now();
            while !ended.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let found = diag.listener(([127, 0, 0, 1], 9443).into()).unwrap();
                let look = Look { begun, over: Instant::now(), listens: found.is_some() };
                record.lock().unwrap().push(look);
                if look.listens {
                    notify.notify_waiters();
                }
                next = (next + PERIOD).max(Instant::now());
                std::thread::sleep(next - Instant::now());
            }
        });
        Self { looks, seen, end, thread: Some(thread) }
    }

    /// Waits until somebody is seen to listen; returns how many looks were made until then.
    pub(crate) async fn next_success(&self) -> usize {
        within_deadline("a listener", self.seen.notified()).await;
        self.looks.lock().unwrap().len()
    }

    /// Milliseconds from the first look after the first `before` ones that found nobody to the end of the next one that found
    /// a listener; the longest, if there are several such times, and 0 if there is none.
    pub(crate) fn outage_since(&self, before: usize) -> f64 {
        let mut longest = Duration::ZERO;
        let mut down_since = None;
        for look in &self.looks.lock().unwrap()[before..] {
            match (look.listens, down_since) {
                (false, None) => down_since = Some(look.begun),
                (true, Some(begun)) => {
                    longest = longest.max(look.over - begun);
                    down_since = None;
                }
                (false, Some(_)) | (true, None) => {}
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
