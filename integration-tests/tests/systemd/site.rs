//! What is on the machine: portward as the quick start installs it, an ssh server, and tunnels to it.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::machine::{SHARED, run};

/// The local port of the tunnel `database`.
pub(crate) const DATABASE: u16 = 13306;

/// The configuration of the system's service.
pub(crate) const CONFIG: &str = "/etc/portward/config.yaml";

pub(crate) const SERVER: &str = "/run/server";

/// portward, an ssh server, and the tunnel `database` in root's configuration.
pub(crate) fn build() {
    install();
    serve_ssh();
    give_keys("root", "/root");
    configure(CONFIG, &[("database", DATABASE)]);
}

/// Installs portward and its units.
pub(crate) fn install() {
    run("install", &["-m755", &format!("{SHARED}/portward"), "/usr/local/bin/"]);
    run("cp", &["-r", &format!("{SHARED}/systemd/."), "/etc/systemd/system/"]);
    run("cp", &["-r", &format!("{SHARED}/systemd/user/."), "/etc/systemd/user/"]);
}

/// Starts an ssh server that lets root in with the keys of [`give_keys`]. It listens when this returns, and runs until the
/// machine is off. Not a service, so that it does not depend on the journal.
pub(crate) fn serve_ssh() {
    serve_ssh_with("");
}

/// The same, with lines of sshd_config that count before those of the harness.
pub(crate) fn serve_ssh_with(settings: &str) {
    // sshd changes to /run/sshd to drop its privileges.
    for directory in [SERVER, "/run/sshd"] {
        fs::create_dir_all(directory).unwrap();
    }
    make_key(&format!("{SERVER}/host_key"));
    let config = format!(
        "{settings}ListenAddress 127.0.0.1\nHostKey {SERVER}/host_key\nAuthorizedKeysFile {SERVER}/authorized_keys\nStrictModes no\n\
         UsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
    );
    fs::write(format!("{SERVER}/sshd_config"), config).unwrap();
    let mut sshd = Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f", &format!("{SERVER}/sshd_config")])
        .stderr(Stdio::piped())
        .spawn()
        .expect("starting sshd");
    let mut lines = BufReader::new(sshd.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("Server listening")), "sshd ended");
    // It must be able to go on talking.
    thread::spawn(move || {
        lines.for_each(drop);
        sshd.wait()
    });
}

/// Gives `user` a key that the server knows, and the server's host key.
pub(crate) fn give_keys(user: &str, home: &str) {
    let directory = format!("{home}/.ssh");
    let key = format!("{directory}/id_ed25519");
    run("install", &["-d", "-m700", &directory]);
    make_key(&key);
    let known = fs::read_to_string(format!("{SERVER}/host_key.pub")).unwrap();
    fs::write(format!("{directory}/known_hosts"), format!("127.0.0.1 {known}")).unwrap();
    run("chown", &["-R", user, &directory]);
    let mut authorized = fs::read_to_string(format!("{SERVER}/authorized_keys")).unwrap_or_default();
    authorized += &fs::read_to_string(format!("{key}.pub")).unwrap();
    fs::write(format!("{SERVER}/authorized_keys"), authorized).unwrap();
}

fn make_key(path: &str) {
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", path]);
}

/// Writes a configuration whose tunnels, by name and local port, all lead to the ssh server itself.
pub(crate) fn configure(path: &str, tunnels: &[(&str, u16)]) {
    let mut text = "tunnels:\n".to_owned();
    for (name, port) in tunnels {
        writeln!(
            text,
            "  - name: {name}\n    remote_host: root@127.0.0.1\n    remote_port: 22\n    local_port: {port}"
        )
        .unwrap();
    }
    fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Panics unless the ssh server greets through the tunnel on `port`.
pub(crate) fn expect_greeting(port: u16) {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connecting to the tunnel");
    let mut greeting = [0; 4];
    connection.read_exact(&mut greeting).expect("reading through the tunnel");
    assert_eq!(&greeting, b"SSH-");
}
