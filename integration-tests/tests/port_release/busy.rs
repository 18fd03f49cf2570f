//! A busy port: what is waited for is asked about as often as may cost something, and its release is noticed all the same.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use portward::port::{Counters, Ports};
use socket2::SockRef;

use crate::namespace;
use crate::squatters::{Options, at, endpoint, listen};

/// How long the port is busy.
const BUSY: Duration = Duration::from_secs(2);
/// Fewer connections than this in that time are no test.
const FEW: u64 = 2000;
/// The longest rest between two queries, with room for a machine that does other things as well.
const NOTICED: Duration = Duration::from_secs(1);

/// What a wait came to.
struct Waited {
    processor: Duration,
    until: Instant,
    counters: Counters,
}

/// Waits for the port on a thread of its own; says so when the holder is known.
fn wait_for_the_port(told: mpsc::Sender<()>) -> Waited {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let ports = Ports::new().unwrap();
        ports.unbound(&[endpoint("127.0.0.1")], |_, _| told.send(()).unwrap()).await.unwrap();
        let processor = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into();
        Waited { processor, until: Instant::now(), counters: ports.counters() }
    })
}

/// Connects to `server` and resets the connection, as often as it can, until `enough`.
fn connect_to(server: SocketAddr, enough: &AtomicBool, connections: &AtomicU64) {
    while !enough.load(Ordering::Relaxed) {
        if let Ok(client) = TcpStream::connect(server) {
            SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            connections.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn accept_from(listener: &TcpListener, enough: &AtomicBool) {
    while !enough.load(Ordering::Relaxed) {
        drop(listener.accept());
    }
}

#[test]
fn a_busy_port_costs_little_and_its_release_is_noticed() {
    namespace::run(async || {
        let listener = TcpListener::from(listen(at("127.0.0.1"), Options::default()).unwrap());
        listener.set_nonblocking(true).unwrap();
        let (told, holder_is_known) = mpsc::channel();
        let waiting = std::thread::spawn(|| wait_for_the_port(told));
        holder_is_known.recv().unwrap();

        let (enough, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let busy = Instant::now();
        let released = std::thread::scope(|scope| {
            scope.spawn(|| connect_to(at("127.0.0.1"), &enough, &connections));
            let accepting = scope.spawn(|| accept_from(&listener, &enough));
            std::thread::sleep(BUSY);
            enough.store(true, Ordering::Relaxed);
            accepting.join().unwrap();
            Instant::now()
        });
        let busy = released - busy;
        drop(listener);
        let waited = waiting.join().unwrap();

        let connections = connections.load(Ordering::Relaxed);
        assert!(connections > FEW, "{connections} connections");
        let counters = waited.counters;
        println!(
            "{connections} connections in {busy:?}: {:?} of processor time, {counters:?}",
            waited.processor
        );
        assert!(waited.until - released < NOTICED, "noticed after {:?}", waited.until - released);
        assert!(waited.processor < busy / 10, "{:?} of {busy:?}", waited.processor);
        assert!(counters.queries < connections / 2, "{counters:?} for {connections} connections");
    });
}
