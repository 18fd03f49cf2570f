//! What the tests of held listeners have in common: their tunnels, and clients that may have to wait.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::fetch_from;

/// How long a client waits for its answer: as long as a login may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A tunnel to the port `remote` of the server with `listener: portward` and these keys besides.
pub fn held_tunnel(name: &str, remote: u16, local: u16, keys: &str) -> String {
    format!(
        "\n  - {{name: {name}, remote_host: server, remote_port: 127.0.0.1:{remote}, local_port: {local}, \
         listener: portward{keys}}}\n"
    )
}

/// Fetches the page from `port` of this machine, and waits for a login if that takes one.
pub async fn fetch_patiently(port: u16) -> io::Result<()> {
    fetch_from(SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE).await
}
