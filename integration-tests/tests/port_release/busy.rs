//! A busy port: what is waited for is asked about as often as may cost something, and its release is noticed all the same.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use portward::port::{Counters, Ports};
use socket2::SockRef;
use tokio::time::Instant;

use crate::namespace;
use crate::squatters::{at, endpoint};

/// How long the port is busy.
const BUSY: Duration = Duration::from_secs(2);
/// and for at least so many connections: fewer are no test.
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
fn wait_for_the_port(told: &mpsc::Sender<()>) -> Waited {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let ports = Ports::new().unwrap();
        ports.unbound(&[endpoint("127.0.0.1")], |_, _| told.send(()).unwrap()).await.unwrap();
        let processor = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into();
        Waited { processor, until: Instant::now(), counters: ports.counters() }
    })
}

/// Connects to `server` and resets the connection, as often as it can, for this long.
fn connect_to(server: SocketAddr, long: Duration) -> u64 {
    let begin = Instant::now();
    let mut connections = 0;
    while begin.elapsed() < long || connections <= FEW {
        let client = TcpStream::connect(server).unwrap();
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        connections += 1;
    }
    connections
}

#[test]
fn a_busy_port_costs_little_and_its_release_is_noticed() {
    namespace::run(async || {
        let listener = TcpListener::bind(at("127.0.0.1")).unwrap();
        let timeout = Some(Duration::from_millis(100));
        SockRef::from(&listener).set_read_timeout(timeout).unwrap();
        let (told, holder_is_known) = mpsc::channel();
        let waiting = std::thread::spawn(move || wait_for_the_port(&told));
        holder_is_known.recv().unwrap();

        let busy = Instant::now();
        let connecting = std::thread::spawn(|| connect_to(at("127.0.0.1"), BUSY));
        while !connecting.is_finished() {
            drop(listener.accept());
        }
        let connections = connecting.join().unwrap();
        let released = Instant::now();
        let busy = released - busy;
        drop(listener);
        let waited = waiting.join().unwrap();

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
