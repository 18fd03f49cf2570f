//! What does `listener: portward` cost, beside ssh's own listener? Both in one run, by turns: the throughput in each direction, and
//! the time from connect until the first byte has come back.
//!
//!     cargo bench -p integration-tests --bench relay

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::cast_precision_loss)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use integration_tests::{Daemon, ECHO_PORT, Lab, Sshd};
use portward::protocol::StateName;
use tokio::time::Instant;

const TRANSFERS: usize = 15;
const SIZE: usize = 256 * 1024 * 1024;
const CONNECTIONS: usize = 2000;
const BLOCK: usize = 256 * 1024;
const OF_SSH: u16 = 9443;
const HELD: u16 = 9444;
const TUNNELS: &str = "
  - {name: ssh, remote_host: server, remote_port: 127.0.0.1:7000, local_port: '127.0.0.1:9443'}
  - {name: held, remote_host: server, remote_port: 127.0.0.1:7000, local_port: '127.0.0.1:9444', listener: portward}
";

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve();
    let daemon = Daemon::start(&lab, TUNNELS).await;
    daemon.wait_state("ssh", StateName::Up).await;
    daemon.wait_state("held", StateName::Up).await;
    // Whatever is done for the first time.
    for port in [OF_SSH, HELD] {
        download(port);
        first_byte(port);
    }
    println!("{:<26}{:>14}{:>14}{:>10}", "median", "ssh", "portward", "");
    let ratio = |name: &str, measure: fn(u16) -> f64| {
        let [ssh, held] = by_turns(TRANSFERS, measure);
        println!("{name:<26}{ssh:>14.0}{held:>14.0}{:>9.2}x", held / ssh);
    };
    ratio("download, MB/s", download);
    ratio("upload, MB/s", upload);
    let [ssh, held] = by_turns(CONNECTIONS, first_byte);
    println!("{:<26}{ssh:>14.3}{held:>14.3}{:>+9.3} ms", "connect to first byte, ms", held - ssh);
}

/// The medians of `measure` for both ports.
fn by_turns(rounds: usize, measure: fn(u16) -> f64) -> [f64; 2] {
    let mut found = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (found, port) in found.iter_mut().zip([OF_SSH, HELD]) {
            found.push(measure(port));
        }
    }
    found.map(|mut found| {
        found.sort_by(f64::total_cmp);
        found[found.len() / 2]
    })
}

/// The far end: sends, takes or sends back, as the first byte asks for.
fn serve() {
    let listener = TcpListener::bind(("127.0.0.1", ECHO_PORT)).unwrap();
    std::thread::spawn(move || {
        let mut block = vec![0; BLOCK];
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut what = [0];
            if stream.read_exact(&mut what).is_err() {
                continue;
            }
            match &what {
                b"d" => (0..SIZE / BLOCK).for_each(|_| stream.write_all(&block).unwrap()),
                b"u" => {
                    (0..SIZE / BLOCK).for_each(|_| stream.read_exact(&mut block).unwrap());
                    stream.write_all(&what).unwrap();
                }
                _ => stream.write_all(&what).unwrap(),
            }
        }
    });
}

fn connect(port: u16, what: u8) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(&[what]).unwrap();
    stream
}

fn megabytes_per_second(start: Instant) -> f64 {
    SIZE as f64 / 1e6 / start.elapsed().as_secs_f64()
}

fn download(port: u16) -> f64 {
    let mut stream = connect(port, b'd');
    let mut block = vec![0; BLOCK];
    let start = Instant::now();
    let mut read = 0;
    while read < SIZE {
        let length = stream.read(&mut block).unwrap();
        assert_ne!(length, 0);
        read += length;
    }
    megabytes_per_second(start)
}

fn upload(port: u16) -> f64 {
    let mut stream = connect(port, b'u');
    let block = vec![0; BLOCK];
    let start = Instant::now();
    for _ in 0..SIZE / BLOCK {
        stream.write_all(&block).unwrap();
    }
    stream.read_exact(&mut [0]).unwrap();
    megabytes_per_second(start)
}

/// In milliseconds.
fn first_byte(port: u16) -> f64 {
    let start = Instant::now();
    let mut stream = connect(port, b'e');
    stream.read_exact(&mut [0]).unwrap();
    start.elapsed().as_secs_f64() * 1e3
}
