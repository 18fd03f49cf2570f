//! Descriptors and room for events run out while tunnels are up. Limits of processes and of inotify are the subject of
//! tests/spawn_failures.rs and tests/startup.rs: these concern what is started, not what is up.

use integration_tests::{Daemon, Lab, Others, Sshd, kill, python, run, stop_signal};
use nix::sys::signal::Signal;
use portward::protocol::StateName;
use tokio::net::TcpStream;

use super::site::{Fault, PORT, SERVER, is_well, serve, start, tunnels};

#[tokio::test]
async fn without_a_free_descriptor_all_that_is_up_goes_on_and_what_is_lost_comes_back_when_there_are_some() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let (daemon, web, others) = start(&lab, "").await;
    let pid = daemon.pid().to_string();
    let set = async |limit: u64| {
        let argument = format!("--nofile={limit}:");
        run(lab.command("prlimit").args(["--pid", &pid, &argument]), 0).await;
    };
    // Below this, all are taken for good.
    set(10).await;
    let mark = daemon.mark();
    let fault = Fault::begins("an ssh killed when no descriptor is free");
    kill(web.pid.unwrap(), Signal::SIGKILL);
    let is_named =
        |line: &integration_tests::LogLine| line.has("tunnel", "web") && line.raw.contains("RLIMIT_NOFILE");
    daemon.wait_log(0, "that names the limit", is_named).await;
    fault.until("the limit named");
    others.go_on().await;
    let fault = Fault::begins("the limit of descriptors lifted, `max_delay` of 500 ms");
    set(4096).await;
    fault.is_over(&daemon, mark, &web).await;
    is_well(&lab, daemon, others).await;
}

/// While portward stands still, more ends of connections to another port than the socket has room for: the end of the holder is not among
/// those that it reads.
#[tokio::test]
async fn a_release_that_is_lost_in_an_overrun_of_sock_diag_is_found_nevertheless() {
    const CLIENTS: usize = 3000;
    /// Where another tunnel waits.
    const BUSY: u16 = 9444;
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve().await;
    let program = format!(
        "import socket\nholder = socket.create_server(('127.0.0.1', {BUSY}), backlog=4096)\nprint('listening', flush=True)\n\
         while True: holder.accept()[0].close()"
    );
    let (mut busy, _) = python(&lab, &program).await;
    // Of this process: the end of one is noticed in another way.
    let holder = std::net::TcpListener::bind(("127.0.0.1", PORT)).unwrap();
    let late = format!(
        "  - {{name: late, remote_host: {SERVER}, remote_port: 1, local_port: '127.0.0.1:{BUSY}'}}\n"
    );
    let daemon = Daemon::start(&lab, &(tunnels("") + &late)).await;
    let others = Others::start(&daemon, SERVER).await;
    for name in ["web", "late"] {
        daemon.wait_holder(name).await;
    }
    stop_signal(daemon.pid());
    for _ in 0..CLIENTS {
        drop(TcpStream::connect(("127.0.0.1", BUSY)).await.unwrap());
    }
    drop(holder);
    let fault = Fault::begins("an overrun of sock_diag, from SIGCONT on");
    kill(daemon.pid(), Signal::SIGCONT);
    daemon.wait_state("web", StateName::Up).await;
    fault.until("the released port noticed, and the tunnel up");
    is_well(&lab, daemon, others).await;
    busy.kill().await.unwrap();
}
