//! Two daemons never fight: one configuration has one, and one leaves alone what the other one looks after.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use integration_tests::{
    Daemon, Lab, NOBODY, Record, Sshd, fetch, held_tunnel, kill, lines_of, process_end, python, request, run,
    serve_page,
};
use nix::sys::signal::Signal;
use portward::port::Kinship;
use portward::protocol::{FailureKind, StateName, TunnelStatus};
use tokio::process::{Child, Command};

const PORT: u16 = 9443;
const WEB: &str = "
  - {name: web, remote_host: server, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:9443'}
";
/// The same port, and everything that is needed to take it from others.
const GREEDY: &str = "
  - {name: greedy, remote_host: server, remote_port: 127.0.0.1:8000, local_port: '127.0.0.1:9443', on_conflict: kill}
";

/// Another daemon, with a runtime directory of its own.
struct Other {
    child: Child,
    socket: PathBuf,
    log: Record<String>,
}

/// `portward run` on `config`, with another runtime directory.
fn another(lab: &Lab, config: &str) -> (Command, PathBuf) {
    let directory = lab.path("other");
    fs::create_dir_all(&directory).unwrap();
    let mut command = lab.portward(&["run", "--log", "json", "--config", config]);
    command.env("RUNTIME_DIRECTORY", &directory);
    (command, directory.join("portward.sock"))
}

impl Other {
    async fn start((mut command, socket): (Command, PathBuf)) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = lines_of(child.stderr.take().unwrap());
        let other = Self { child, socket, log };
        other.says("configuration in force").await;
        other
    }

    async fn says(&self, words: &str) {
        let line = self.log.find(0, |line| line.contains(words)).await;
        assert!(line.is_some(), "{words} in {:#?}", self.log.all());
    }

    async fn status(&self) -> TunnelStatus {
        let answer = request(&self.socket, "GET", "/status", "").await;
        serde_json::from_str::<Vec<TunnelStatus>>(&answer.body).unwrap().remove(0)
    }

    async fn stop(mut self) {
        kill(self.child.id().unwrap(), Signal::SIGTERM);
        assert!(self.child.wait().await.unwrap().success(), "{:#?}", self.log.all());
    }
}

#[tokio::test]
async fn a_second_daemon_on_the_same_configuration_is_refused_and_told_of_the_first() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let daemon = Daemon::start(&lab, WEB).await;
    let ssh = daemon.wait_state("web", StateName::Up).await.pid;
    let config = lab.config_path();
    let link = lab.path("link.yaml");
    std::os::unix::fs::symlink(&config, &link).unwrap();
    for path in [&config, &link] {
        let (mut second, socket) = another(&lab, path.to_str().unwrap());
        let said = run(&mut second, 1).await;
        for words in [
            &format!("another portward (pid {}) is running with the configuration", daemon.pid()),
            path.to_str().unwrap(),
            &format!("answers on {}", daemon.socket().display()),
            &format!("`portward --socket {} status` as user root", daemon.socket().display()),
            &format!("kill {}", daemon.pid()),
        ] {
            assert!(said.contains(words), "{words} in {said}");
        }
        assert!(!socket.exists(), "it must leave nothing behind");
    }
    // What only reads the file is not concerned.
    run(&mut lab.portward(&["check", config.to_str().unwrap()]), 0).await;
    assert_eq!(daemon.wait_state("web", StateName::Up).await.pid, ssh);

    // An editor replaces the file, and later the first one is killed.
    let edited = lab.path("etc/edited");
    fs::write(&edited, lab.config(WEB)).unwrap();
    fs::rename(edited, &config).unwrap();
    run(&mut another(&lab, config.to_str().unwrap()).0, 1).await;
    kill(daemon.pid(), Signal::SIGKILL);
    daemon.ended().await;
    let successor = Other::start(another(&lab, config.to_str().unwrap())).await;
    successor.stop().await;
    for left in lab.sshs() {
        kill(left, Signal::SIGKILL);
        process_end(left).await;
    }
}

#[tokio::test]
async fn daemons_with_other_files_or_with_a_network_of_their_own_run_beside_each_other() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, "").await;
    let other = lab.path("etc/other.yaml");
    fs::write(&other, lab.config("")).unwrap();
    Other::start(another(&lab, other.to_str().unwrap())).await.stop().await;
    // As in a container: no port of the one can be in the way of the other.
    let (command, socket) = another(&lab, lab.config_path().to_str().unwrap());
    let mut contained = lab.command("unshare");
    contained.arg("--net").arg(command.as_std().get_program()).args(command.as_std().get_args());
    contained.env("RUNTIME_DIRECTORY", socket.parent().unwrap());
    Other::start((contained, socket)).await.stop().await;
    daemon.stop().await;
}

#[tokio::test]
async fn another_user_cannot_keep_a_daemon_from_its_configuration() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, "").await;
    let table = fs::read_to_string("/proc/thread-self/net/unix").unwrap();
    let names: Vec<_> = table.split_whitespace().filter(|word| word.starts_with("@portward/")).collect();
    assert!(!names.is_empty(), "{table}");
    daemon.stop().await;
    let takes = format!(
        "import os, signal, socket\n\
         os.setresuid({NOBODY}, {NOBODY}, {NOBODY})\n\
         taken = []\n\
         for name in {names:?}:\n\
         \x20   taken.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))\n\
         \x20   taken[-1].bind('\\0' + name[1:])\n\
         print('ready', flush=True)\n\
         signal.pause()\n"
    );
    let (mut stranger, _) = python(&lab, &takes).await;
    let daemon = Daemon::start_as_configured(&lab).await;
    run(&mut another(&lab, lab.config_path().to_str().unwrap()).0, 1).await;
    stranger.kill().await.unwrap();
    run(&mut another(&lab, lab.config_path().to_str().unwrap()).0, 1).await;
    daemon.stop().await;
}

#[tokio::test]
async fn what_another_daemon_looks_after_is_spared_and_named_and_what_a_dead_one_left_is_not() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", 8000)).await;
    let daemon = Daemon::start(&lab, WEB).await;
    let ssh = daemon.wait_state("web", StateName::Up).await.pid.unwrap();
    let other = lab.path("etc/other.yaml");
    fs::write(&other, lab.config(GREEDY)).unwrap();
    let greedy = Other::start(another(&lab, other.to_str().unwrap())).await;
    greedy.says("two portwards never fight").await;
    let waiting = greedy.status().await;
    assert_eq!((waiting.state, waiting.pid), (StateName::AwaitingPort, None));
    let holder = waiting.holder.unwrap();
    let supervisor = holder.supervisor.unwrap();
    assert_eq!((holder.pid, supervisor.pid), (Some(ssh), daemon.pid()));
    assert_eq!(supervisor.socket.as_deref(), daemon.socket().to_str());
    let failure = waiting.last_error.unwrap();
    assert_eq!(failure.kind, FailureKind::LocalPortHeld);
    let config = lab.config_path();
    for words in [
        &format!("pid {ssh} "),
        &format!("another portward has it for a tunnel of its own, pid {} (", daemon.pid()),
        config.to_str().unwrap(),
        &format!("`portward --socket {} status`", daemon.socket().display()),
    ] {
        assert!(failure.message.contains(words), "{words} in {failure}");
    }
    let shown = run(lab.portward(&["status"]).arg("--socket").arg(&greedy.socket), 0).await;
    assert!(shown.contains("another portward has it"), "{shown}");
    fetch(PORT).await.unwrap();
    assert_eq!(daemon.status("web").await.pid, Some(ssh));

    // The other one stops its tunnel, and gets the port back later as anybody would: it waits.
    daemon.cli(&["stop", "web"]).await;
    greedy.says("\"up: ").await;
    fetch(PORT).await.unwrap();
    let mark = daemon.mark();
    daemon.post("/start/web?timeout=0s").await;
    let waiting = daemon
        .wait_status(mark, "web", "waiting", |status| {
            status.state == StateName::AwaitingPort && status.holder.is_some()
        })
        .await;
    assert_eq!(waiting.holder.unwrap().supervisor.unwrap().pid, greedy.child.id().unwrap());
    greedy.stop().await;
    let ssh = daemon.wait_state("web", StateName::Up).await.pid.unwrap();

    // What is taken over is looked after as well, though it descends from nobody.
    daemon.crash().await;
    let daemon = Daemon::start_as_configured(&lab).await;
    assert_eq!(daemon.wait_state("web", StateName::Up).await.pid, Some(ssh));
    let greedy = Other::start(another(&lab, other.to_str().unwrap())).await;
    greedy.says("two portwards never fight").await;
    assert_eq!(greedy.status().await.holder.unwrap().supervisor.unwrap().pid, daemon.pid());
    greedy.stop().await;
    let who = run(&mut lab.portward(&["who", "9443", "--json"]), 0).await;
    assert!(who.contains(&ssh.to_string()), "{who}");

    // What is left of a daemon that is dead is held by nobody who would miss it.
    let greedy = Other::start(another(&lab, other.to_str().unwrap())).await;
    greedy.says("two portwards never fight").await;
    greedy.stop().await;
    kill(daemon.pid(), Signal::SIGKILL);
    daemon.ended().await;
    let greedy = Other::start(another(&lab, other.to_str().unwrap())).await;
    process_end(ssh).await;
    greedy.says("\"up: ").await;
    greedy.stop().await;
}

#[tokio::test]
async fn a_daemon_that_holds_a_port_itself_is_spared_though_it_has_no_ssh() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &held_tunnel("web", 8000, PORT, "")).await;
    let other = lab.path("etc/other.yaml");
    fs::write(&other, lab.config(GREEDY)).unwrap();
    daemon.wait_failure(0, "web", FailureKind::Refused).await;
    let greedy = Other::start(another(&lab, other.to_str().unwrap())).await;
    greedy.says("two portwards never fight").await;
    let holder = greedy.status().await.holder.unwrap();
    assert_eq!((holder.pid, holder.kinship), (Some(daemon.pid()), Kinship::Portward));
    assert_eq!(holder.supervisor.unwrap().pid, daemon.pid());
    greedy.stop().await;
    daemon.stop().await;
}
