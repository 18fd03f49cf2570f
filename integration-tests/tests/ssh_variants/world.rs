//! The servers, the files and the tunnels of the table.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;

use integration_tests::{Lab, ORIGIN_PORT, SSHD_PORT, Sshd, serve_page, within_deadline};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::row::{Forward, MAX_DELAY_S, MIN_DELAY_MS, Row, Server};

/// The first row's port; the others follow. Outside the ephemeral range, as all fixed ports of the tests.
const FIRST_PORT: u16 = 13_000;
/// The first row's server, where it has one of its own.
const FIRST_SERVER_PORT: u16 = 2300;

/// What the rows need, in their order.
pub(crate) struct World<'lab> {
    lab: &'lab Lab,
    rows: &'lab [Row],
    sshds: Vec<Sshd<'lab>>,
    half_logins: Vec<AbortHandle>,
}

impl<'lab> World<'lab> {
    pub(crate) async fn build(lab: &'lab Lab, rows: &'lab [Row]) -> Self {
        write_keys(lab);
        serve_page(("127.0.0.1", ORIGIN_PORT)).await;
        let mut world = Self { lab, rows, sshds: vec![Sshd::start(lab).await], half_logins: Vec::new() };
        for (index, row) in rows.iter().enumerate() {
            world.serve(row, world.server_port(index)).await;
            fs::write(world.config_path(row), world.ssh_config(index)).unwrap();
        }
        world
    }

    async fn serve(&mut self, row: &Row, port: u16) {
        match row.server {
            Server::Plain | Server::Nobody => {}
            Server::Sshd(lines) => {
                let lines = lines.replace("{lab}", &self.lab.path("").display().to_string());
                self.sshds.push(Sshd::start_on(self.lab, port, &lines).await);
            }
            Server::Full => {
                let lines = "MaxStartups 1:100:1\nLoginGraceTime 0";
                self.sshds.push(Sshd::start_on(self.lab, port, lines).await);
                let mut login = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                // Once it has greeted, the server counts this one.
                let greeting = within_deadline("sshd's greeting", login.read_u8()).await;
                greeting.expect("sshd greets");
                self.half_logins.push(tokio::spawn(wait_for_the_end(login)).abort_handle());
            }
            Server::Closes => answer_each(port, |_| async {}).await,
            Server::Silent => answer_each(port, wait_for_the_end).await,
            Server::Talks => answer_each(port, talk).await,
            Server::Http => answer_each(port, refuse_as_http).await,
        }
    }

    pub(crate) fn rows(&self) -> &'lab [Row] {
        self.rows
    }

    /// Lets those who do not finish their login go away.
    pub(crate) fn end_half_logins(&self) {
        self.half_logins.iter().for_each(AbortHandle::abort);
    }

    /// The processes of sshd that listen.
    pub(crate) fn listening_sshds(&self) -> Vec<u32> {
        self.sshds.iter().filter_map(Sshd::pid).collect()
    }

    /// The port on which the row's tunnel listens, here or on the server.
    pub(crate) fn port(&self, row: &Row) -> u16 {
        FIRST_PORT + u16::try_from(self.index(row)).unwrap()
    }

    /// Where a client gets into the row's tunnel.
    pub(crate) fn entrance(&self, row: &Row) -> SocketAddr {
        let address = if row.listens == ["[::1]"] {
            IpAddr::from(Ipv6Addr::LOCALHOST)
        } else {
            Ipv4Addr::LOCALHOST.into()
        };
        (address, self.port(row)).into()
    }

    /// What the row's tunnel listens on, as the status tells.
    pub(crate) fn listeners(&self, row: &Row) -> Vec<String> {
        if !row.outcome.is_up() {
            return Vec::new();
        }
        row.listens.iter().map(|address| format!("{address}:{}", self.port(row))).collect()
    }

    /// The text of a row with what its placeholders stand for.
    pub(crate) fn fill(&self, row: &Row, text: &str) -> String {
        text.replace("{lab}", &self.lab.path("").display().to_string())
            .replace("{config}", &self.config_path(row).display().to_string())
            .replace("{port}", &self.server_port(self.index(row)).to_string())
    }

    /// The list of all tunnels in the daemon's configuration; none of them is started by itself.
    pub(crate) fn tunnels(&self) -> String {
        let mut tunnels = String::new();
        for row in self.rows {
            let (name, port) = (row.name, self.port(row));
            let forward = match row.forward {
                Forward::Local(target) => format!("remote_port: '127.0.0.1:{target}', local_port: {port}"),
                Forward::Remote(bind) => format!(
                    "direction: local_to_remote, remote_port: '{bind}{port}', local_port: '127.0.0.1:{ORIGIN_PORT}'"
                ),
            };
            let settings = self.fill(row, row.settings);
            write!(
                tunnels,
                "\n  - {{name: {name}, remote_host: '{}', enabled: false, {forward}, \
                 ssh: {{config_file: '{}', {settings}}}, \
                 restart: {{min_delay: {MIN_DELAY_MS}ms, max_delay: {MAX_DELAY_S}s}}}}",
                row.destination(),
                self.config_path(row).display()
            )
            .unwrap();
        }
        tunnels.push('\n');
        tunnels
    }

    /// The row's file: its own lines, and below them, for all hosts, what it does not speak of.
    fn ssh_config(&self, index: usize) -> String {
        let row = &self.rows[index];
        let own = self.fill(row, row.ssh_config);
        let common = format!(
            "HostName 127.0.0.1\nPort {}\nUser root\nHostKeyAlias server\nIdentityFile {lab}/client_key\n\
             IdentitiesOnly yes\nUserKnownHostsFile {lab}/known_hosts\nGlobalKnownHostsFile /dev/null\n\
             StrictHostKeyChecking yes\nUpdateHostKeys no\n",
            self.server_port(index),
            lab = self.lab.path("").display(),
        );
        // Several files of keys would all be tried, so that the row's own is not the only one.
        let is_open = |line: &&str| {
            let keyword = line.split(' ').next().unwrap();
            !["IdentityFile", "HostKeyAlias"].contains(&keyword) || !own.contains(keyword)
        };
        let common: Vec<&str> = common.lines().filter(is_open).collect();
        format!("Host {}\n{own}\nHost *\n{}\n", row.name, common.join("\n"))
    }

    fn config_path(&self, row: &Row) -> std::path::PathBuf {
        self.lab.path(format!("etc/{}", row.name))
    }

    fn server_port(&self, index: usize) -> u16 {
        match self.rows[index].server {
            Server::Plain => SSHD_PORT,
            _ => FIRST_SERVER_PORT + u16::try_from(index).unwrap(),
        }
    }

    fn index(&self, row: &Row) -> usize {
        self.rows.iter().position(|other| other.name == row.name).expect("a row of the table")
    }
}

/// Files that the rows name.
fn write_keys(lab: &Lab) {
    let copy = |name: &str| {
        fs::copy(lab.path("client_key"), lab.path(name)).unwrap();
    };
    copy("mode_644");
    fs::set_permissions(lab.path("mode_644"), fs::Permissions::from_mode(0o644)).unwrap();
    copy("100%h key");
    fs::create_dir(lab.path("my keys")).unwrap();
    copy("my keys/client key");
    copy("broken_key");
    let key = fs::read(lab.path("broken_key")).unwrap();
    fs::write(lab.path("broken_key"), &key[..key.len() / 2]).unwrap();

    let public = |name: &str| fs::read_to_string(lab.path(name)).unwrap();
    let (right, wrong) = (public("host_key.pub"), public("other_key.pub"));
    fs::write(lab.path("elsewhere_hosts"), format!("elsewhere {right}")).unwrap();
    fs::write(lab.path("changed_hosts"), format!("server {wrong}[127.0.0.1]:{SSHD_PORT} {wrong}")).unwrap();
    let client = public("client_key.pub");
    fs::write(lab.path("restricted_keys"), format!("restrict {client}")).unwrap();
    fs::write(lab.path("keys_from_elsewhere"), format!("from=\"192.0.2.1\" {client}")).unwrap();
    fs::write(
        lab.path("banner"),
        "Enter keyword help for assistance.\nroot@here: Permission denied (publickey).\n",
    )
    .unwrap();
}

/// Accepts connections on `port`, and does with each of them what `answer` does.
async fn answer_each<F: Future<Output = ()> + Send + 'static>(
    port: u16,
    answer: impl Fn(TcpStream) -> F + Send + 'static,
) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
}

async fn wait_for_the_end(mut stream: TcpStream) {
    // Whatever comes, and however it ends.
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

async fn talk(mut stream: TcpStream) {
    // Until nobody listens any more.
    while stream
        .write_all(b"Enter keyword help.\r\n\x1b[2Jroot@here: Permission denied (publickey).\r\n")
        .await
        .is_ok()
    {}
}

async fn refuse_as_http(mut stream: TcpStream) {
    let mut request = [0; 1024];
    if matches!(stream.read(&mut request).await, Ok(length) if length > 0) {
        // A client that has gone away does not mind.
        let _ = stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .await;
    }
}
