//! `listener: portward`: while the tunnel is wanted no client is refused. Without a connection to the server clients wait.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use integration_tests::{
    Daemon, ECHO_PORT, Lab, NOBODY, NumberedStream, ORIGIN_PORT, PATIENCE, SSHD_PORT, Squatter, Sshd, Trace,
    fetch, fetch_from, fetch_patiently, held_tunnel, ip, kill, listens_on, process_end, serve_echo,
    serve_page, within_deadline,
};
use nix::sys::signal::Signal;
use portward::port::{Endpoint, Ports};
use portward::protocol::{Clients, StateName, TunnelStatus};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const PORT: u16 = 9443;

/// A tunnel to the page with these keys besides.
fn web(keys: &str) -> String {
    held_tunnel("web", ORIGIN_PORT, PORT, keys)
}

fn echo(keys: &str) -> String {
    held_tunnel("web", ECHO_PORT, PORT, keys)
}

async fn clients(daemon: &Daemon<'_>) -> Clients {
    daemon.status("web").await.clients.expect("figures of clients")
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint::new([127, 0, 0, 1].into(), port)
}

/// Waits until nobody listens on the port, as the kernel says.
async fn closed(port: u16) {
    let ports = Ports::new().unwrap();
    let unbound = async { ports.unbound(&[endpoint(port)], |_, _| {}).await };
    within_deadline("the end of the listener", unbound).await.unwrap();
}

#[tokio::test]
async fn a_client_that_comes_while_ssh_is_killed_is_served_by_the_next() {
    let lab = Lab::new();
    let mut sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web("")).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    assert_eq!(listens_on(&up), ["127.0.0.1:9443", "[::1]:9443"]);
    fetch(PORT).await.unwrap();
    for _ in 0..3 {
        let (mark, before) = (daemon.mark(), daemon.tunnel_pid("web").await);
        sshd.stop_listening().await;
        kill(before, Signal::SIGKILL);
        daemon.wait_status(mark, "web", "without ssh", |status| status.last_error.is_some()).await;
        let client = tokio::spawn(fetch_patiently(PORT));
        let waiting = daemon
            .wait_status(mark, "web", "with a client that waits", |status| {
                status.clients.is_some_and(|clients| clients.waiting == 1)
            })
            .await;
        assert_eq!(waiting.listeners, up.listeners, "it listens all the while");
        sshd.start_again().await;
        client.await.unwrap().unwrap();
        daemon.wait_up_anew(mark, "web", Some(before)).await;
    }
    let clients = clients(&daemon).await;
    assert_eq!((clients.total, clients.waiting, clients.refused), (4, 0, 0), "{clients:?}");
    assert!(clients.bytes_sent > 0 && clients.bytes_received > clients.bytes_sent, "{clients:?}");
}

/// Connects and fetches all the while; counts the connections that were refused, and the pages.
fn crowd() -> (tokio::sync::watch::Sender<bool>, JoinHandle<(usize, usize)>) {
    let (end, ended) = tokio::sync::watch::channel(false);
    let crowd = tokio::spawn(async move {
        let (mut refused, mut pages) = (0, 0);
        while !*ended.borrow() {
            match fetch_patiently(PORT).await {
                Ok(()) => pages += 1,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => refused += 1,
                // It was connected through the ssh that a restart ends.
                Err(_) => {}
            }
        }
        (refused, pages)
    });
    (end, crowd)
}

#[tokio::test]
async fn restarts_refuse_no_client_and_the_port_never_closes() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web("")).await;
    daemon.wait_state("web", StateName::Up).await;
    let ports = Ports::new().unwrap();
    let listener = || ports.listeners(&[endpoint(PORT)]).unwrap();
    let before = listener();
    assert_eq!(before.len(), 1);
    let (end, crowd) = crowd();
    for _ in 0..10 {
        let (old, new) = daemon.restart("web").await;
        assert_ne!(old, new);
        assert_eq!(listener(), before, "the same socket");
        fetch_patiently(PORT).await.unwrap();
    }
    let ssh = daemon.tunnel_pid("web").await;
    kill(ssh, Signal::SIGKILL);
    process_end(ssh).await;
    fetch_patiently(PORT).await.unwrap();
    end.send(true).unwrap();
    let (refused, pages) = within_deadline("the end of the clients", crowd).await.unwrap();
    assert_eq!(refused, 0);
    assert!(pages > 10, "{pages} pages");
    assert_eq!(clients(&daemon).await.refused, 0);
    let ended = daemon.stop().await;
    assert!(ended.status.success());
    assert_eq!(lab.sockets(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn ssh_listens_on_a_socket_for_its_user_alone_and_opens_it_again_when_it_is_lost() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web("")).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    let sockets = lab.sockets();
    let forward = sockets.iter().find(|path| path.extension().is_some_and(|extension| extension == "fwd"));
    let forward = forward.unwrap_or_else(|| panic!("{sockets:?}"));
    assert_eq!(fs::metadata(forward).unwrap().permissions().mode() & 0o777, 0o600);
    for _ in 0..3 {
        let mark = daemon.mark();
        fs::remove_file(forward).unwrap();
        fetch_patiently(PORT).await.unwrap();
        let again = daemon
            .wait_status(mark, "web", "up again", |status| {
                status.state == StateName::Up && status.last_error.is_none()
            })
            .await;
        assert_eq!(again.pid, up.pid, "without a login");
    }
    // An ssh that is asked to close it does not close ours.
    let control = forward.with_extension("");
    let target = format!("{}:127.0.0.1:{ORIGIN_PORT}", forward.display());
    let mut ssh = lab.command("/usr/bin/ssh");
    ssh.arg("-S").arg(control).args(["-O", "cancel", "-L", &target, "server"]);
    assert!(ssh.output().await.unwrap().status.success());
    fetch_patiently(PORT).await.unwrap();
    assert_eq!(clients(&daemon).await.refused, 0);
    assert_eq!(lab.ssh_starts().len(), 1);
}

#[tokio::test]
async fn a_client_is_given_up_after_connect_wait_and_the_log_says_why_and_an_edit_restarts_nothing() {
    let lab = Lab::new();
    let mut sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web("")).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    lab.write_config(&web(", connect_wait: 300ms"));
    let reloaded = daemon.post("/reload").await;
    assert_eq!(reloaded.status, 200, "{reloaded:?}");
    assert_eq!(daemon.status("web").await.pid, up.pid, "nothing was restarted");
    sshd.stop_listening().await;
    let (mark, log) = (daemon.mark(), daemon.log().mark());
    kill(up.pid.unwrap(), Signal::SIGKILL);
    daemon.wait_status(mark, "web", "without ssh", |status| status.last_error.is_some()).await;
    let mut client = TcpStream::connect(("127.0.0.1", PORT)).await.unwrap();
    let read = within_deadline("the end of the client", client.read(&mut [0])).await;
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let line = daemon.wait_log(log, "of it", |line| line.has("event", "clients_given_up")).await;
    assert!(line.has("tunnel", "web"), "{}", line.raw);
    for words in ["port 9443", "after 300ms", "refused", "portward status web", "connect_wait"] {
        assert!(line.raw.contains(words), "{words}: {}", line.raw);
    }
    assert_eq!(clients(&daemon).await.refused, 1);
    sshd.start_again().await;
    daemon.wait_up_anew(mark, "web", up.pid).await;
    fetch(PORT).await.unwrap();
}

/// Accepts one client after the other on the port of the echo, and hands them out.
async fn origin() -> TcpListener {
    TcpListener::bind(("127.0.0.1", ECHO_PORT)).await.unwrap()
}

#[tokio::test]
async fn either_side_may_end_first_and_a_reset_ends_the_other() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let origin = origin().await;
    let daemon = Daemon::start(&lab, &echo("")).await;
    daemon.wait_state("web", StateName::Up).await;
    let connect = async || {
        let client = TcpStream::connect(("127.0.0.1", PORT)).await.unwrap();
        (client, within_deadline("the client at the origin", origin.accept()).await.unwrap().0)
    };
    let end = async |stream: &mut TcpStream| {
        let mut heard = String::new();
        within_deadline("the end", stream.read_to_string(&mut heard)).await.map(|_| heard)
    };

    let (mut client, mut server) = connect().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(end(&mut server).await.unwrap(), "question");
    server.write_all(b"answer").await.unwrap();
    drop(server);
    assert_eq!(end(&mut client).await.unwrap(), "answer");

    let (mut client, mut server) = connect().await;
    server.write_all(b"banner").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(end(&mut client).await.unwrap(), "banner");
    client.write_all(b"late").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(end(&mut server).await.unwrap(), "late");

    let (client, mut server) = connect().await;
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    // sshd passes on an end, whatever it was.
    let _ = end(&mut server).await;

    let (mut client, server) = connect().await;
    SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    drop(server);
    let _ = end(&mut client).await;
    drop(client);
    // Nobody is left over.
    let all_ended =
        |status: &TunnelStatus| status.clients.is_some_and(|clients| (clients.now, clients.total) == (0, 4));
    daemon.wait_status(0, "web", "without clients", all_ended).await;
}

#[tokio::test]
async fn a_slow_reader_gets_every_byte_of_64_mib_and_fills_no_memory() {
    const SIZE: usize = 64 * 1024 * 1024;
    let byte = |index: usize| u8::try_from(index % 251).unwrap();
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let origin = origin().await;
    let daemon = Daemon::start(&lab, &echo("")).await;
    daemon.wait_state("web", StateName::Up).await;
    let before = daemon.peak_memory();
    let sender = tokio::spawn(async move {
        let (mut stream, _) = origin.accept().await.unwrap();
        let content: Vec<u8> = (0..SIZE).map(byte).collect();
        stream.write_all(&content).await.unwrap();
    });
    let mut client = TcpStream::connect(("127.0.0.1", PORT)).await.unwrap();
    let mut block = vec![0; 100_003];
    let mut read = 0;
    while read < SIZE {
        let length = within_deadline("the next bytes", client.read(&mut block)).await.unwrap();
        assert_ne!(length, 0, "the end after {read} bytes");
        for (offset, found) in block[..length].iter().enumerate() {
            assert_eq!(*found, byte(read + offset), "byte {}", read + offset);
        }
        read += length;
        if read % 16 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(client.read(&mut block).await.unwrap(), 0);
    sender.await.unwrap();
    let grown = daemon.peak_memory() - before;
    assert!(grown < 8 * 1024, "{grown} KiB");
    assert_eq!(clients(&daemon).await.bytes_received, SIZE as u64);
}

#[tokio::test]
async fn a_port_that_another_program_holds_is_waited_for() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let squatter = Squatter::listen(&lab, "127.0.0.1", PORT).await;
    let daemon = Daemon::start(&lab, &web("")).await;
    assert_eq!(daemon.wait_holder("web").await.pid, Some(squatter.pid()));
    let waiting = daemon.status("web").await;
    assert_eq!((waiting.listeners, waiting.clients), (Vec::new(), None));
    squatter.leave().await;
    daemon.wait_state("web", StateName::Up).await;
    fetch(PORT).await.unwrap();
}

#[tokio::test]
async fn portward_is_the_holder_and_names_the_tunnel() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, &web("")).await;
    daemon.wait_state("web", StateName::Up).await;
    let holders = daemon.get(&format!("/ports/{PORT}")).await.json();
    for holder in holders.as_array().unwrap() {
        assert_eq!(holder["holder"]["pid"], daemon.pid());
        assert_eq!(holder["holder"]["kinship"], "itself");
        assert_eq!(holder["holder"]["tunnel"], "web");
    }
    assert_eq!(holders.as_array().unwrap().len(), 2);
    let said = daemon.cli(&["who", &PORT.to_string()]).await;
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains(&daemon.pid().to_string()), "{said}");
    let doctor = daemon.cli(&["doctor"]).await;
    let doctor = String::from_utf8(doctor.stdout).unwrap();
    assert!(!doctor.contains(&format!("127.0.0.1:{PORT}")), "{doctor}");
    let shown = daemon.cli(&["status"]).await;
    assert!(String::from_utf8(shown.stdout).unwrap().contains("127.0.0.1:9443 [::1]:9443"));
}

#[tokio::test]
async fn a_tunnel_that_kills_holders_spares_portwards_own_listener() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web("")).await;
    daemon.wait_state("web", StateName::Up).await;
    // The listener stays until the tunnel that has it is stopped, which takes as long as its ssh.
    let other = held_tunnel("other", ORIGIN_PORT, PORT, ", on_conflict: kill");
    lab.write_config(&other);
    assert_eq!(daemon.post("/reload").await.status, 200);
    daemon.wait_state("other", StateName::Up).await;
    fetch(PORT).await.unwrap();
    assert!(!daemon.log().all().iter().any(|line| line.has("event", "evict")), "{}", daemon.report());
}

#[tokio::test]
async fn an_edit_of_what_is_beyond_the_listener_does_not_close_it() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &echo("")).await;
    let before = daemon.wait_state("web", StateName::Up).await;
    let ports = Ports::new().unwrap();
    let listener = || ports.listeners(&[endpoint(PORT)]).unwrap();
    let (old, mark) = (listener(), daemon.mark());
    assert_eq!(old.len(), 1);
    lab.write_config(&web(""));
    daemon.wait_up_anew(mark, "web", before.pid).await;
    fetch(PORT).await.unwrap();
    assert_eq!(listener(), old);
    assert_eq!(clients(&daemon).await.refused, 0);
    daemon.stop().await;
}

#[tokio::test]
async fn a_stop_closes_the_port_and_an_edit_moves_it() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web("")).await;
    daemon.wait_state("web", StateName::Up).await;
    assert_eq!(daemon.post("/stop/web?timeout=20s").await.status, 200);
    closed(PORT).await;
    let stopped = daemon.status("web").await;
    assert_eq!((stopped.listeners, stopped.clients), (Vec::new(), None));
    assert_eq!(lab.daemon_processes().len(), 1, "the daemon alone is left");
    assert_eq!(daemon.post("/start/web?timeout=20s").await.status, 200);
    fetch(PORT).await.unwrap();

    lab.write_config(&held_tunnel("web", ORIGIN_PORT, 9444, ""));
    assert_eq!(daemon.post("/reload").await.status, 200);
    let is_moved = |status: &TunnelStatus| {
        status.state == StateName::Up && listens_on(status) == ["127.0.0.1:9444", "[::1]:9444"]
    };
    daemon.wait_status(0, "web", "on the other port", is_moved).await;
    fetch(9444).await.unwrap();
    closed(PORT).await;

    let ssh_listens =
        held_tunnel("web", ORIGIN_PORT, 9444, "").replace("listener: portward", "listener: ssh");
    lab.write_config(&ssh_listens);
    let mark = daemon.mark();
    assert_eq!(daemon.post("/reload").await.status, 200);
    let by_ssh = |status: &TunnelStatus| status.state == StateName::Up && status.clients.is_none();
    daemon.wait_status(mark, "web", "with the listener of ssh", by_ssh).await;
    fetch(9444).await.unwrap();
}

#[tokio::test]
async fn a_listener_that_the_kernel_closes_listens_again() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web("")).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    let log = daemon.log().mark();
    let mut ss = lab.command("ss");
    let killed = ss.args(["-K", "--tcp", "state", "listening", "sport = :9443"]).output().await.unwrap();
    if !String::from_utf8_lossy(&killed.stdout).contains("9443") {
        println!("this kernel closes no sockets (CONFIG_INET_DIAG_DESTROY): {killed:?}");
        return;
    }
    daemon.wait_log(log, "of the end", |line| line.raw.contains("closed from outside")).await;
    let ports = Ports::new().unwrap();
    for address in &up.listeners {
        let endpoint = [Endpoint::new(address.ip(), PORT)];
        within_deadline("a listener again", ports.bound(&endpoint)).await.unwrap();
        fetch_from(*address, PATIENCE).await.unwrap();
    }
    let again = daemon.status("web").await;
    assert_eq!((again.state, again.pid, again.listeners), (StateName::Up, up.pid, up.listeners));
}

#[tokio::test]
async fn without_descriptors_clients_wait_and_nothing_spins() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let daemon = Daemon::start(&lab, &echo("")).await;
    daemon.wait_state("web", StateName::Up).await;
    let first = NumberedStream::open(PORT).await;
    let open = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    let limit = |soft: usize| format!("--nofile={soft}:");
    let set = async |soft: usize| {
        let mut prlimit = lab.command("prlimit");
        let pid = format!("--pid={}", daemon.pid());
        assert!(prlimit.args([pid, limit(soft)]).status().await.unwrap().success());
    };
    set(open).await;
    let crowd: Vec<_> = (0..20).map(|_| tokio::spawn(NumberedStream::open(PORT))).collect();
    let line = daemon.wait_log(0, "of the limit", |line| line.has("event", "clients_limited")).await;
    assert!(line.raw.contains("RLIMIT_NOFILE") && line.has("tunnel", "web"), "{}", line.raw);
    let before = daemon.processor_time();
    tokio::time::sleep(Duration::from_secs(2)).await;
    // What the first stream costs is in here.
    let used = daemon.processor_time().saturating_sub(before);
    assert!(used < Duration::from_secs(1), "{used:?} in 2 s");
    first.next_bytes().await;
    set(1024).await;
    for client in crowd {
        within_deadline("a client that waited", client).await.unwrap().finish().await;
    }
    first.finish().await;
    let told = daemon.log().all().iter().filter(|line| line.has("event", "clients_limited")).count();
    assert_eq!(told, 1, "{}", daemon.report());
}

#[tokio::test]
async fn more_clients_than_the_limit_has_room_for_are_served_as_others_end() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    lab.wrap_portward("exec prlimit --nofile=100:100 $DAEMON \"$@\"");
    let daemon = Daemon::start(&lab, &echo("")).await;
    daemon.wait_state("web", StateName::Up).await;
    let mut streams = Vec::new();
    // (100 - 50) / 2
    for _ in 0..25 {
        streams.push(NumberedStream::open(PORT).await);
    }
    let line = daemon.wait_log(0, "of the limit", |line| line.has("event", "clients_limited")).await;
    assert!(line.raw.contains("25") && line.raw.contains("LimitNOFILE"), "{}", line.raw);
    let late = tokio::spawn(NumberedStream::open(PORT));
    // The rest of portward has descriptors.
    daemon.restart("web").await;
    for stream in streams {
        stream.broken().await;
    }
    within_deadline("the client that came late", late).await.unwrap().finish().await;
}

#[tokio::test]
async fn a_thousand_clients_are_served_at_once_and_idle_ones_wake_nobody() {
    const CLIENTS: usize = 1000;
    let lab = Lab::new();
    raise_own_limit();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let daemon = Daemon::start(&lab, &echo("")).await;
    daemon.wait_state("web", StateName::Up).await;
    let client = |index: usize| async move {
        let mut stream = TcpStream::connect(("127.0.0.1", PORT)).await.unwrap();
        stream.write_all(&index.to_be_bytes()).await.unwrap();
        let mut back = [0; size_of::<usize>()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, index.to_be_bytes());
        stream
    };
    let clients: Vec<_> = (0..CLIENTS).map(|index| tokio::spawn(client(index))).collect();
    let mut streams = Vec::new();
    for client in clients {
        streams.push(within_deadline("a client", client).await.unwrap());
    }
    let all = |status: &TunnelStatus| status.clients.is_some_and(|clients| clients.now == CLIENTS as u64);
    daemon.wait_status(0, "web", "with all clients", all).await;
    // tokio's helper threads end by themselves after 10 s.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let calls = Trace::attach(&lab, daemon.pid()).await.calls_during(Duration::from_secs(5)).await;
    assert_eq!(calls, Vec::<String>::new());
    drop(streams);
    let none = |status: &TunnelStatus| status.clients.is_some_and(|clients| clients.now == 0);
    daemon.wait_status(daemon.mark(), "web", "without clients", none).await;
    let told = daemon.statuses(0, "web").len();
    assert!(told < 60, "{told} events about 2,000 changes");
}

/// The test itself has a thousand clients, and sshd has as many connections to its echo.
fn raise_own_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}

#[tokio::test]
async fn a_client_of_another_address_waits_as_well_and_a_stopped_server_holds_up_nobody_else() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    // Nobody listens there.
    let nowhere = SSHD_PORT + 1;
    let other = format!(
        "  - {{name: other, remote_host: 'ssh://root@server:{nowhere}', remote_port: 1, local_port: 9444, listener: portward}}\n"
    );
    let daemon = Daemon::start(&lab, &(web("") + &other)).await;
    daemon.wait_state("web", StateName::Up).await;
    daemon.wait_status(0, "other", "in backoff", |status| status.state == StateName::Backoff).await;
    let waits = TcpStream::connect(("127.0.0.1", 9444)).await.unwrap();
    let is_so = |status: &TunnelStatus| status.clients.is_some_and(|clients| clients.waiting == 1);
    daemon.wait_status(0, "other", "with a client", is_so).await;
    fetch_from("[::1]:9443".parse().unwrap(), PATIENCE).await.unwrap();
    drop(waits);
    let gone = |status: &TunnelStatus| {
        status.clients.is_some_and(|clients| (clients.waiting, clients.total) == (0, 1))
    };
    daemon.wait_status(0, "other", "without the client that went away", gone).await;
    assert_eq!(daemon.status("web").await.state, StateName::Up);
}

/// Connects from the user nobody, says its pid, sends a byte and tells how that ended.
const CLIENT: &str = "import os, socket, sys\n\
                      client = socket.create_connection((sys.argv[1], 9443))\n\
                      print(os.getpid(), flush=True)\n\
                      try:\n\
                      \x20   client.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')\n\
                      \x20   print('served' if client.recv(100) else 'ended')\n\
                      except ConnectionResetError:\n\
                      \x20   print('reset')\n";

/// The pid of the client, and how it ended.
async fn client(mut command: tokio::process::Command, address: &str) -> (u32, String) {
    let output = command.args(["/usr/bin/python3", "-c", CLIENT, address]).output();
    let output = within_deadline("the end of a client", output).await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (pid, end) =
        said.split_once('\n').unwrap_or_else(|| panic!("{:?}", String::from_utf8(output.stderr)));
    (pid.parse().unwrap(), end.trim().to_owned())
}

#[tokio::test]
async fn only_users_and_groups_that_are_named_may_connect() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &web(", allow_users: [root]")).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    let nobody = || {
        let mut command = lab.command("setpriv");
        command.args([&format!("--reuid={NOBODY}"), "--regid=65534", "--clear-groups"]);
        command
    };
    fetch(PORT).await.unwrap();
    let (pid, end) = client(nobody(), "127.0.0.1").await;
    assert_eq!(end, "reset");
    let line = daemon.wait_log(0, "of the stranger", |line| line.has("event", "client_denied")).await;
    assert!(line.has("tunnel", "web"), "{}", line.raw);
    for words in ["user nobody (uid 65534)", &format!("pid {pid}"), "port 9443", "allow_users"] {
        assert!(line.raw.contains(words), "{words}: {}", line.raw);
    }
    let counted = clients(&daemon).await;
    assert_eq!((counted.total, counted.refused), (2, 1));
    assert!(counted.bytes_sent < 30, "nothing of it was passed on: {counted:?}");

    for (allowed, end) in
        [("nobody", "served"), ("'65534'", "served"), ("'@65534'", "served"), ("'@root'", "reset")]
    {
        lab.write_config(&web(&format!(", allow_users: [{allowed}]")));
        assert_eq!(daemon.post("/reload").await.status, 200);
        assert_eq!(client(nobody(), "127.0.0.1").await.1, end, "{allowed}");
        assert_eq!(fetch(PORT).await.is_ok(), allowed == "'@root'", "{allowed}");
    }
    lab.write_config(&web(""));
    assert_eq!(daemon.post("/reload").await.status, 200);
    assert_eq!(client(nobody(), "127.0.0.1").await.1, "served");
    assert_eq!(daemon.status("web").await.pid, up.pid, "nothing was restarted");
}

#[tokio::test]
async fn a_client_of_another_network_namespace_is_never_allowed() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    for arguments in [
        "netns add other",
        "link add near type veth peer name far netns other",
        "address add 10.9.0.1/24 dev near",
        "link set near up",
        "-n other address add 10.9.0.2/24 dev far",
        "-n other link set far up",
    ] {
        ip(arguments);
    }
    let open = web("").replace("local_port: 9443", "local_port: 0.0.0.0:9443");
    let daemon = Daemon::start(&lab, &open).await;
    daemon.wait_state("web", StateName::Up).await;
    let far = || {
        let mut command = lab.command("ip");
        command.args(["netns", "exec", "other"]);
        command
    };
    assert_eq!(client(far(), "10.9.0.1").await.1, "served");
    lab.write_config(&open.replace("listener: portward", "listener: portward, allow_users: [root]"));
    assert_eq!(daemon.post("/reload").await.status, 200);
    assert_eq!(client(far(), "10.9.0.1").await.1, "reset");
    let line = daemon.wait_log(0, "of the stranger", |line| line.has("event", "client_denied")).await;
    assert!(line.raw.contains("10.9.0.2:") && line.raw.contains("another machine"), "{}", line.raw);
    fetch(PORT).await.unwrap();
    ip("netns delete other");
}
