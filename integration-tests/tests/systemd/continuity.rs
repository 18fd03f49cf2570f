//! What goes on when the daemon does not: it is killed, restarted, upgraded or stopped.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::journal::Follower;
use crate::machine::{SHARED, TIMES, on_a_machine, run};
use crate::service::{STARTED, UNIT, property, running, uid_of_alice, user_alice};
use crate::site::{self, CONFIG};

/// Where every tunnel leads to: what it says it is told again.
const ECHO: u16 = 7000;
/// Bytes of a block that goes there and back,
const BLOCK: usize = 1000;
/// and the rest after it: other machines run at the same time.
const REST: Duration = Duration::from_millis(5);
/// How many tunnels there are.
const TUNNELS: usize = 20;
/// The port of the held listener.
const HELD: u16 = 9020;

/// A connection that numbered blocks go over, there and back, all the while.
pub(crate) struct Stream {
    stop: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Stream {
    pub(crate) fn open(port: u16) -> Self {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = thread::spawn(move || {
            let mut number: u64 = 0;
            while !stopped.load(Ordering::Relaxed) {
                let block = number.to_le_bytes().repeat(BLOCK / 8);
                connection.write_all(&block).unwrap();
                let mut back = vec![0; block.len()];
                connection.read_exact(&mut back).unwrap();
                assert!(
                    back == block,
                    "block {number} of the stream over port {port} came back as another one"
                );
                number += 1;
                thread::sleep(REST);
            }
            number
        });
        Self { stop, task }
    }

    /// Ends it, and returns how many blocks came back.
    pub(crate) fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.join().expect("no byte of the stream is lost")
    }
}

/// Connects to the held listener again and again; each connection must be accepted and served.
struct Clients {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(u64, u64)>,
}

impl Clients {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = thread::spawn(move || {
            let (mut served, mut cut) = (0, 0);
            while !stopped.load(Ordering::Relaxed) {
                let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, HELD)).expect("nobody is refused");
                client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                let mut back = [0; 1];
                // A client that is connected when the daemon goes is cut.
                match client.write_all(b"x").and_then(|()| client.read_exact(&mut back)) {
                    Ok(()) => served += 1,
                    Err(_) => cut += 1,
                }
                thread::sleep(REST);
            }
            (served, cut)
        });
        Self { stop, task }
    }

    fn finish(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.join().expect("nobody is refused")
    }
}

/// Serves on `port` what says again what it is told.
pub(crate) fn serve_echo(port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            thread::spawn(move || {
                let mut back = client.try_clone().unwrap();
                std::io::copy(&mut client, &mut back)
            });
        }
    });
}

/// Twenty tunnels of all kinds. Returns the ports that a process of their own listens on.
fn configure() -> Vec<u16> {
    let mut text = "defaults: {stop_grace: 1s}\ntunnels:\n".to_owned();
    let mut ports = Vec::new();
    let remote = format!("remote_host: root@127.0.0.1, remote_port: '127.0.0.1:{ECHO}'");
    let mut add = |name: &str, port: u16, rest: &str| {
        writeln!(text, "  - {{name: {name}-{port}, {remote}, local_port: {port}{rest}}}").unwrap();
        ports.push(port);
    };
    for port in 9001..=9004 {
        add("own", port, "");
    }
    for port in 9005..=9007 {
        add("guarded", port, ", standby: true");
    }
    for port in 9008..=9012 {
        add("shared", port, ", share: true");
    }
    add("drained", 9013, ", restart: {drain: 1h}");
    for port in 9014..=9015 {
        let back = "remote_host: root@127.0.0.1, direction: local_to_remote";
        writeln!(
            text,
            "  - {{name: back-{port}, {back}, remote_port: {port}, local_port: '127.0.0.1:{ECHO}'}}"
        )
        .unwrap();
        ports.push(port);
    }
    for port in 9016..=9018 {
        let serve = format!("'TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr', 'TCP:127.0.0.1:{ECHO}'");
        writeln!(text, "  - {{name: command-{port}, command: [socat, {serve}], local_port: {port}}}")
            .unwrap();
        ports.push(port);
    }
    writeln!(text, "  - {{name: socks, remote_host: root@127.0.0.1, direction: dynamic, local_port: 9019}}")
        .unwrap();
    writeln!(text, "  - {{name: held, {remote}, local_port: {HELD}, listener: portward}}").unwrap();
    fs::create_dir_all(Path::new(CONFIG).parent().unwrap()).unwrap();
    fs::write(CONFIG, text).unwrap();
    ports
}

/// How many times each thing is done to the daemon.
fn times() -> usize {
    std::env::var(TIMES).ok().and_then(|times| times.parse().ok()).unwrap_or(3)
}

#[test]
fn whatever_becomes_of_the_daemon_its_tunnels_go_on_and_a_stop_ends_them() {
    on_a_machine("continuity::whatever_becomes_of_the_daemon_its_tunnels_go_on_and_a_stop_ends_them", || {
        site::install();
        site::serve_ssh();
        site::give_keys("root", "/root");
        serve_echo(ECHO);
        let ports = configure();
        let mut journal = Follower::of(UNIT);
        run("systemctl", &["start", UNIT]);
        journal.wait(|entry| entry.has("MESSAGE_ID", STARTED));
        wait_all_up();
        let ssh = running("ssh");
        let streams: Vec<_> = ports.iter().map(|port| Stream::open(*port)).collect();
        let clients = Clients::start();
        let look = |journal: &mut Follower| {
            journal.wait(|entry| entry.has("MESSAGE_ID", STARTED));
            wait_all_up();
            assert_eq!(running("ssh"), ssh, "no ssh is started anew");
        };
        let mut longest = [Duration::ZERO; 3];
        for _ in 0..times() {
            let begun = Instant::now();
            run("kill", &["-KILL", &property(UNIT, "MainPID")]);
            look(&mut journal);
            longest[0] = longest[0].max(begun.elapsed());
        }
        for round in 0..times() {
            // Another binary: the same one under another inode, as an upgrade puts it there.
            let new = format!("/usr/local/bin/portward-{round}");
            run("install", &["-m755", &format!("{SHARED}/portward"), &new]);
            run("mv", &[&new, "/usr/local/bin/portward"]);
            let begun = Instant::now();
            run("systemctl", &["restart", UNIT]);
            look(&mut journal);
            longest[1] = longest[1].max(begun.elapsed());
        }
        let bytes: u64 = streams.into_iter().map(Stream::finish).sum();
        let (served, cut) = clients.finish();
        println!("{bytes} blocks over {} streams, {served} clients served, {cut} cut", ports.len());
        assert!(served > 0);

        for round in 0..times() {
            let begun = Instant::now();
            run("systemctl", &["stop", UNIT]);
            longest[2] = longest[2].max(begun.elapsed());
            for name in ["ssh", "portward", "socat"] {
                assert!(running(name).is_empty(), "{name} runs after stop {round}");
            }
            assert!(!Path::new("/run/portward").exists());
            for port in &ports {
                TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).expect("the port is free");
            }
            run("systemctl", &["start", UNIT]);
            wait_all_up();
        }
        let [killed, restarted, stopped] = longest;
        println!(
            "longest: until all is told after kill -9 {killed:?}, after a restart {restarted:?}; stop {stopped:?}"
        );
    });
}

/// Waits until every tunnel is up, and every standby connection is there.
fn wait_all_up() {
    let mut events = Command::new("portward")
        .args(["events", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starting portward events");
    let mut tunnels = BTreeMap::new();
    for line in BufReader::new(events.stdout.take().unwrap()).lines() {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let statuses = match event["event"].as_str() {
            Some("snapshot") => event["data"]["tunnels"].as_array().cloned().unwrap(),
            Some("tunnel") => vec![event["data"].clone()],
            _ => Vec::new(),
        };
        for status in statuses {
            let is_covered = status["standby"].is_null() || status["standby"] == "ready";
            tunnels.insert(status["name"].to_string(), status["state"] == "up" && is_covered);
        }
        if tunnels.len() == TUNNELS && tunnels.values().all(|is_well| *is_well) {
            break;
        }
    }
    let _ = events.kill();
    let _ = events.wait();
    assert_eq!(tunnels.values().filter(|is_well| **is_well).count(), TUNNELS, "{tunnels:?}");
}

#[test]
fn a_user_restarts_a_service_of_their_own_and_its_ssh_goes_on() {
    on_a_machine("continuity::a_user_restarts_a_service_of_their_own_and_its_ssh_goes_on", || {
        user_alice();
        let uid = uid_of_alice();
        run("systemctl", &["start", "dbus.socket", &format!("user@{uid}.service")]);
        let mut journal = Follower::of_user_unit(UNIT);
        let runtime = format!("XDG_RUNTIME_DIR=/run/user/{uid}");
        let as_alice = |verb: &str| {
            run("runuser", &["-u", "alice", "--", "env", &runtime, "systemctl", "--user", verb, UNIT]);
        };
        as_alice("start");
        journal.wait_up("database");
        let ssh = running("ssh");
        as_alice("restart");
        journal.wait_up("database");
        assert_eq!(running("ssh"), ssh);
        site::expect_greeting(site::DATABASE);
        as_alice("stop");
        assert!(running("ssh").is_empty());

        // A service of the system that has no privilege.
        let unit = "portward@alice.service";
        let mut journal = Follower::of(unit);
        run("systemctl", &["start", unit]);
        journal.wait_up("database");
        let ssh = running("ssh");
        run("systemctl", &["restart", unit]);
        journal.wait_up("database");
        assert_eq!(running("ssh"), ssh);
        run("systemctl", &["stop", unit]);
        assert!(running("ssh").is_empty());
    });
}
