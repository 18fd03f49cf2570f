//! What does `listener: portward` cost, beside ssh's own listener? Both in one run, by turns: the throughput in each direction, and
//! the time from connect until the first byte has come back. On a busy machine the throughput says little: the processor time beside
//! it, of the ssh and of the thread of the relay, is what a transfer costs.
//!
//!     cargo bench -p integration-tests --bench relay

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::cast_precision_loss)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use integration_tests::{Daemon, ECHO_PORT, Lab, Sshd};
use portward::protocol::StateName;
use tokio::time::Instant;

const TRANSFERS: usize = 15;
const SIZE: usize = 256 * 1024 * 1024;
/// One transfer.
const GIB: f64 = SIZE as f64 / (1024.0 * 1024.0 * 1024.0);
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
    let (of_ssh, of_held) = (daemon.tunnel_pid("ssh").await, daemon.tunnel_pid("held").await);
    let relay = thread_called(daemon.pid(), "relay");
    let used = |port: u16| match port {
        OF_SSH => vec![processor_time(of_ssh, of_ssh)],
        _ => vec![processor_time(of_held, of_held), processor_time(daemon.pid(), relay)],
    };
    let ratio = |name: &str, measure: fn(u16) -> f64| {
        let [ssh, held] = by_turns(TRANSFERS, |port| {
            let before = used(port);
            let mut found = vec![measure(port)];
            found.extend(used(port).iter().zip(before).map(|(after, before)| (after - before) / GIB));
            found
        });
        println!(
            "{:<26}{:>14.0}{:>14.0}{:>9.2}x",
            format!("{name}, MB/s"),
            ssh[0],
            held[0],
            held[0] / ssh[0]
        );
        println!("{:<26}{:>14.3}{:>14.3}", format!("{name}, s/GiB of ssh"), ssh[1], held[1]);
        println!("{:<26}{:>14}{:>14.3}", format!("{name}, s/GiB of relay"), "", held[2]);
    };
    ratio("download", download);
    ratio("upload", upload);
    let [ssh, held] = by_turns(CONNECTIONS, |port| vec![first_byte(port)]);
    let [ssh, held] = [ssh[0], held[0]];
    println!("{:<26}{ssh:>14.3}{held:>14.3}{:>+9.3} ms", "connect to first byte, ms", held - ssh);
}

/// The medians of each figure that `measure` finds, for both ports.
fn by_turns(rounds: usize, measure: impl Fn(u16) -> Vec<f64>) -> [Vec<f64>; 2] {
    let mut found: [Vec<Vec<f64>>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (found, port) in found.iter_mut().zip([OF_SSH, HELD]) {
            found.push(measure(port));
        }
    }
    found.map(|found| {
        let median = |figure: usize| {
            let mut all: Vec<f64> = found.iter().map(|round| round[figure]).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        (0..found[0].len()).map(median).collect()
    })
}

/// The thread of a process that has this name.
fn thread_called(pid: u32, name: &str) -> u32 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut threads = threads.map(|thread| thread.unwrap().file_name().into_string().unwrap());
    let is_called = |thread: &String| {
        fs::read_to_string(format!("/proc/{pid}/task/{thread}/comm")).is_ok_and(|comm| comm.trim() == name)
    };
    threads.find(is_called).expect("a thread of that name").parse().unwrap()
}

/// What a thread has used so far, in seconds.
fn processor_time(pid: u32, thread: u32) -> f64 {
    let times = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).unwrap();
    let nanoseconds: f64 = times.split_ascii_whitespace().next().unwrap().parse().unwrap();
    nanoseconds / 1e9
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
