//! The namespaces, the directory, the keys and the ssh configuration of one test.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::process::Command;

use crate::api::{API_PORT, API_TOKEN};
use crate::namespace::{self, NetworkNamespace, ProcessInfo, kill};

/// Where [`Sshd`](crate::Sshd) listens, on 127.0.0.1.
pub const SSHD_PORT: u16 = 2222;
/// Where [`serve_page`](crate::serve_page) listens by custom. Like all fixed ports of the tests it is outside the ephemeral
/// range, so that no client can be given it as its own.
pub const ORIGIN_PORT: u16 = 8000;
/// Where [`serve_echo`](crate::serve_echo) listens by custom.
pub const ECHO_PORT: u16 = 7000;

/// In the environment of everything that the harness itself starts in the namespace.
pub(crate) const MARK: (&str, &str) = ("PORTWARD_LAB", "helper");

/// The world of one test. When it goes, it checks that the daemon has left no process in it.
#[derive(Debug)]
pub struct Lab {
    directory: TempDir,
    namespace: NetworkNamespace,
}

impl Lab {
    /// Moves this thread into new namespaces and lays out a directory with keys, an ssh configuration and a recording `ssh`.
    ///
    /// Destinations in the ssh configuration: `server` works; `wrong-key` offers a key that the server does not know;
    /// `stranger` is `server` with no known host key; `nowhere` has a name that /etc/hosts lacks until [`Lab::add_host`].
    pub fn new() -> Self {
        // Short, because the paths of unix sockets may have 107 bytes only.
        let directory = tempfile::Builder::new().prefix("pw").tempdir_in("/tmp").unwrap();
        let path = directory.path();
        fs::write(path.join("hosts"), "127.0.0.1 localhost\n::1 localhost\n").unwrap();
        fs::write(path.join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
        let namespace = namespace::enter(&path.join("hosts"), &path.join("resolv.conf"));
        fs::create_dir("/run/sshd").unwrap();

        let lab = Self { directory, namespace };
        for name in ["bin", "run", "etc", "home", "trace"] {
            fs::create_dir(lab.path(name)).unwrap();
        }
        for key in ["host_key", "client_key", "other_key"] {
            lab.generate_key(key);
        }
        fs::copy(lab.path("client_key.pub"), lab.path("authorized_keys")).unwrap();
        lab.trust_server("known_hosts");
        fs::write(lab.path("no_known_hosts"), "").unwrap();
        fs::write(lab.path("ssh_config"), lab.ssh_config()).unwrap();
        lab.install_recording_ssh();
        std::os::unix::fs::symlink(daemon_executable(), lab.path("bin/portward")).unwrap();
        lab
    }

    /// A path in the lab's directory.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command to be run in the lab by the test itself; it ends with its handle.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env(MARK.0, MARK.1).current_dir(self.path("")).kill_on_drop(true).stdin(Stdio::null());
        command
    }

    /// portward's command line as the lab's daemon would run it: with its environment and nothing of this one.
    pub fn portward(&self, arguments: &[&str]) -> Command {
        let bin = self.path("bin");
        let mut command = self.command(bin.join("portward"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()))
            .env("HOME", self.path("home"))
            .env("RUNTIME_DIRECTORY", self.path("run"))
            .env("PORTWARD_CONFIG", self.config_path());
        command
    }

    /// The daemon's configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.path("etc/config.yaml")
    }

    /// Writes the configuration in place: `tunnels` is the list's text, two blanks before each dash.
    pub fn write_config(&self, tunnels: &str) {
        fs::write(self.config_path(), self.config(tunnels)).unwrap();
    }

    /// The configuration's text with these tunnels, the lab's ssh configuration and short waits between tries.
    pub fn config(&self, tunnels: &str) -> String {
        let tunnels = if tunnels.trim().is_empty() { " []" } else { tunnels.trim_start_matches('\n') };
        let ssh_config = self.path("ssh_config");
        format!(
            "defaults:\n  ssh: {{config_file: {}}}\n  restart: {{min_delay: 100ms, max_delay: 500ms}}\n  \
             stop_grace: 500ms\ntunnels:{}{tunnels}",
            ssh_config.display(),
            if tunnels == " []" { "" } else { "\n" },
        )
    }

    /// As [`Lab::write_config`], with the API on TCP port [`API_PORT`]. Its token is in the file `token`.
    pub fn configure_tcp(&self, tunnels: &str) {
        let token = self.path("token");
        let api = format!("api: {{listen: '127.0.0.1:{API_PORT}', token_file: {}}}", token.display());
        fs::write(self.config_path(), format!("{}\n{api}\n", self.config(tunnels))).unwrap();
        self.write_token(API_TOKEN, 0o600);
    }

    /// Writes the file `token` in place.
    pub fn write_token(&self, token: &str, mode: u32) {
        fs::write(self.path("token"), token).unwrap();
        fs::set_permissions(self.path("token"), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// One line for each start of `ssh` by the daemon to connect: the pid and the arguments. An ssh that only prints its
    /// configuration (`-G`), or that serves another one (`-W`), is left out.
    pub fn ssh_starts(&self) -> Vec<String> {
        fs::read_to_string(self.path("ssh_starts")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Makes `name` resolve to 127.0.0.1.
    pub fn add_host(&self, name: &str) {
        // In place: what is mounted over /etc/hosts is the file, not the path.
        let hosts = fs::read_to_string(self.path("hosts")).unwrap();
        fs::write(self.path("hosts"), format!("{hosts}127.0.0.1 {name}\n")).unwrap();
    }

    /// Makes `far` a destination of the ssh configuration: the server at `address`.
    pub fn name_far(&self, address: &str) {
        self.name_server("far", address);
    }

    /// Makes `name` a destination of the ssh configuration: the server at `address`.
    pub fn name_server(&self, name: &str, address: &str) {
        let others = fs::read_to_string(self.path("ssh_config")).unwrap();
        fs::write(self.path("ssh_config"), format!("Host {name}\n  HostName {address}\n{others}")).unwrap();
    }

    /// Makes the server's host key known in the file `known_hosts` of the lab.
    pub fn trust_server(&self, known_hosts: &str) {
        let key = fs::read_to_string(self.path("host_key.pub")).unwrap();
        fs::write(self.path(known_hosts), format!("server {key}")).unwrap();
    }

    /// Makes the server accept the key of the destination `wrong-key`.
    pub fn accept_other_key(&self) {
        fs::copy(self.path("other_key.pub"), self.path("authorized_keys")).unwrap();
    }

    /// Puts a script for /bin/sh into the daemon's PATH, in place of a program of this name.
    pub fn install_script(&self, name: &str, script: &str) {
        let source = self.path("script");
        fs::write(&source, format!("#!/bin/sh\n{script}")).unwrap();
        install(&source, &self.path("bin").join(name));
    }

    /// Puts a file of the lab over one of the machine, for this lab alone.
    pub fn mount_over(&self, name: &str, target: &str) {
        namespace::bind(&self.path(name), Path::new(target));
    }

    /// Puts a script in place of the daemon's program, which it runs as `$DAEMON "$@"`.
    pub fn wrap_portward(&self, script: &str) {
        fs::remove_file(self.path("bin/portward")).unwrap();
        let daemon = daemon_executable();
        self.install_script("portward", &format!("DAEMON={}\n{script}\n", daemon.display()));
    }

    /// A directory that any user may enter, with `portward` in it: they may not go where that lies otherwise.
    pub fn portward_for_all(&self) -> TempDir {
        let directory = tempfile::Builder::new().prefix("pw").tempdir_in("/tmp").unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        install(&self.path("bin/portward"), &directory.path().join("portward"));
        directory
    }

    /// What in the namespace is neither the test's own nor sshd's: the daemon and what it has started.
    pub fn daemon_processes(&self) -> Vec<ProcessInfo> {
        self.processes().into_iter().filter(|process| !process.is_marked && !is_sshd(process)).collect()
    }

    /// The pids of the ssh that the daemon runs, but for those that are only asked what they would do (-G).
    pub fn sshs(&self) -> BTreeSet<u32> {
        let is_one = |process: &ProcessInfo| {
            process.executable.ends_with("ssh") && process.command.split(' ').all(|word| word != "-G")
        };
        self.daemon_processes().into_iter().filter(is_one).map(|process| process.pid).collect()
    }

    /// The sshd processes: one that listens for each server, and up to two for each session.
    pub fn sshd_processes(&self) -> Vec<ProcessInfo> {
        self.processes().into_iter().filter(is_sshd).collect()
    }

    /// The unix sockets below the directory where the daemon keeps its own.
    pub fn sockets(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut directories = vec![self.path("run")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    directories.push(entry.path());
                } else if kind.is_socket() {
                    found.push(entry.path());
                }
            }
        }
        found
    }

    /// Deletes a directory, whatever the daemon may be writing to it at the moment.
    pub fn remove_directory(&self, name: &str) {
        let aside = self.path("removed");
        fs::rename(self.path(name), &aside).unwrap();
        while let Err(error) = fs::remove_dir_all(&aside) {
            assert_eq!(error.kind(), std::io::ErrorKind::DirectoryNotEmpty, "{error}");
        }
    }

    fn processes(&self) -> Vec<ProcessInfo> {
        self.namespace.processes(&format!("{}={}", MARK.0, MARK.1))
    }

    fn generate_key(&self, name: &str) {
        let made = std::process::Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
            .arg(self.path(name))
            .status()
            .expect("starting ssh-keygen (package openssh-client)");
        assert!(made.success(), "ssh-keygen failed: {made}");
    }

    fn ssh_config(&self) -> String {
        let file = |name: &str| self.path(name).display().to_string();
        format!(
            "Host stranger\n  UserKnownHostsFile {no_known_hosts}\n\
             Host wrong-key\n  IdentityFile {other_key}\n\
             Host nowhere\n  HostName nowhere.invalid\n\
             Host * !wrong-key\n  IdentityFile {client_key}\n\
             Host *\n  HostName 127.0.0.1\n  Port {SSHD_PORT}\n  User root\n  HostKeyAlias server\n  IdentitiesOnly yes\n  UserKnownHostsFile {known_hosts}\n  GlobalKnownHostsFile /dev/null\n  \
             StrictHostKeyChecking yes\n  UpdateHostKeys no\n",
            no_known_hosts = file("no_known_hosts"),
            other_key = file("other_key"),
            client_key = file("client_key"),
            known_hosts = file("known_hosts"),
        )
    }

    /// `ssh`, first in the daemon's PATH: appends a line to `ssh_starts` and becomes the real one, under the same pid. One that is
    /// only asked what it would do (-G), or is started by another ssh (-W), is no start.
    fn install_recording_ssh(&self) {
        let starts = self.path("ssh_starts");
        self.install_script(
            "ssh",
            // Not `echo`: the shell's own reads backslashes in what it prints.
            &format!(
                "for word; do case $word in -G|-W) exec /usr/bin/ssh \"$@\" ;; esac; done\n\
                 printf '%s %s\\n' $$ \"$*\" >> {}\nexec /usr/bin/ssh \"$@\"\n",
                starts.display()
            ),
        );
    }
}

/// Copies a program to `target`, in place of what is there, so that everybody may execute it.
///
/// Another process does it. What this one has open for writing is open as well in a child that a test on another thread has just
/// forked, until that executes its program; and a file that is open for writing cannot be executed (ETXTBSY).
fn install(source: &Path, target: &Path) {
    let installed =
        std::process::Command::new("install").args(["-m755", "-T"]).args([source, target]).status();
    let installed = installed.expect("starting install (package coreutils)");
    assert!(installed.success(), "installing {}: {installed}", target.display());
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let left: Vec<String> = self.daemon_processes().iter().map(ToString::to_string).collect();
        for process in self.processes() {
            kill(process.pid, Signal::SIGKILL);
        }
        if !std::thread::panicking() {
            assert!(left.is_empty(), "left behind in the namespace: {}", left.join(", "));
        }
    }
}

pub(crate) fn is_sshd(process: &ProcessInfo) -> bool {
    process.executable.ends_with("sshd") || process.executable.ends_with("sshd-session")
}

/// The daemon that cargo has built for this very test run: `target/PROFILE/portward-under-test`.
fn daemon_executable() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().find(|path| path.ends_with("deps")).and_then(Path::parent);
    let executable = profile.expect("tests are run from target/PROFILE/deps").join("portward-under-test");
    assert!(executable.exists(), "{} is missing: run the tests with cargo", executable.display());
    executable
}
