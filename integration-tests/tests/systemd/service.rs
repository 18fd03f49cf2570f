//! portward as a service.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::UNIX_EPOCH;

use crate::journal::{Entry, Follower, entries};
use crate::machine::{attempt, on_a_machine, run};
use crate::site::{self, CONFIG, DATABASE};

pub(crate) const UNIT: &str = "portward.service";

/// systemd's word for "the start of the unit is done" (SD_MESSAGE_UNIT_STARTED).
pub(crate) const STARTED: &str = "39f53479d3a045ac8e11786248231fbf";

pub(crate) fn property(unit: &str, name: &str) -> String {
    run("systemctl", &["show", "--value", "--property", name, unit]).trim_end().to_owned()
}

/// Starts the service on a machine that [`site::build`] has built.
fn start() -> Follower {
    site::build();
    let mut journal = Follower::of(UNIT);
    run("systemctl", &["start", UNIT]);
    journal.wait_up("database");
    journal
}

/// Waits until systemd has started the unit again, and the tunnel is up, as it was meanwhile.
fn wait_restarted(journal: &mut Follower) {
    let (mut is_started, mut is_up) = (false, false);
    // Nobody says in which order they are logged.
    while !(is_started && is_up) {
        let entry = journal.wait(|entry| entry.has("MESSAGE_ID", STARTED) || entry.tells_up("database"));
        is_up |= entry.tells_up("database");
        is_started |= entry.has("MESSAGE_ID", STARTED);
    }
}

/// The processes whose program is `name`.
pub(crate) fn running(name: &str) -> Vec<u32> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
    })
    .collect()
}

/// The ssh of the tunnels; without any, a test that looks at each of them would show nothing.
fn running_ssh() -> Vec<u32> {
    let ssh = running("ssh");
    assert!(!ssh.is_empty(), "no ssh runs");
    ssh
}

#[test]
fn a_start_ends_when_portward_is_ready_and_the_tunnel_comes_up() {
    on_a_machine("service::a_start_ends_when_portward_is_ready_and_the_tunnel_comes_up", || {
        site::build();
        let mut journal = Follower::of(UNIT);
        run("systemctl", &["start", UNIT]);
        let status = property(UNIT, "StatusText");
        assert!(status.contains(" of 1 tunnels up"), "{status}");

        let up = journal.wait_up("database");
        site::expect_greeting(DATABASE);
        assert!(up.has("PORT", "13306") && up.has("PRIORITY", "6"), "{up:?}");
        assert!(up.field("TUNNEL_HASH").is_some_and(|hash| hash.len() == 32), "{up:?}");
        assert!(up.field("EVENT").is_some() && up.field("DURATION_MS").is_some(), "{up:?}");
        let starts = entries(&["SYSLOG_IDENTIFIER=portward", "EVENT=starting"]);
        assert_eq!(starts.len(), 1, "{starts:#?}");

        // An answer of portward comes after what it told systemd before.
        run("portward", &["status"]);
        assert_eq!(property(UNIT, "StatusText"), "1 of 1 tunnels up");
    });
}

#[test]
fn the_service_has_no_capability_and_its_directory_is_for_root_only() {
    on_a_machine("service::the_service_has_no_capability_and_its_directory_is_for_root_only", || {
        let _journal = start();
        let status = fs::read_to_string(format!("/proc/{}/status", property(UNIT, "MainPID"))).unwrap();
        assert!(status.contains("CapEff:\t0000000000000000\nCapBnd:\t0000000000000000"), "{status}");
        assert_eq!(run("stat", &["--format=%U %a", "/run/portward"]), "root 700\n");
    });
}

#[test]
fn systemd_does_not_lend_its_name_to_the_tunnels() {
    on_a_machine("service::systemd_does_not_lend_its_name_to_the_tunnels", || {
        let _journal = start();
        for ssh in running_ssh() {
            let environment = fs::read_to_string(format!("/proc/{ssh}/environ")).unwrap();
            assert!(
                !environment.contains("NOTIFY_SOCKET=") && !environment.contains("WATCHDOG_"),
                "{environment}"
            );
        }
    });
}

#[test]
fn a_reload_ends_when_the_new_configuration_is_in_force_and_fails_when_it_is_bad() {
    on_a_machine(
        "service::a_reload_ends_when_the_new_configuration_is_in_force_and_fails_when_it_is_bad",
        || {
            let mut journal = start();
            let (daemon, ssh) = (property(UNIT, "MainPID"), running_ssh());

            site::configure(CONFIG, &[("database", DATABASE), ("wiki", 18080)]);
            run("systemctl", &["reload", UNIT]);
            run("portward", &["status", "wiki"]);
            journal.wait_up("wiki");
            site::expect_greeting(18080);

            fs::write(CONFIG, "tunnels:\n  - remote_prot: 22\n").unwrap();
            assert!(!attempt("systemctl", &["reload", UNIT]).status.success());
            assert_eq!(property(UNIT, "ActiveState"), "active");
            site::expect_greeting(18080);

            site::configure(CONFIG, &[("database", DATABASE)]);
            run("systemctl", &["reload", UNIT]);
            journal.wait(|entry| entry.has("TUNNEL", "wiki") && entry.has("STATE", "stopped"));
            assert_eq!((property(UNIT, "MainPID"), running("ssh")), (daemon, ssh));
        },
    );
}

/// Its sandbox has the rest of /etc read-only.
#[test]
fn the_service_writes_its_configuration_and_keeps_what_it_replaces() {
    on_a_machine("service::the_service_writes_its_configuration_and_keeps_what_it_replaces", || {
        let _journal = start();
        let before = fs::read_to_string(CONFIG).unwrap();
        let body =
            r#"{"name": "new", "remote_host": "root@127.0.0.1", "remote_port": 22, "local_port": 13307}"#;
        let mut stream = UnixStream::connect("/run/portward/portward.sock").unwrap();
        let length = body.len();
        write!(stream, "POST /config/new HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.0 201"), "{answer}");
        assert!(fs::read_to_string(CONFIG).unwrap().starts_with(&before));
        let copies = run("find", &["/etc/portward/backups", "-type", "f", "-printf", "%m %u\\n"]);
        assert_eq!(copies, "600 root\n");
        run("portward", &["config", "remove", "new"]);
        assert_eq!(fs::read_to_string(CONFIG).unwrap(), before);
    });
}

#[test]
fn a_hangup_signal_reloads() {
    on_a_machine("service::a_hangup_signal_reloads", || {
        let mut journal = start();
        run("systemctl", &["kill", "--kill-who=main", "--signal=HUP", UNIT]);
        journal.wait(|entry| entry.has("EVENT", "reload"));
        run("portward", &["status"]);
        assert_eq!(property(UNIT, "SubState"), "running");
    });
}

#[test]
fn a_hung_daemon_is_replaced_and_its_tunnels_come_back() {
    on_a_machine("service::a_hung_daemon_is_replaced_and_its_tunnels_come_back", || {
        fs::create_dir_all("/etc/systemd/system/portward.service.d").unwrap();
        fs::write("/etc/systemd/system/portward.service.d/impatient.conf", "[Service]\nWatchdogSec=3\n")
            .unwrap();
        let mut journal = start();
        let (daemon, ssh) = (property(UNIT, "MainPID"), running_ssh());
        run("kill", &["-STOP", &daemon]);
        journal
            .wait(|entry| entry.field("MESSAGE").is_some_and(|message| message.contains("Watchdog timeout")));
        wait_restarted(&mut journal);
        site::expect_greeting(DATABASE);
        assert_ne!(property(UNIT, "MainPID"), daemon);
        assert_eq!(running_ssh(), ssh, "the tunnel has gone on");
    });
}

#[test]
fn a_killed_daemon_comes_back_with_its_tunnels() {
    on_a_machine("service::a_killed_daemon_comes_back_with_its_tunnels", || {
        let mut journal = start();
        let ssh = running_ssh();
        run("kill", &["-KILL", &property(UNIT, "MainPID")]);
        wait_restarted(&mut journal);
        site::expect_greeting(DATABASE);
        assert_eq!((property(UNIT, "NRestarts").as_str(), running_ssh()), ("1", ssh));
    });
}

#[test]
fn a_stop_leaves_no_process_no_port_and_no_file_and_needs_no_help() {
    on_a_machine("service::a_stop_leaves_no_process_no_port_and_no_file_and_needs_no_help", || {
        let mut journal = start();
        running_ssh();
        run("systemctl", &["stop", UNIT]);
        assert_eq!((running("ssh"), running("portward")), (vec![], vec![]));
        assert!(!Path::new("/run/portward").exists());
        TcpListener::bind((Ipv4Addr::LOCALHOST, DATABASE)).expect("the port is free");
        assert_eq!(property(UNIT, "Result"), "success");
        // systemd had nothing to kill: portward had ended all of it.
        journal.wait(|entry| {
            let message = entry.field("MESSAGE").unwrap_or_default();
            assert!(!message.contains("Killing process"), "{message}");
            message.ends_with("Deactivated successfully.")
        });
    });
}

#[test]
fn a_stalled_journal_stops_no_tunnel() {
    on_a_machine("service::a_stalled_journal_stops_no_tunnel", || {
        let mut journal = start();
        run("systemctl", &["kill", "--signal=STOP", "systemd-journald"]);
        // Each says more than one line, and the journal's socket takes some ten.
        for _ in 0..15 {
            run("portward", &["restart", "database"]);
        }
        site::expect_greeting(DATABASE);
        run("systemctl", &["kill", "--signal=CONT", "systemd-journald"]);
        for _ in 0..15 {
            journal.wait(|entry| entry.has("EVENT", "starting"));
        }
    });
}

#[test]
fn a_journal_that_is_stopped_stops_no_tunnel_and_gets_lines_again_when_it_is_started() {
    const JOURNAL: [&str; 3] =
        ["systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-journald.service"];
    on_a_machine(
        "service::a_journal_that_is_stopped_stops_no_tunnel_and_gets_lines_again_when_it_is_started",
        || {
            drop(start());
            run("systemctl", &[&["stop"], &JOURNAL[..]].concat());
            // Each says more than one line.
            for _ in 0..15 {
                run("portward", &["restart", "database"]);
            }
            site::expect_greeting(DATABASE);
            run("systemctl", &[&["start"], &JOURNAL[..]].concat());
            let started = UNIX_EPOCH.elapsed().unwrap().as_micros();
            run("portward", &["restart", "database"]);
            let is_new = |entry: &Entry| {
                let time = entry.field("__REALTIME_TIMESTAMP").and_then(|time| time.parse::<u128>().ok());
                time.is_some_and(|time| time >= started) && entry.has("EVENT", "starting")
            };
            Follower::of(UNIT).wait(is_new);
            site::expect_greeting(DATABASE);
        },
    );
}

#[test]
fn an_ordinary_user_has_a_service_from_boot_on() {
    on_a_machine("service::an_ordinary_user_has_a_service_from_boot_on", || {
        let home = user_alice();
        let mut journal = Follower::of("portward@alice.service");
        run("systemctl", &["start", "portward@alice.service"]);
        let up = journal.wait_up("database");
        assert!(up.has("_UID", &uid_of_alice()), "{up:?}");
        site::expect_greeting(DATABASE);
        assert_eq!(run("stat", &["--format=%U %a", "/run/portward-alice"]), "alice 700\n");
        let status =
            ["-u", "alice", "--", "portward", "--socket", "/run/portward-alice/portward.sock", "status"];
        assert!(run("runuser", &status).contains("database"));

        site::configure(
            &format!("{home}/.config/portward/config.yaml"),
            &[("database", DATABASE), ("wiki", 18080)],
        );
        run("systemctl", &["reload", "portward@alice.service"]);
        journal.wait_up("wiki");
    });
}

#[test]
fn a_user_runs_it_under_a_service_manager_of_their_own() {
    on_a_machine("service::a_user_runs_it_under_a_service_manager_of_their_own", || {
        user_alice();
        let uid = uid_of_alice();
        run("systemctl", &["start", "dbus.socket", &format!("user@{uid}.service")]);
        let mut journal = Follower::of_user_unit(UNIT);
        let runtime = format!("XDG_RUNTIME_DIR=/run/user/{uid}");
        let as_alice =
            |command: &[&str]| run("runuser", &[&["-u", "alice", "--", "env", &runtime], command].concat());
        as_alice(&["systemctl", "--user", "start", UNIT]);
        journal.wait_up("database");
        site::expect_greeting(DATABASE);
        running_ssh();
        assert!(as_alice(&["portward", "status"]).contains("database"));
        as_alice(&["systemctl", "--user", "reload", UNIT]);
        as_alice(&["systemctl", "--user", "stop", UNIT]);
        assert!(running("ssh").is_empty());
    });
}

/// A user with keys and the tunnel `database`. Returns the home directory.
pub(crate) fn user_alice() -> String {
    site::install();
    site::serve_ssh();
    run("useradd", &["--create-home", "--shell", "/bin/sh", "alice"]);
    let home = "/home/alice".to_owned();
    site::give_keys("alice", &home);
    site::configure(&format!("{home}/.config/portward/config.yaml"), &[("database", DATABASE)]);
    home
}

pub(crate) fn uid_of_alice() -> String {
    run("id", &["-u", "alice"]).trim_end().to_owned()
}

/// A program like kubectl, which looks for its configuration in the home directory: it tells HOME, and serves a port.
const TELLS_HOME: &str = "
  - name: cluster
    command: [sh, -c, 'echo \"$HOME\" > \"$RUNTIME_DIRECTORY/home\"; exec socat TCP-LISTEN:16443,bind=127.0.0.1,reuseaddr,fork PIPE']
    local_port: '127.0.0.1:16443'
";

/// The tunnel `database` with a key in the home directory, and the program above.
fn configure_by_home(config: &str) {
    fs::rename(home_of(config, ".ssh/id_ed25519"), home_of(config, ".ssh/id")).unwrap();
    site::configure(config, &[("database", DATABASE)]);
    let text = fs::read_to_string(config).unwrap();
    fs::write(
        config,
        format!("{text}    ssh: {{identity_file: ~/.ssh/id}}\n{}", TELLS_HOME.trim_start_matches('\n')),
    )
    .unwrap();
}

fn home_of(config: &str, below: &str) -> String {
    let home = if config.starts_with("/etc/") { "/root" } else { "/home/alice" };
    format!("{home}/{below}")
}

#[test]
fn the_shipped_unit_finds_keys_and_children_their_files_in_the_home_directory() {
    on_a_machine(
        "service::the_shipped_unit_finds_keys_and_children_their_files_in_the_home_directory",
        || {
            site::build();
            configure_by_home(CONFIG);
            assert!(
                run("portward", &["check"])
                    .contains("judged for portward.service (user root), whose `~/` is /root")
            );
            let mut journal = Follower::of(UNIT);
            run("systemctl", &["start", UNIT]);
            journal.wait_up("database");
            site::expect_greeting(DATABASE);
            run("portward", &["start", "cluster"]);
            assert_eq!(fs::read_to_string("/run/portward/home").unwrap(), "/root\n");
            let environment =
                fs::read_to_string(format!("/proc/{}/environ", property(UNIT, "MainPID"))).unwrap();
            assert!(!environment.contains("HOME="), "systemd sets none: {environment}");
        },
    );
}

#[test]
fn a_unit_with_a_user_or_a_home_of_its_own_takes_that() {
    on_a_machine("service::a_unit_with_a_user_or_a_home_of_its_own_takes_that", || {
        let home = user_alice();
        configure_by_home(&format!("{home}/.config/portward/config.yaml"));
        let drop_in = "/etc/systemd/system/portward.service.d";
        fs::create_dir_all(drop_in).unwrap();
        let path = format!("{home}/.config/portward/config.yaml");
        fs::write(format!("{drop_in}/user.conf"), "[Service]\nUser=alice\n").unwrap();
        run("systemctl", &["daemon-reload"]);
        // The same file means the same to root and to the service.
        let said = run("portward", &["check", &path]);
        assert!(said.contains("portward.service (user alice), whose `~/` is /home/alice"), "{said}");
        let mut journal = Follower::of(UNIT);
        run("systemctl", &["start", UNIT]);
        journal.wait_up("database");
        run("portward", &["start", "cluster"]);
        assert_eq!(fs::read_to_string("/run/portward/home").unwrap(), "/home/alice\n");
        run("systemctl", &["stop", UNIT]);

        fs::create_dir_all("/srv/keys/.ssh").unwrap();
        run("cp", &["/home/alice/.ssh/id", "/srv/keys/.ssh/id"]);
        run("chown", &["-R", "alice", "/srv/keys"]);
        fs::write("/etc/default/portward", format!("HOME=/srv/keys\nPORTWARD_CONFIG={path}\n")).unwrap();
        fs::write(format!("{drop_in}/home.conf"), "[Service]\nEnvironmentFile=/etc/default/portward\n")
            .unwrap();
        run("systemctl", &["daemon-reload"]);
        assert!(run("portward", &["check", &path]).contains("whose `~/` is /srv/keys"));
        run("systemctl", &["start", UNIT]);
        journal.wait_up("database");
        run("portward", &["start", "cluster"]);
        assert_eq!(fs::read_to_string("/run/portward/home").unwrap(), "/srv/keys\n");
    });
}

#[test]
fn a_runtime_directory_that_is_deleted_under_the_service_comes_back() {
    on_a_machine("service::a_runtime_directory_that_is_deleted_under_the_service_comes_back", || {
        let mut journal = start();
        for is_made in [true, false] {
            let ssh = running_ssh();
            fs::remove_dir_all("/run/portward").unwrap();
            if is_made {
                fs::create_dir("/run/portward").unwrap();
            }
            journal.wait(|entry| {
                entry.has("EVENT", "runtime")
                    && entry.field("MESSAGE").is_some_and(|message| message.contains("is made again"))
            });
            assert!(run("portward", &["status"]).contains("database"));
            assert_eq!(run("stat", &["--format=%U %a", "/run/portward"]), "root 700\n");
            assert_eq!(running("ssh"), ssh);
            for pid in &ssh {
                run("kill", &["-KILL", &pid.to_string()]);
            }
            journal.wait_up("database");
            site::expect_greeting(DATABASE);
        }
        run("systemctl", &["stop", UNIT]);
        assert!(running("ssh").is_empty());
        assert!(!Path::new("/run/portward").exists());
    });
}
