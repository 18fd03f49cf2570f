//! Hot reload: only what differs is applied, however the file is saved.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use integration_tests::{
    Daemon, ECHO_PORT, Lab, LogLine, NumberedStream, Sshd, lines_of, process_end, serve_echo,
};
use portward::protocol::StateName;
use serde_json::json;

/// The tunnel that every test leaves as it is; a stream runs through it all the while.
const KEPT: &str = "
  - name: kept
    remote_host: server
    remote_port: 127.0.0.1:7000
    local_port: 9443
";
const OTHER: &str = "
  - {name: other, remote_host: server, remote_port: 127.0.0.1:7000, local_port: 9444}
";

/// The tunnel `kept`, up and in use.
struct Kept {
    pid: u32,
    stream: NumberedStream,
}

impl Kept {
    async fn of(daemon: &Daemon<'_>) -> Self {
        let up = daemon.wait_state("kept", StateName::Up).await;
        Self { pid: up.pid.unwrap(), stream: NumberedStream::open(9443).await }
    }

    /// The process is the same, and bytes go through the connection of before.
    async fn is_untouched(&self, daemon: &Daemon<'_>) {
        assert_eq!(daemon.tunnel_pid("kept").await, self.pid);
        self.stream.next_bytes().await;
    }

    /// No byte was lost in the whole test.
    async fn lost_nothing(self) {
        assert!(self.stream.finish().await > 0);
    }
}

/// A lab with its server and the echo that all tunnels lead to.
async fn lab_with_echo(lab: &Lab) -> Sshd<'_> {
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    Sshd::start(lab).await
}

/// Does `save`, and waits until the daemon has read the file.
async fn reloaded(daemon: &Daemon<'_>, save: impl FnOnce()) -> LogLine {
    let mark = daemon.log().mark();
    save();
    daemon.wait_log(mark, "about a reload", |line| line.has("event", "reload")).await
}

fn joined(tunnels: &[&str]) -> String {
    tunnels.concat()
}

#[tokio::test]
async fn an_added_tunnel_comes_up_and_a_removed_one_goes() {
    let lab = Lab::new();
    let _sshd = lab_with_echo(&lab).await;
    let daemon = Daemon::start(&lab, KEPT).await;
    let kept = Kept::of(&daemon).await;

    reloaded(&daemon, || lab.write_config(&joined(&[KEPT, OTHER]))).await;
    let other = daemon.wait_state("other", StateName::Up).await;
    NumberedStream::open(9444).await.finish().await;
    kept.is_untouched(&daemon).await;

    reloaded(&daemon, || lab.write_config(KEPT)).await;
    process_end(other.pid.unwrap()).await;
    kept.is_untouched(&daemon).await;
    assert_eq!(lab.ssh_starts().len(), 2);
    assert_eq!(lab.sockets().len(), 2, "the API's and that of the kept ssh: {:?}", lab.sockets());
    kept.lost_nothing().await;
}

#[tokio::test]
async fn a_changed_tunnel_is_restarted_alone() {
    let lab = Lab::new();
    let _sshd = lab_with_echo(&lab).await;
    let daemon = Daemon::start(&lab, &joined(&[KEPT, OTHER])).await;
    let kept = Kept::of(&daemon).await;
    let other = daemon.wait_state("other", StateName::Up).await;

    let mark = daemon.mark();
    reloaded(&daemon, || lab.write_config(&joined(&[KEPT, &OTHER.replace("9444", "9445")]))).await;
    let changed = daemon
        .wait_status(mark, "other", "up on the new port", |status| {
            status.state == StateName::Up && status.local_port == "9445"
        })
        .await;
    assert_ne!(changed.pid, other.pid);
    NumberedStream::open(9445).await.finish().await;
    tokio::net::TcpListener::bind("127.0.0.1:9444").await.expect("the old port is free");
    kept.is_untouched(&daemon).await;
    assert_eq!(lab.ssh_starts().len(), 3);
    kept.lost_nothing().await;
}

#[tokio::test]
async fn a_name_an_order_and_a_comment_restart_nothing() {
    let lab = Lab::new();
    let _sshd = lab_with_echo(&lab).await;
    let daemon = Daemon::start(&lab, &joined(&[KEPT, OTHER])).await;
    let kept = Kept::of(&daemon).await;
    let other = daemon.wait_state("other", StateName::Up).await;

    reloaded(&daemon, || lab.write_config(&joined(&[OTHER, KEPT]))).await;
    kept.is_untouched(&daemon).await;
    let order: Vec<String> = names(&daemon).await;
    assert_eq!(order, ["other", "kept"]);

    let renamed = OTHER.replace("other", "renamed");
    reloaded(&daemon, || lab.write_config(&joined(&[&renamed, KEPT]))).await;
    let status = daemon.status("renamed").await;
    assert_eq!((status.state, status.pid), (StateName::Up, other.pid));
    assert_ne!(status.hash, other.hash, "the name is part of autossh-tunnel's hash");
    kept.is_untouched(&daemon).await;

    reloaded(&daemon, || lab.write_config(&joined(&[&renamed, "  # a comment", KEPT]))).await;
    kept.is_untouched(&daemon).await;
    assert_eq!(daemon.tunnel_pid("renamed").await, other.pid.unwrap());
    assert_eq!(lab.ssh_starts().len(), 2);
    kept.lost_nothing().await;
}

#[tokio::test]
async fn what_only_changes_the_supervision_restarts_nothing() {
    let lab = Lab::new();
    let _sshd = lab_with_echo(&lab).await;
    let command = "
  - {name: command, command: [socat, 'TCP-LISTEN:9446,bind=127.0.0.1', 'TCP:127.0.0.1:8000'], local_port: '127.0.0.1:9446'}
";
    let config = lab.config(&joined(&[KEPT, command]));
    std::fs::write(lab.config_path(), &config).unwrap();
    let daemon = Daemon::start_as_configured(&lab).await;
    let kept = Kept::of(&daemon).await;
    let before = daemon.wait_state("command", StateName::Up).await;
    for (from, to) in [
        ("stop_grace: 500ms", "stop_grace: 7s"),
        ("max_delay: 500ms", "max_delay: 9s, reset_after: 9s"),
        ("ssh: {", "ssh: {connect_timeout: 17s, "),
        ("defaults:\n", "defaults:\n  start_timeout: 9s\n"),
        ("defaults:\n", "defaults:\n  on_conflict: kill\n"),
    ] {
        assert!(config.contains(from), "{config}");
        let read =
            reloaded(&daemon, || std::fs::write(lab.config_path(), config.replace(from, to)).unwrap()).await;
        assert!(read.raw.contains("0 changed, 2 unchanged"), "{}", read.raw);
        kept.is_untouched(&daemon).await;
        assert_eq!(daemon.tunnel_pid("command").await, before.pid.unwrap(), "{to}");
    }
    kept.lost_nothing().await;
}

async fn names(daemon: &Daemon<'_>) -> Vec<String> {
    let listed = daemon.get("/list").await.json();
    listed.as_array().unwrap().iter().map(|tunnel| tunnel["name"].as_str().unwrap().to_owned()).collect()
}

/// What `/health` says of the configuration file.
async fn config_error(daemon: &Daemon<'_>) -> Option<String> {
    daemon.get("/health").await.json()["config_error"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn a_half_written_file_changes_nothing_until_it_is_whole() {
    let lab = Lab::new();
    let _sshd = lab_with_echo(&lab).await;
    let daemon = Daemon::start(&lab, &joined(&[KEPT, OTHER])).await;
    let kept = Kept::of(&daemon).await;
    let other = daemon.wait_state("other", StateName::Up).await;
    assert_eq!(config_error(&daemon).await, None);

    let whole = lab.config(&joined(&[KEPT, &OTHER.replace("other", "mended")]));
    let half = &whole[..whole.find("local_port").unwrap() + 5];
    let line = reloaded(&daemon, || fs::write(lab.config_path(), half).unwrap()).await;
    assert!(line.has("level", "ERROR"), "{}", line.raw);
    let error = config_error(&daemon).await.expect("/health shows it");
    assert!(error.contains("config.yaml:9"), "it names the file and the line: {error}");
    assert_eq!(daemon.tunnel_pid("other").await, other.pid.unwrap());
    kept.is_untouched(&daemon).await;

    reloaded(&daemon, || fs::write(lab.config_path(), &whole).unwrap()).await;
    assert_eq!(config_error(&daemon).await, None);
    assert_eq!(daemon.tunnel_pid("mended").await, other.pid.unwrap());
    assert_eq!(lab.ssh_starts().len(), 2);
    kept.lost_nothing().await;
}

/// The tunnels are shown with what is wrong in the file, and go on.
#[tokio::test]
async fn an_error_in_one_tunnel_is_its_own_and_stops_nothing() {
    let lab = Lab::new();
    let _sshd = lab_with_echo(&lab).await;
    let left_out = OTHER.replace("other", "left-out").replace("9444", "9445");
    let daemon = Daemon::start(&lab, &joined(&[KEPT, OTHER, &left_out])).await;
    let kept = Kept::of(&daemon).await;
    let other = daemon.wait_state("other", StateName::Up).await;
    let left = daemon.wait_state("left-out", StateName::Up).await;

    let wrong = OTHER.replace("9444}", "9444, prot: 1}");
    let new = OTHER.replace("other", "new").replace("9444", "9446");
    reloaded(&daemon, || lab.write_config(&joined(&[KEPT, &wrong, &new]))).await;
    daemon.wait_state("new", StateName::Up).await;
    let status = daemon.status("other").await;
    assert_eq!((status.state, status.pid), (StateName::Up, other.pid), "{status:?}");
    assert!(status.config_error.is_some_and(|error| error.contains("unknown key `prot`")));
    // The file may be half of a file.
    assert_eq!(daemon.status("left-out").await.pid, left.pid);
    assert!(config_error(&daemon).await.is_some_and(|error| error.contains("unknown key `prot`")));
    let answer = daemon.post("/reload").await;
    let told = answer.json();
    assert_eq!(
        (answer.status, &told["broken"], &told["removed"]),
        (422, &json!(["other"]), &json!([])),
        "{answer:?}"
    );
    assert!(told["error"].as_str().unwrap().contains("unknown key `prot`"), "{answer:?}");
    assert_eq!(daemon.post("/restart/other").await.status, 200);
    let other = daemon.tunnel_pid("other").await;

    reloaded(&daemon, || lab.write_config(&joined(&[KEPT, OTHER, &new]))).await;
    assert_eq!(config_error(&daemon).await, None);
    assert_eq!(names(&daemon).await, ["kept", "other", "new"]);
    process_end(left.pid.unwrap()).await;
    assert_eq!((daemon.tunnel_pid("other").await, daemon.status("other").await.config_error), (other, None));
    kept.is_untouched(&daemon).await;
    kept.lost_nothing().await;
}

#[tokio::test]
async fn a_tunnel_with_an_error_does_not_keep_the_others_from_starting() {
    let lab = Lab::new();
    let _sshd = lab_with_echo(&lab).await;
    let clash = KEPT.replace("kept", "clash");
    let daemon = Daemon::start(&lab, &joined(&[KEPT, &clash, KEPT, OTHER])).await;
    let kept = Kept::of(&daemon).await;
    daemon.wait_state("other", StateName::Up).await;
    assert_eq!(names(&daemon).await, ["kept", "other", "clash", "kept (line 16)"]);
    let status = daemon.status("clash").await;
    let error = "`clash` would listen where `kept` (line 9) does: 127.0.0.1:9443";
    assert_eq!((status.state, status.pid), (StateName::Failed, None), "{status:?}");
    assert!(status.config_error.is_some_and(|told| told.contains(error)), "{:?}", status.last_error);
    for path in ["/start/clash", "/restart/clash"] {
        let answer = daemon.post(path).await;
        assert!(answer.status == 502 && answer.body.contains(error), "{answer:?}");
    }
    assert_eq!(daemon.post("/stop/clash").await.status, 200);
    let check = daemon.cli(&["check", lab.config_path().to_str().unwrap()]).await;
    assert_eq!(check.status.code(), Some(1));
    assert_eq!(daemon.post("/reload").await.status, 422);
    assert_eq!(daemon.status("clash").await.since, status.since, "the same error is no new one");

    reloaded(&daemon, || lab.write_config(&joined(&[KEPT, &clash.replace("9443", "9445"), OTHER]))).await;
    daemon.wait_state("clash", StateName::Up).await;
    assert_eq!(names(&daemon).await, ["kept", "clash", "other"]);
    assert_eq!(config_error(&daemon).await, None);
    kept.is_untouched(&daemon).await;
    kept.lost_nothing().await;
}

/// Its hash is what it was.
#[tokio::test]
async fn whoever_follows_the_log_of_an_entry_with_an_error_hears_of_the_tunnel_that_it_becomes() {
    let lab = Lab::new();
    let _sshd = lab_with_echo(&lab).await;
    let daemon = Daemon::start(&lab, &joined(&[KEPT, &OTHER.replace('}', ", remote_prot: 1}")])).await;
    assert_eq!(daemon.status("other").await.state, StateName::Failed);
    let mut command = daemon.cli_command(&["logs", "other", "-f"]).stdout(Stdio::piped()).spawn().unwrap();
    let followed = lines_of(command.stdout.take().unwrap());
    reloaded(&daemon, || lab.write_config(&joined(&[KEPT, OTHER]))).await;
    daemon.wait_state("other", StateName::Up).await;
    assert!(followed.find(0, |line| line.contains("up: ")).await.is_some(), "{:#?}", followed.all());
    command.kill().await.unwrap();
}

/// It may be about to be written, or what a full disk has left; a list without tunnels means it.
#[tokio::test]
async fn an_empty_file_stops_nothing_and_an_empty_list_stops_all() {
    let lab = Lab::new();
    let _sshd = lab_with_echo(&lab).await;
    fs::write(lab.config_path(), "").unwrap();
    let daemon = Daemon::start_as_configured(&lab).await;
    assert!(names(&daemon).await.is_empty());
    reloaded(&daemon, || lab.write_config(KEPT)).await;
    let kept = Kept::of(&daemon).await;
    for nothing in ["", "# written next\n"] {
        let line = reloaded(&daemon, || fs::write(lab.config_path(), nothing).unwrap()).await;
        assert!(line.has("level", "ERROR") && line.raw.contains("tunnels: []"), "{}", line.raw);
        assert!(config_error(&daemon).await.is_some());
        kept.is_untouched(&daemon).await;
    }
    let pid = kept.pid;
    reloaded(&daemon, || fs::write(lab.config_path(), "tunnels:\n").unwrap()).await;
    process_end(pid).await;
    assert!(names(&daemon).await.is_empty() && config_error(&daemon).await.is_none());
}

#[tokio::test]
async fn a_file_that_is_deleted_and_made_again_is_read() {
    let lab = Lab::new();
    let _sshd = lab_with_echo(&lab).await;
    let daemon = Daemon::start(&lab, KEPT).await;
    let kept = Kept::of(&daemon).await;

    let line = reloaded(&daemon, || fs::remove_file(lab.config_path()).unwrap()).await;
    assert!(line.has("level", "ERROR"), "{}", line.raw);
    kept.is_untouched(&daemon).await;
    reloaded(&daemon, || lab.write_config(&joined(&[KEPT, OTHER]))).await;
    daemon.wait_state("other", StateName::Up).await;
    kept.is_untouched(&daemon).await;
    kept.lost_nothing().await;
}

#[tokio::test]
async fn a_file_that_is_saved_by_renaming_is_read_each_time() {
    let lab = Lab::new();
    let _sshd = lab_with_echo(&lab).await;
    let daemon = Daemon::start(&lab, KEPT).await;
    let kept = Kept::of(&daemon).await;
    let save = |tunnels: &str| {
        let temporary = lab.path("etc/.config.yaml.swp");
        fs::write(&temporary, lab.config(tunnels)).unwrap();
        fs::rename(temporary, lab.config_path()).unwrap();
    };

    for round in 0..3 {
        let port = format!("945{round}");
        let mark = daemon.mark();
        reloaded(&daemon, || save(&joined(&[KEPT, &OTHER.replace("9444", &port)]))).await;
        daemon
            .wait_status(mark, "other", "up on its new port", |status| {
                status.state == StateName::Up && status.local_port == port
            })
            .await;
    }
    kept.is_untouched(&daemon).await;
    kept.lost_nothing().await;
}

#[tokio::test]
async fn a_symlink_swap_as_kubernetes_does_it_is_read_each_time() {
    let lab = Lab::new();
    let _sshd = lab_with_echo(&lab).await;
    let etc = lab.path("etc");
    let publish = |version: u32, tunnels: &str| {
        let directory = format!("..version_{version}");
        fs::create_dir(etc.join(&directory)).unwrap();
        fs::write(etc.join(&directory).join("config.yaml"), lab.config(tunnels)).unwrap();
        symlink(&directory, etc.join("..data_tmp")).unwrap();
        fs::rename(etc.join("..data_tmp"), etc.join("..data")).unwrap();
        if version > 1 {
            fs::remove_dir_all(etc.join(format!("..version_{}", version - 1))).unwrap();
        }
    };
    publish(1, KEPT);
    symlink("..data/config.yaml", lab.config_path()).unwrap();
    let daemon = Daemon::start_as_configured(&lab).await;
    let kept = Kept::of(&daemon).await;

    for version in 2..=4 {
        let port = format!("945{version}");
        let mark = daemon.mark();
        reloaded(&daemon, || publish(version, &joined(&[KEPT, &OTHER.replace("9444", &port)]))).await;
        daemon
            .wait_status(mark, "other", "up on its new port", |status| {
                status.state == StateName::Up && status.local_port == port
            })
            .await;
    }
    kept.is_untouched(&daemon).await;
    kept.lost_nothing().await;
}

#[tokio::test]
async fn of_many_edits_in_a_row_the_last_one_counts() {
    let lab = Lab::new();
    let _sshd = lab_with_echo(&lab).await;
    let daemon = Daemon::start(&lab, KEPT).await;
    let kept = Kept::of(&daemon).await;
    let mark = daemon.mark();
    for round in 0..10 {
        lab.write_config(&joined(&[KEPT, &OTHER.replace("9444", &format!("945{round}"))]));
    }
    daemon
        .wait_status(mark, "other", "up on its last port", |status| {
            status.state == StateName::Up && status.local_port == "9459"
        })
        .await;
    kept.is_untouched(&daemon).await;
    kept.lost_nothing().await;
}

#[tokio::test]
async fn a_dry_run_prints_the_difference_and_changes_nothing() {
    let lab = Lab::new();
    let _sshd = lab_with_echo(&lab).await;
    let daemon = Daemon::start(&lab, &joined(&[KEPT, OTHER])).await;
    let kept = Kept::of(&daemon).await;
    let other = daemon.wait_state("other", StateName::Up).await;

    // A write through a hard link in another directory is not seen by the watch on the file's own directory: so the file
    // differs from what runs for as long as this test likes.
    let link = lab.path("link.yaml");
    fs::hard_link(lab.config_path(), &link).unwrap();
    let added = OTHER.replace("other", "added").replace("9444", "9445");
    fs::write(&link, lab.config(&joined(&[KEPT, &added]))).unwrap();

    let printed = daemon.cli(&["reload", "--dry-run"]).await;
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.status.success(), "{text}");
    for (word, name) in [("added", "added"), ("removed", "other"), ("unchanged", "kept")] {
        let found = text.lines().find(|line| line.trim_start().starts_with(word));
        assert!(found.is_some_and(|line| line.contains(name)), "{word}: {name} in {text}");
    }
    assert_eq!(names(&daemon).await, ["kept", "other"]);
    assert_eq!(daemon.tunnel_pid("other").await, other.pid.unwrap());

    let printed = daemon.cli(&["reload"]).await;
    assert!(printed.status.success(), "{printed:?}");
    daemon.wait_state("added", StateName::Up).await;
    assert_eq!(names(&daemon).await, ["kept", "added"]);
    kept.is_untouched(&daemon).await;
    kept.lost_nothing().await;
}
