//! The far end: an SSH server that lets one key in and forwards connections (`ssh -L`), and does nothing else.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{PrivateKey, PublicKey};
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session, VerifiedPublicKey, run_stream};
use russh::{Channel, ChannelOpenFailure};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Duration;

use crate::Result;

/// Serves until the program ends, on a port of the kernel's choice.
pub(crate) async fn serve(host_key: PrivateKey, client_key: PublicKey) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let config = Arc::new(Config {
        keys: vec![host_key],
        // ssh always begins with the method "none", to hear which methods there are: answer that at once.
        auth_rejection_time_initial: Some(Duration::ZERO),
        keepalive_interval: Some(Duration::from_secs(15)),
        nodelay: true,
        ..Config::default()
    });
    let client_key = Arc::new(client_key);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (config, client_key) = (config.clone(), client_key.clone());
            // A thread for each connection, where sshd has a process: the arithmetic of a new one's handshake must not hold up
            // the pages that an old one carries.
            thread::spawn(move || converse(stream, config, client_key));
        }
    });
    Ok(address)
}

/// One connection of one client. How it ends is the client's affair: ssh says what it thinks of it.
fn converse(stream: TcpStream, config: Arc<Config>, client_key: Arc<PublicKey>) -> Result<()> {
    let stream = stream.into_std()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stream = TcpStream::from_std(stream)?;
        stream.set_nodelay(true)?;
        Ok(run_stream(config, stream, Door { client_key }).await?.await?)
    })
}

/// A new ed25519 key.
pub(crate) fn new_key() -> Result<PrivateKey> {
    let mut seed = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(Ed25519Keypair::from_seed(&seed).into())
}

/// Decides what a client may do.
struct Door {
    client_key: Arc<PublicKey>,
}

impl Handler for Door {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        if key.public_key.key_data() == self.client_key.key_data() {
            Ok(Auth::Accept)
        } else {
            Ok(Auth::reject())
        }
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator_host: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let target = u16::try_from(port).map(|port| (host.to_owned(), port));
        // In a task of its own, so that a slow target holds up no other channel of this connection.
        tokio::spawn(async move {
            let Ok(target) = target else { return reply.reject(ChannelOpenFailure::ConnectFailed).await };
            match TcpStream::connect(target).await {
                Ok(mut stream) => {
                    let _ = stream.set_nodelay(true);
                    reply.accept().await;
                    let _ = copy_bidirectional(&mut channel.into_stream(), &mut stream).await;
                }
                Err(_) => reply.reject(ChannelOpenFailure::ConnectFailed).await,
            }
        });
        Ok(())
    }
}
