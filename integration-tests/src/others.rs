//! Tunnels beside the one that a fault hits, with clients that must notice nothing of it.

use std::fmt::Write as _;

use portward::protocol::StateName;

use crate::clients::NumberedStream;
use crate::daemon::Daemon;
use crate::lab::ECHO_PORT;

/// Names and ports of the tunnels that are made anywhere. Outside the ephemeral range.
const TUNNELS: [(&str, u16); 5] =
    [("o-ssh", 9601), ("o-held", 9602), ("o-share-1", 9603), ("o-share-2", 9604), ("o-command", 9605)];
/// That of a remote forward, which listens on the server.
const REMOTE: (&str, u16) = ("o-remote", 9606);

/// A tunnel of each kind that is up, and a stream through each.
#[derive(Debug)]
pub struct Others {
    /// Name, port and process.
    tunnels: Vec<(&'static str, u16, Option<u32>)>,
    streams: Vec<NumberedStream>,
}

impl Others {
    /// Their configuration. All lead to the echo beside the server `destination`, that of the command to the one of this machine. A
    /// remote forward is among them if the server is on this machine.
    pub fn tunnels(destination: &str) -> String {
        let [ssh, held, share_1, share_2, command] = TUNNELS;
        let tunnel = |(name, port): (&str, u16), keys: &str| {
            format!(
                "  - {{name: {name}, remote_host: {destination}, remote_port: 127.0.0.1:{ECHO_PORT}, \
                 local_port: '127.0.0.1:{port}'{keys}}}\n"
            )
        };
        let mut tunnels = tunnel(ssh, "")
            + &tunnel(held, ", listener: portward")
            + &tunnel(share_1, ", share: true")
            + &tunnel(share_2, ", share: true");
        let (name, port) = command;
        writeln!(
            tunnels,
            "  - {{name: {name}, command: [socat, 'TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork', \
             'TCP:127.0.0.1:{ECHO_PORT}'], local_port: '127.0.0.1:{port}'}}"
        )
        .unwrap();
        if is_here(destination) {
            let (name, port) = REMOTE;
            writeln!(
                tunnels,
                "  - {{name: {name}, remote_host: {destination}, remote_port: {port}, \
                 local_port: 127.0.0.1:{ECHO_PORT}, direction: local_to_remote}}"
            )
            .unwrap();
        }
        tunnels
    }

    /// Waits until they are up, and begins the streams.
    pub async fn start(daemon: &Daemon<'_>, destination: &str) -> Self {
        let (mut tunnels, mut streams) = (Vec::new(), Vec::new());
        let remote = is_here(destination).then_some(REMOTE);
        for (name, port) in TUNNELS.into_iter().chain(remote) {
            let up = daemon.wait_state(name, StateName::Up).await;
            tunnels.push((name, port, up.pid));
            streams.push(NumberedStream::open(port).await);
        }
        Self { tunnels, streams }
    }

    /// Waits until bytes have come back on each stream that were sent after this call.
    pub async fn go_on(&self) {
        for stream in &self.streams {
            stream.next_bytes().await;
        }
    }

    /// Checks that each carries a new client.
    pub async fn serve_new_clients(&self) {
        for (name, port, _) in &self.tunnels {
            println!("a new client of {name}");
            NumberedStream::open(*port).await.finish().await;
        }
    }

    /// Ends the streams: no byte is lost, and each tunnel is up with the process that it had; returns how many bytes have passed.
    pub async fn finish(self, daemon: &Daemon<'_>) -> u64 {
        self.go_on().await;
        let mut bytes = 0;
        for stream in self.streams {
            bytes += stream.finish().await;
        }
        for (name, _, pid) in self.tunnels {
            let status = daemon.status(name).await;
            assert_eq!(
                (status.state, status.pid, status.restarts, status.last_error),
                (StateName::Up, pid, 0, None),
                "{name}\n{}",
                daemon.report()
            );
        }
        bytes
    }
}

fn is_here(destination: &str) -> bool {
    destination == "server"
}
