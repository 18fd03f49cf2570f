//! The Debian package: what is in it, and from an empty machine to an empty machine with the lines of the README.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use tempfile::tempdir;

use crate::continuity::{Stream, serve_echo};
use crate::journal::Follower;
use crate::machine::{SHARED, on_a_prepared_machine, run, text};
use crate::service::{UNIT, property, running};
use crate::site::{self, CONFIG};

const README: &str = include_str!("../../../README.md");

/// The ports of the README's tunnel.
const LOCAL: u16 = 13306;
const REMOTE: u16 = 3306;

/// A user whose tunnels a unit of the system runs, and one who runs their own, each with the port of their tunnel.
const ALICE: (&str, u16) = ("alice", 14001);
const BOB: (&str, u16) = ("bob", 14002);

/// The password that `ssh-copy-id` is asked for.
const PASSWORD: &str = "correct horse";

/// The line of the README that builds the package, those that install it and make a tunnel, and the one that shows it.
fn lines_of_the_readme() -> (&'static str, String, &'static str) {
    let (_, section) = README.split_once("\n## Install\n").expect("the README has a section on installing");
    let block = section
        .split_once("```sh\n")
        .and_then(|(_, rest)| rest.split_once("\n```"))
        .expect("a block of lines")
        .0;
    let mut lines: Vec<_> = block.lines().collect();
    let show = lines.pop().expect("the last line");
    let build = lines.remove(0);
    (build, lines.join("\n"), show)
}

/// Builds a package as the README does, but of the program that is under test, and packs it less tightly.
fn build(directory: &Path, arguments: &[&str]) {
    let (line, _, _) = lines_of_the_readme();
    let output = Command::new("bash")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(["-c", &format!("{line} \"$@\""), "README.md"])
        .args(["--program", env!("CARGO_BIN_EXE_portward-under-test"), "--output"])
        .arg(directory)
        .args(arguments)
        .envs([("DPKG_DEB_COMPRESSOR_TYPE", "gzip"), ("DPKG_DEB_COMPRESSOR_LEVEL", "1")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

/// The path of the only package in a directory.
fn package_in(directory: &Path) -> String {
    let mut files = fs::read_dir(directory).unwrap();
    let path = files.next().expect("a package").unwrap().path();
    assert!(files.next().is_none(), "there is one package");
    path.display().to_string()
}

#[test]
fn lintian_finds_nothing_wrong_with_the_package_and_it_holds_what_belongs_to_portward() {
    let directory = tempdir().unwrap();
    build(directory.path(), &[]);
    let package = package_in(directory.path());
    run("lintian", &["--allow-root", "--profile", "debian", "--fail-on", "error,warning", &package]);

    let listed = run("dpkg-deb", &["--contents", &package]);
    for file in [
        "/usr/bin/portward",
        "/systemd/system/portward.service",
        "/systemd/system/portward@.service",
        "/usr/lib/systemd/user/portward.service",
        "/usr/share/bash-completion/completions/portward",
        "/usr/share/zsh/vendor-completions/_portward",
        "/usr/share/fish/vendor_completions.d/portward.fish",
        "/usr/share/man/man1/portward.1.gz",
        "/usr/share/man/man1/portward-who.1.gz",
        "/usr/share/doc/portward/CHANGELOG.md.gz",
        "/usr/share/doc/portward/copyright",
        "/usr/share/doc/portward/docs/guide/systemd.md",
        "/usr/share/doc/portward/examples/database.yaml",
        "/usr/share/portward/portward.schema.json",
    ] {
        assert!(listed.lines().any(|line| line.ends_with(file)), "{file} in\n{listed}");
    }
    let config = listed.lines().find(|line| line.ends_with(CONFIG)).expect("the configuration");
    assert!(config.starts_with("-rw-r----- root/root "), "{config}");
}

/// What on this machine has portward's name.
fn traces() -> String {
    let places = ["/etc", "/usr", "/var", "/run", "/root", "/tmp"];
    run(
        "find",
        &[&places[..], &["-xdev", "-path", SHARED, "-prune", "-o", "-name", "*portward*", "-print"]].concat(),
    )
}

/// A server with a user `deploy` who may log in with a password, under the name that the README gives it.
fn serve_deploy() {
    site::serve_ssh_with(&format!(
        "PasswordAuthentication yes\nAuthorizedKeysFile .ssh/authorized_keys {}/authorized_keys\n",
        site::SERVER
    ));
    let mut hosts = fs::OpenOptions::new().append(true).open("/etc/hosts").unwrap();
    hosts.write_all(b"127.0.0.1 db-server\n").unwrap();
    run("useradd", &["--create-home", "--shell", "/bin/sh", "deploy"]);
    run("sh", &["-c", &format!("echo 'deploy:{PASSWORD}' | chpasswd")]);
    serve_echo(REMOTE);
}

/// Runs the README's lines as root, with somebody who answers what ssh asks.
fn install(lines: &str) {
    let askpass = "/run/askpass";
    let answers =
        format!("#!/bin/sh\ncase $1 in *'continue connecting'*) echo yes ;; *) echo '{PASSWORD}' ;; esac\n");
    fs::write(askpass, answers).unwrap();
    fs::set_permissions(askpass, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new("bash")
        .current_dir(SHARED)
        .args(["-euc", &format!("sudo() {{ \"$@\"; }}\n{lines}")])
        .env("HOME", "/root")
        .env("SSH_ASKPASS", askpass)
        .env("SSH_ASKPASS_REQUIRE", "force")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .unwrap();
    println!("{}", text(&output));
    assert!(output.status.success(), "the lines of the README: {}", output.status);
}

/// A user with keys and one tunnel.
fn add_user((name, port): (&str, u16)) {
    run("useradd", &["--create-home", "--shell", "/bin/sh", name]);
    site::give_keys(name, &format!("/home/{name}"));
    site::configure(&format!("/home/{name}/.config/portward/config.yaml"), &[(name, port)]);
}

/// What apt does in the end, without its lists of packages, which take seconds to read.
fn dpkg(action: &str, package: &str) {
    println!("{}", run("dpkg", &[action, package]));
}

#[test]
fn from_an_empty_machine_to_a_tunnel_to_an_upgrade_that_cuts_nothing_to_an_empty_machine() {
    let test =
        "package::from_an_empty_machine_to_a_tunnel_to_an_upgrade_that_cuts_nothing_to_an_empty_machine";
    let prepare = |shared: &Path| {
        build(&shared.join("target/debian"), &[]);
        build(&shared.join("next"), &["--version", "99.0"]);
    };
    on_a_prepared_machine(test, prepare, || {
        // Images for containers have it, to keep packages from starting services.
        let _ = fs::remove_file("/usr/sbin/policy-rc.d");
        // With it, dpkg makes the index of all man pages anew each time.
        let _ = fs::remove_file("/var/lib/man-db/auto-update");
        // By which services without privileges learn that they are restarted.
        run("systemctl", &["start", "dbus.socket"]);
        serve_deploy();
        let before = traces();
        let (_, lines, show) = lines_of_the_readme();
        assert_eq!(show, format!("journalctl -u {} -f", UNIT.trim_end_matches(".service")));
        install(&lines);
        let mut journal = Follower::of(UNIT);
        journal.wait_up("database");
        assert_eq!(property(UNIT, "UnitFileState"), "enabled");
        assert_eq!(run("stat", &["--format=%U %a", CONFIG]), "root 640\n");
        println!("{}", run("portward", &["doctor"]));

        let of_alice = "portward@alice.service";
        add_user(ALICE);
        let mut journal_of_alice = Follower::of(of_alice);
        run("systemctl", &["enable", "--now", of_alice]);
        journal_of_alice.wait_up(ALICE.0);

        let stream = Stream::open(LOCAL);
        let connections = running("ssh");
        let daemons = [UNIT, of_alice].map(|unit| property(unit, "MainPID"));
        dpkg("--install", &package_in(&Path::new(SHARED).join("next")));
        assert_eq!(run("dpkg-query", &["--show", "--showformat=${Version}", "portward"]), "99.0");
        journal.wait_up("database");
        journal_of_alice.wait_up(ALICE.0);
        for (unit, daemon) in [UNIT, of_alice].into_iter().zip(daemons) {
            assert_ne!(property(unit, "MainPID"), daemon, "{unit} runs the old program");
        }
        assert_eq!(running("ssh"), connections, "an upgrade starts no ssh");
        assert!(stream.finish() > 0);

        add_user(BOB);
        let uid = run("id", &["-u", BOB.0]).trim_end().to_owned();
        run("systemctl", &["start", &format!("user@{uid}.service")]);
        let mut journal_of_bob = Follower::of_user_unit(UNIT);
        let runtime = format!("XDG_RUNTIME_DIR=/run/user/{uid}");
        run("runuser", &["-u", BOB.0, "--", "env", &runtime, "systemctl", "--user", "start", UNIT]);
        journal_of_bob.wait_up(BOB.0);

        // As portward does before it changes its configuration.
        fs::create_dir("/etc/portward/backups").unwrap();
        fs::write("/etc/portward/backups/config.yaml", "tunnels: []\n").unwrap();
        let files = run("dpkg-query", &["--listfiles", "portward"]);
        dpkg("--remove", "portward");
        for name in ["ssh", "portward"] {
            assert!(running(name).is_empty(), "{name} runs after the removal");
        }
        for port in [LOCAL, ALICE.1, BOB.1] {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free");
        }
        assert_eq!(property(UNIT, "LoadState"), "not-found");
        assert!(
            fs::read_to_string(CONFIG).unwrap().contains("deploy@db-server"),
            "a removal keeps the configuration"
        );

        dpkg("--purge", "portward");
        let left: Vec<_> =
            files.lines().filter(|file| file.contains("portward") && Path::new(file).exists()).collect();
        assert_eq!(left, [""; 0]);
        assert_eq!(traces(), before);
    });
}
