//! Whole process trees: what a tunnel's process has started ends with it, is never taken for a stranger, and is noticed when it
//! is stopped.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Stdio;

use integration_tests::{
    Daemon, Lab, ORIGIN_PORT, Sshd, fetch, kill, lines_of, process_end, request, serve_page, stop_signal,
    within_deadline,
};
use nix::sys::signal::Signal;
use portward::protocol::{FailureKind, StateName, TunnelStatus};
use tokio::io::AsyncWriteExt as _;

const PORT: u16 = 9443;
const SOCAT: &str = "socat TCP-LISTEN:9443,bind=127.0.0.1,reuseaddr,fork TCP:127.0.0.1:8000";
const WEB: &str = "
  - name: web
    remote_host: server
    remote_port: 127.0.0.1:8000
    local_port: 9443
";

/// A tunnel `relay` that runs `script` with a shell; `more` is further lines of it.
fn shell(script: &str, more: &str) -> String {
    let script = script.replace('\'', "''");
    format!("\n  - name: relay\n    command: [sh, -c, '{script}']\n    local_port: 9443\n{more}")
}

/// A tunnel `relay` that runs this program with python.
fn python(lab: &Lab, program: &str, more: &str) -> String {
    let file = lab.path("program.py");
    fs::write(&file, program).unwrap();
    let file = file.display();
    format!("\n  - name: relay\n    command: [/usr/bin/python3, {file}]\n    local_port: 9443\n{more}")
}

/// A daemon as the textbook makes it: two forks, a session of its own, no terminal, no pipes; `last` is what it does then.
fn double_fork(last: &str) -> String {
    format!(
        "import os, signal, socket\n\
         if os.fork(): os._exit(0)\n\
         os.setsid()\n\
         if os.fork(): os._exit(0)\n\
         null = os.open('/dev/null', os.O_RDWR)\n\
         for number in range(3): os.dup2(null, number)\n\
         {last}\n"
    )
}

/// Asks the daemon to stop the tunnel, and checks that it says, and that it is true, that nothing is left.
async fn stop_leaves_nothing(lab: &Lab, daemon: &Daemon<'_>, name: &str) {
    let mark = daemon.log().mark();
    let answer = daemon.post(&format!("/stop/{name}?timeout=20s")).await;
    assert_eq!(answer.status, 200, "{answer:?}\n{}", daemon.report());
    daemon.wait_log(mark, "that says so", |line| line.raw.contains("nothing of it is left")).await;
    let left: Vec<u32> = lab.daemon_processes().iter().map(|process| process.pid).collect();
    assert_eq!(left, [daemon.pid()], "{:?}", lab.daemon_processes());
    assert!(fetch(PORT).await.is_err(), "somebody listens still");
}

fn started(daemon: &Daemon<'_>) -> usize {
    daemon.log().all().iter().filter(|line| line.has("event", "starting")).count()
}

#[tokio::test]
async fn a_child_in_a_session_of_its_own_ends_with_the_tunnel() {
    let lab = Lab::new();
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &shell(&format!("setsid {SOCAT} & wait"), "")).await;
    daemon.wait_state("relay", StateName::Up).await;
    fetch(PORT).await.expect("the page comes through the child");
    stop_leaves_nothing(&lab, &daemon, "relay").await;
}

#[tokio::test]
async fn an_orphan_that_left_session_and_parent_is_up_and_ends_with_the_tunnel() {
    let lab = Lab::new();
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let script = format!("(setsid {SOCAT} &) ; exec sleep 1000");
    let daemon = Daemon::start(&lab, &shell(&script, "    on_conflict: kill\n")).await;
    daemon.wait_state("relay", StateName::Up).await;
    fetch(PORT).await.expect("the page comes through the orphan");
    assert_eq!(started(&daemon), 1);
    stop_leaves_nothing(&lab, &daemon, "relay").await;
}

#[tokio::test]
async fn a_grandchild_that_ignores_sigterm_is_killed_after_the_grace() {
    let lab = Lab::new();
    let stubborn = "import os, signal, socket\n\
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
                    if os.fork() == 0:\n\
                    \x20   os.setsid()\n\
                    \x20   listener = socket.create_server(('127.0.0.1', 9443))\n\
                    signal.signal(signal.SIGTERM, signal.SIG_DFL) if os.getsid(0) != os.getpid() else None\n\
                    signal.pause()\n";
    let daemon = Daemon::start(&lab, &python(&lab, stubborn, "")).await;
    daemon.wait_state("relay", StateName::Up).await;
    stop_leaves_nothing(&lab, &daemon, "relay").await;
}

#[tokio::test]
async fn the_server_of_a_wrapper_that_dies_has_the_grace_and_is_waited_for() {
    let lab = Lab::new();
    let notes = lab.path("notes");
    let server = format!(
        "import signal, socket, sys, time\n\
         def note(text): open('{}', 'a').write(text + '\\n')\n\
         def finish(*_):\n\
         \x20   listener.close()\n\
         \x20   time.sleep(0.4)\n\
         \x20   note('finished')\n\
         \x20   sys.exit(0)\n\
         signal.signal(signal.SIGTERM, finish)\n\
         note('started')\n\
         listener = socket.create_server(('127.0.0.1', 9443))\n\
         signal.pause()\n",
        notes.display()
    );
    fs::write(lab.path("server.py"), server).unwrap();
    let script = format!("/usr/bin/python3 {} & wait", lab.path("server.py").display());
    let daemon = Daemon::start(&lab, &shell(&script, "    stop_grace: 10s\n")).await;
    let up = daemon.wait_state("relay", StateName::Up).await;
    let mark = daemon.mark();
    kill(up.pid.unwrap(), Signal::SIGKILL);
    daemon.wait_failure(mark, "relay", FailureKind::Killed).await;
    daemon.wait_status(mark, "relay", "up anew", |now| now.state == StateName::Up && now.pid != up.pid).await;
    stop_leaves_nothing(&lab, &daemon, "relay").await;
    let said = fs::read_to_string(&notes).unwrap();
    assert_eq!(said, "started\nfinished\nstarted\nfinished\n", "the new server waits for the old one's end");
}

/// Up with the process in the background, which is restarted when it dies and ends with the tunnel.
async fn goes_into_the_background(lab: &Lab, last: &str) {
    let daemon = Daemon::start(lab, &python(lab, &double_fork(last), "    on_conflict: kill\n")).await;
    let up = daemon.wait_state("relay", StateName::Up).await;
    let pid = up.pid.expect("a pid");
    let listening = lab.daemon_processes().into_iter().any(|process| process.pid == pid);
    assert!(listening, "pid {pid} of {:?}", lab.daemon_processes());
    assert_eq!(started(&daemon), 1, "{}", daemon.report());

    let mark = daemon.mark();
    kill(pid, Signal::SIGKILL);
    daemon.wait_failure(mark, "relay", FailureKind::Killed).await;
    let again = daemon
        .wait_status(mark, "relay", "up anew", |now| now.state == StateName::Up && now.pid.is_some())
        .await;
    assert_ne!(again.pid, up.pid);
    assert_eq!(started(&daemon), 2, "{}", daemon.report());
    assert!(!daemon.log().all().iter().any(|line| line.has("event", "evict")), "{}", daemon.report());
    stop_leaves_nothing(lab, &daemon, "relay").await;
}

#[tokio::test]
async fn a_program_that_goes_into_the_background_is_up_and_is_no_stranger() {
    let lab = Lab::new();
    goes_into_the_background(&lab, "listener = socket.create_server(('127.0.0.1', 9443))\nsignal.pause()")
        .await;
}

#[tokio::test]
async fn a_server_that_listens_first_and_goes_into_the_background_then_is_the_same() {
    let lab = Lab::new();
    let program = format!(
        "import socket\nlistener = socket.create_server(('127.0.0.1', 9443))\n{}",
        double_fork("signal.pause()")
    );
    let daemon = Daemon::start(&lab, &python(&lab, &program, "")).await;
    let alive = |pid: u32| lab.daemon_processes().iter().any(|process| process.pid == pid);
    let up = daemon
        .wait_status(0, "relay", "up with a process that lives", |now| {
            now.state == StateName::Up && now.pid.is_some_and(alive)
        })
        .await;
    assert_eq!(started(&daemon), 1, "{up:?}");
    stop_leaves_nothing(&lab, &daemon, "relay").await;
}

#[tokio::test]
async fn a_daemon_without_its_environment_is_known_by_its_listener() {
    let lab = Lab::new();
    let last = "os.execve('/usr/bin/socat', ['socat', 'TCP-LISTEN:9443,bind=127.0.0.1,reuseaddr,fork', \
                'TCP:127.0.0.1:8000'], {})";
    goes_into_the_background(&lab, last).await;
}

#[tokio::test]
async fn a_daemon_that_clears_its_environment_long_before_it_listens_is_waited_for() {
    let lab = Lab::new();
    // Another tunnel's process may be its parent as well.
    let other = "  - {name: other, command: [socat, 'TCP-LISTEN:9444,bind=127.0.0.1,reuseaddr', STDOUT], local_port: 9444}\n";
    let server = "import signal, socket, time\n\
                  time.sleep(1)\n\
                  listener = socket.create_server(('127.0.0.1', 9443))\n\
                  signal.pause()\n";
    fs::write(lab.path("server.py"), server).unwrap();
    let file = lab.path("server.py").display().to_string();
    let last = format!("os.execve('/usr/bin/python3', ['python3', '{file}'], {{}})");
    let tunnels = python(&lab, &double_fork(&last), "    on_conflict: kill\n") + other;
    let daemon = Daemon::start(&lab, &tunnels).await;
    daemon.wait_state("other", StateName::Up).await;
    let up = daemon.wait_state("relay", StateName::Up).await;
    let starts = daemon.log().all();
    let starts = starts.iter().filter(|line| line.has("event", "starting") && line.has("tunnel", "relay"));
    assert_eq!(starts.count(), 1, "{}", daemon.report());
    assert!(up.pid.is_some(), "{up:?}");
    let mark = daemon.log().mark();
    let answer = daemon.post("/stop/other?timeout=20s").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    daemon.wait_log(mark, "of the stop", |line| line.raw.contains("nothing of it is left")).await;
    assert_eq!(daemon.status("relay").await.state, StateName::Up);
    stop_leaves_nothing(&lab, &daemon, "relay").await;
}

/// Serves once an orphan has left its group, its session and its environment.
fn unmarked_orphan(lab: &Lab) -> String {
    let left = lab.path("left").display().to_string();
    nix::unistd::mkfifo(left.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    format!("(env -i setsid sh -c \"exec sleep 1000 >{left}\" 2>/dev/null &) ; : <{left}; exec {SOCAT}")
}

#[tokio::test]
async fn an_orphan_that_shows_nothing_of_its_origin_is_the_only_tunnels() {
    let lab = Lab::new();
    let script = unmarked_orphan(&lab);
    let daemon = Daemon::start(&lab, &shell(&script, "")).await;
    daemon.wait_state("relay", StateName::Up).await;
    stop_leaves_nothing(&lab, &daemon, "relay").await;
}

#[tokio::test]
async fn an_orphan_that_may_be_of_any_tunnel_is_named_and_ends_with_the_last_one() {
    let lab = Lab::new();
    let script = unmarked_orphan(&lab);
    let other = "  - {name: other, command: [socat, 'TCP-LISTEN:9444,bind=127.0.0.1,reuseaddr', STDOUT], local_port: 9444}\n";
    let daemon = Daemon::start(&lab, &(shell(&script, "") + other)).await;
    daemon.wait_state("relay", StateName::Up).await;
    daemon.wait_state("other", StateName::Up).await;
    let answer = daemon.post("/stop/relay?timeout=20s").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let stopped = daemon.wait_log(0, "of the stop", |line| line.has("state", "stopped")).await;
    assert!(stopped.raw.contains("(sleep 1000) runs on"), "{}", stopped.raw);
    stop_leaves_nothing(&lab, &daemon, "other").await;
}

#[tokio::test]
async fn a_wrapper_that_finishes_on_sigterm_has_the_grace_for_it() {
    let lab = Lab::new();
    let notes = lab.path("notes");
    let finish = format!("kill $server; sleep 0.4; echo finished > {}; exit 0", notes.display());
    let script = format!("trap '{finish}' TERM; setsid {SOCAT} & server=$!; wait");
    let daemon = Daemon::start(&lab, &shell(&script, "    stop_grace: 20s\n")).await;
    daemon.wait_state("relay", StateName::Up).await;
    stop_leaves_nothing(&lab, &daemon, "relay").await;
    assert_eq!(fs::read_to_string(&notes).unwrap(), "finished\n");
}

#[tokio::test]
async fn one_tunnels_process_is_spared_by_the_other_one() {
    let lab = Lab::new();
    // The first tunnel's command listens on the second one's port, too.
    let program = "import signal, socket\n\
                   listeners = [socket.create_server(('127.0.0.1', port)) for port in (9444, 9443)]\n\
                   signal.pause()\n";
    let both = python(&lab, program, "")
        + "  - {name: other, command: [socat, 'TCP-LISTEN:9444,bind=127.0.0.1,reuseaddr', STDOUT], local_port: 9444, \
           on_conflict: kill, enabled: false}\n";
    let daemon = Daemon::start(&lab, &both).await;
    daemon.wait_state("relay", StateName::Up).await;
    daemon.post("/start/other?timeout=1s").await;
    let waiting = daemon.wait_failure(0, "other", FailureKind::LocalPortHeld).await;
    let message = waiting.last_error.unwrap().message;
    assert!(message.contains("another tunnel of portward"), "{message}");
    assert_eq!(daemon.status("relay").await.state, StateName::Up);
    daemon.post("/stop/other?timeout=5s").await;
    stop_leaves_nothing(&lab, &daemon, "relay").await;
}

#[tokio::test]
async fn what_a_proxy_command_leaves_behind_ends_with_its_ssh() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    lab.install_script(
        "proxy",
        "setsid sh -c 'trap \"\" TERM HUP; sleep 1000' </dev/null >/dev/null 2>&1 &\nexec socat - TCP:127.0.0.1:2222\n",
    );
    let options = format!("    ssh: {{options: {{ProxyCommand: {}}}}}\n", lab.path("bin/proxy").display());
    let daemon = Daemon::start(&lab, &format!("{WEB}{options}")).await;
    daemon.wait_state("web", StateName::Up).await;
    fetch(PORT).await.expect("the page comes");
    stop_leaves_nothing(&lab, &daemon, "web").await;
}

#[tokio::test]
async fn a_tunnel_whose_ssh_is_stopped_says_so_and_is_kept_if_it_goes_on() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, &format!("{WEB}    stop_grace: 20s\n")).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    let mark = daemon.mark();
    stop_signal(up.pid.unwrap());
    let stopped = daemon.wait_failure(mark, "web", FailureKind::Timeout).await;
    assert_eq!((stopped.state, stopped.pid), (StateName::Up, up.pid));
    assert!(stopped.last_error.unwrap().message.contains("kill -CONT"));
    let mark = daemon.mark();
    kill(up.pid.unwrap(), Signal::SIGCONT);
    let on = daemon.wait_status(mark, "web", "going on", |now| now.last_error.is_none()).await;
    assert_eq!((on.state, on.pid), (StateName::Up, up.pid));
    daemon.wait_log(0, "that says so", |line| line.has("event", "continued")).await;
    fetch(PORT).await.expect("the page comes again");
    assert_eq!(lab.ssh_starts().len(), 1);

    // A process that is stopped takes SIGTERM all the same.
    stop_signal(up.pid.unwrap());
    stop_leaves_nothing(&lab, &daemon, "web").await;
}

#[tokio::test]
async fn an_ssh_that_stays_stopped_is_replaced_and_a_client_sees_the_port_again() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, WEB).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    let mark = daemon.mark();
    stop_signal(up.pid.unwrap());
    daemon.wait_failure(mark, "web", FailureKind::Timeout).await;
    daemon
        .wait_status(mark, "web", "up with another ssh", |now| {
            now.state == StateName::Up && now.pid != up.pid && now.last_error.is_none()
        })
        .await;
    fetch(PORT).await.expect("the page comes again");
    process_end(up.pid.unwrap()).await;
    assert_eq!(lab.ssh_starts().len(), 2);
    stop_leaves_nothing(&lab, &daemon, "web").await;
}

#[tokio::test]
async fn a_stopped_ssh_without_a_server_to_replace_it_is_not_up() {
    let lab = Lab::new();
    let mut sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let daemon = Daemon::start(&lab, WEB).await;
    let up = daemon.wait_state("web", StateName::Up).await;
    let mark = daemon.mark();
    sshd.stop_listening().await;
    stop_signal(up.pid.unwrap());
    let refused = daemon.wait_failure(mark, "web", FailureKind::Refused).await;
    assert_ne!(refused.state, StateName::Up);
    sshd.start_again().await;
    daemon.wait_status(mark, "web", "up again", |now| now.state == StateName::Up && now.pid != up.pid).await;
    fetch(PORT).await.expect("the page comes again");
}

#[tokio::test]
async fn a_command_that_stays_stopped_is_started_anew_be_it_in_the_background() {
    let lab = Lab::new();
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    for script in [format!("exec {SOCAT}"), format!("(setsid {SOCAT} &); exit 0")] {
        let daemon = Daemon::start(&lab, &shell(&script, "")).await;
        // The shell may end after the other one listens.
        let is_socat = |pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "socat")
        };
        let is_up = |now: &TunnelStatus| now.state == StateName::Up && now.pid.is_some_and(is_socat);
        let up = daemon.wait_status(0, "relay", "up with socat", is_up).await;
        let mark = daemon.mark();
        stop_signal(up.pid.unwrap());
        daemon.wait_failure(mark, "relay", FailureKind::Timeout).await;
        daemon
            .wait_status(mark, "relay", "up anew", |now| now.state == StateName::Up && now.pid != up.pid)
            .await;
        fetch(PORT).await.expect("the page comes again");
        stop_leaves_nothing(&lab, &daemon, "relay").await;
        daemon.stop().await;
    }
}

/// The children of a process that nobody has waited for.
fn zombies(pid: u32) -> Vec<String> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let stat = |child: &str| fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    children.split_ascii_whitespace().map(stat).filter(|stat| stat.contains(") Z ")).collect()
}

/// A process ends before its parent reaps it, and the kernel sends no event of that.
async fn await_no_zombies(pid: u32) {
    let gone = async {
        while !zombies(pid).is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    within_deadline("the end of the zombies", gone).await;
}

/// Makes orphans that end at once, then listens.
const ORPHANS: &str = "import os, signal, socket\n\
                       for number in range(50):\n\
                       \x20   middle = os.fork()\n\
                       \x20   if middle == 0:\n\
                       \x20       if os.fork() == 0 and number % 2: os.setsid()\n\
                       \x20       os._exit(0)\n\
                       \x20   os.waitpid(middle, 0)\n\
                       listener = socket.create_server(('127.0.0.1', 9443))\n\
                       signal.pause()\n";

#[tokio::test]
async fn orphans_that_end_are_reaped() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &python(&lab, ORPHANS, "")).await;
    daemon.wait_state("relay", StateName::Up).await;
    await_no_zombies(daemon.pid()).await;
    stop_leaves_nothing(&lab, &daemon, "relay").await;
}

#[tokio::test]
async fn as_pid_1_orphans_are_reaped_and_strangers_among_them_are_left_alone() {
    let lab = Lab::new();
    lab.write_config(&python(&lab, ORPHANS, ""));
    // As an entry point does it: something runs beside portward, in its session, and ends without anybody who waits for it.
    let entry_point = format!(
        "sleep 0.2 & exec {} run --log json --config {} --socket {}",
        lab.path("bin/portward").display(),
        lab.config_path().display(),
        lab.path("run/portward.sock").display()
    );
    let mut container = lab.command("unshare");
    container.args(["--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", &entry_point]);
    let mut container = container.stderr(Stdio::piped()).spawn().unwrap();
    let log = lines_of(container.stderr.take().unwrap());
    let up = log.find(0, |line| line.contains("listens on 127.0.0.1:9443")).await;
    assert!(up.is_some(), "{:#?}", log.all());
    let unshare = container.id().unwrap();
    let first = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).unwrap();
    let first: u32 = first.trim().parse().unwrap();
    await_no_zombies(first).await;

    // As `docker exec` does it: an orphan of somebody else becomes a child of pid 1.
    let inside = format!("-t {first} -p -m -n sh -c");
    let mut stranger = lab.command("nsenter");
    stranger.args(inside.split(' ')).arg("setsid sh -c 'echo here; exec sleep 1000' & sleep 0.1");
    let mut stranger = stranger.stdout(Stdio::piped()).spawn().unwrap();
    let said = lines_of(stranger.stdout.take().unwrap());
    assert!(said.find(0, |line| line == "here").await.is_some());
    within_deadline("nsenter", stranger.wait()).await.unwrap();
    let answer = request(&lab.path("run/portward.sock"), "POST", "/stop/relay?timeout=20s", "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap();
    let alive =
        |child: &str| fs::read(format!("/proc/{child}/cmdline")).unwrap().starts_with(b"sleep\x001000");
    assert!(children.split_ascii_whitespace().any(alive), "the stranger lives: {children}");

    kill(first, Signal::SIGTERM);
    within_deadline("the end of the container", container.wait()).await.unwrap();
}

/// Runs a program in a terminal of its own, passes on what it says, and what the test says.
const TERMINAL: &str = "import os, pty, sys\n\
                        sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))\n";

#[tokio::test]
async fn in_a_terminal_no_process_is_stopped_for_reading_it_and_ctrl_c_reaches_portward_alone() {
    let lab = Lab::new();
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    let notes = lab.path("notes");
    // Who has this terminal for its own and is in the background is stopped by reading it.
    let script =
        format!("trap 'echo interrupted >> {}' INT; head -c1 /dev/tty; {SOCAT} & wait", notes.display());
    lab.write_config(&shell(&script, ""));
    fs::write(lab.path("terminal.py"), TERMINAL).unwrap();
    let mut terminal = lab.command("/usr/bin/python3");
    terminal.arg(lab.path("terminal.py")).arg(lab.path("bin/portward"));
    terminal.args(["run", "--log", "json", "--config"]).arg(lab.config_path());
    terminal.arg("--socket").arg(lab.path("run/portward.sock"));
    let mut terminal = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut keyboard = terminal.stdin.take().unwrap();
    let said = lines_of(terminal.stdout.take().unwrap());
    let up = said.find(0, |line| line.contains("listens on 127.0.0.1:9443")).await;
    assert!(up.is_some(), "{:#?}", said.all());
    fetch(PORT).await.expect("the page comes");
    keyboard.write_all(b"\x03").await.unwrap();
    let ended = within_deadline("the end of portward", terminal.wait()).await.unwrap();
    assert!(ended.success(), "{ended}: {:#?}", said.all());
    assert!(!Path::new(&notes).exists(), "the command saw Ctrl-C");
    assert!(lab.daemon_processes().is_empty(), "{:?}", lab.daemon_processes());
}
