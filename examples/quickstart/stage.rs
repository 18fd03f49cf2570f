//! What the show is played on: a temporary directory, the far end's servers, keys for both sides, and the configuration file.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use russh::keys::ssh_key::LineEnding;
use tempfile::TempDir;

use crate::{Result, origin, ports, ssh_server};

/// Name of the tunnel that every step plays with.
pub(crate) const WEB: &str = "web";
/// Name of the tunnel that is added later.
pub(crate) const SECOND: &str = "second";

/// The stage, set.
pub(crate) struct Stage {
    directory: TempDir,
    /// Where the embedded SSH server listens.
    pub(crate) ssh_server: SocketAddr,
    /// Where the origin listens.
    pub(crate) origin: SocketAddr,
    /// Local port of the tunnel [`WEB`].
    pub(crate) web_port: u16,
    /// Local port of the tunnel [`SECOND`].
    pub(crate) second_port: u16,
}

impl Stage {
    /// Makes the directory and the keys, and starts the far end.
    pub(crate) async fn set() -> Result<Self> {
        let [web_port, second_port] = ports::two_free()?;
        let directory = tempfile::Builder::new().prefix("portward-").tempdir()?;
        let host_key = ssh_server::new_key()?;
        let client_key = ssh_server::new_key()?;

        // Written with mode 0600: ssh refuses a key that others may read.
        client_key.write_openssh_file(directory.path().join("id_ed25519"), LineEnding::LF)?;
        let host_public = host_key.public_key().to_openssh()?;
        let ssh_server = ssh_server::serve(host_key, client_key.public_key().clone()).await?;
        let known_host = format!("[{}]:{} {host_public}\n", ssh_server.ip(), ssh_server.port());
        fs::write(directory.path().join("known_hosts"), known_host)?;

        Ok(Self { directory, ssh_server, origin: origin::serve().await?, web_port, second_port })
    }

    /// The configuration with the tunnel [`WEB`] alone.
    pub(crate) fn config(&self) -> String {
        let directory = self.path().display();
        let ssh_port = self.ssh_server.port();
        let web = self.tunnel(WEB, self.web_port);
        // `none`, not the caller's ssh_config: the show is the same on every machine.
        format!(
            "defaults:
  ssh:
    config_file: none
    identity_file: {directory}/id_ed25519
    options:
      Port: {ssh_port}
      UserKnownHostsFile: {directory}/known_hosts
      StrictHostKeyChecking: \"yes\"
tunnels:
{web}"
        )
    }

    /// The configuration with the tunnel [`SECOND`] as well.
    pub(crate) fn config_with_second(&self) -> String {
        self.config() + &self.tunnel(SECOND, self.second_port)
    }

    /// The same, and portward itself listens for the tunnel [`WEB`].
    pub(crate) fn config_with_held(&self) -> String {
        let port = format!("local_port: {}\n", self.web_port);
        self.config_with_second().replace(&port, &format!("{port}    listener: portward\n"))
    }

    fn tunnel(&self, name: &str, local_port: u16) -> String {
        let Self { ssh_server, origin, .. } = self;
        format!(
            "  - name: {name}
    remote_host: guest@{}
    remote_port: {origin}
    local_port: {local_port}
",
            ssh_server.ip()
        )
    }

    /// Writes the configuration file in place, as an editor does.
    pub(crate) fn write_config(&self, text: &str) -> io::Result<()> {
        fs::write(self.config_file(), text)
    }

    /// The temporary directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The configuration file.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.path().join("config.yaml")
    }

    /// The daemon's runtime directory.
    pub(crate) fn runtime_directory(&self) -> PathBuf {
        self.path().join("run")
    }

    /// The daemon's API.
    pub(crate) fn api_socket(&self) -> PathBuf {
        self.runtime_directory().join(portward::paths::SOCKET_FILE)
    }

    /// What the daemon tells its service manager goes here.
    pub(crate) fn notify_socket(&self) -> PathBuf {
        self.path().join("notify")
    }

    /// What the daemon writes to its standard output and error.
    pub(crate) fn log(&self) -> PathBuf {
        self.path().join("daemon.log")
    }

    /// The sockets that lie in the daemon's runtime directory: its own and those of the ssh processes.
    pub(crate) fn sockets_left(&self) -> io::Result<Vec<PathBuf>> {
        let mut sockets = Vec::new();
        collect_sockets(&self.runtime_directory(), &mut sockets)?;
        Ok(sockets)
    }

    /// Removes the directory with all that is in it.
    pub(crate) fn strike(self) -> io::Result<()> {
        self.directory.close()
    }
}

fn collect_sockets(directory: &Path, sockets: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect_sockets(&entry.path(), sockets)?;
        } else if kind.is_socket() {
            sockets.push(entry.path());
        }
    }
    Ok(())
}
