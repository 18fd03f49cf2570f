//! A network namespace for each test.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub(crate) use integration_tests::{become_nobody, ip};

/// One test at a time: a process that another test starts has copies of this test's sockets until it executes its program,
/// and so keeps ports held that were closed here.
static TURN: Mutex<()> = Mutex::new(());

/// A test that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `test` on a thread whose network namespace is new and has nothing but a loopback interface.
pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    integration_tests::isolated(async || {
        tokio::time::timeout(PATIENCE, test()).await.expect("the test hangs");
    });
}

/// A netlink socket that has joined the TCP destroy groups.
#[derive(Debug)]
pub(crate) struct EventSocket {
    /// Messages that found no room in its buffer.
    pub(crate) lost: u64,
}

/// Those of the calling thread's namespace.
pub(crate) fn event_sockets() -> Vec<EventSocket> {
    /// Columns of the table, and what stands in them for NETLINK_SOCK_DIAG and for groups 1 and 3.
    const PROTOCOL: (usize, &str) = (1, "4");
    const GROUPS: (usize, &str) = (3, "00000005");
    const DROPS: usize = 8;
    let table = fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[PROTOCOL.0] == PROTOCOL.1 && row[GROUPS.0] == GROUPS.1)
        .map(|row| EventSocket { lost: row[DROPS].parse().unwrap() })
        .collect()
}
