//! Where the API listens: bound before the daemon says that it is ready.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::token::TokenFile;
use crate::config::desired::ApiTcp;
use crate::socket::{Doorway, Socket, SocketError};
use crate::token::TokenError;

/// Why the API cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The unix socket cannot be served.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The TCP address cannot be bound.
    #[error(
        "cannot listen on {address} (api.listen): {source}: `ss -tlnp` shows which process does; choose another port"
    )]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// There is no token to guard TCP with.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// The API's listeners. The socket's file goes when this goes.
#[derive(Debug)]
pub struct Listeners {
    pub(super) unix: Doorway,
    pub(super) tcp: Option<(TcpListener, Rules)>,
    pub(super) socket_file: SocketFile,
    /// Goes last: the socket's file is ours as long as we hold its lock.
    pub(super) lock: Arc<Socket>,
}

impl Listeners {
    /// Binds the unix socket, with mode 0600, and TCP if it is asked for.
    ///
    /// Must be called within a tokio runtime. The socket's directory must exist, and only we or root may write in it. A socket
    /// that a dead daemon left behind is replaced; beside it, `portward.lock` keeps a second daemon out.
    pub fn bind(socket: &Path, tcp: Option<&ApiTcp>) -> Result<Self, ApiError> {
        let (socket, unix) = Socket::bind(socket)?;
        let socket = Arc::new(socket);
        let socket_file = SocketFile(Arc::clone(&socket));
        let tcp = tcp.map(|tcp| Ok::<_, ApiError>((bind_tcp(tcp.listen)?, Rules::of(tcp)?)));
        Ok(Self { unix, tcp: tcp.transpose()?, socket_file, lock: socket })
    }

    /// A handle to make the socket again when its file is gone.
    pub fn socket(&self) -> Arc<Socket> {
        Arc::clone(&self.lock)
    }
}

/// Who may call over TCP.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) tokens: TokenFile,
    pub(super) hosts: Arc<[String]>,
    pub(super) cors_origins: Vec<String>,
}

impl Rules {
    fn of(tcp: &ApiTcp) -> Result<Self, TokenError> {
        Ok(Self {
            tokens: TokenFile::new(&tcp.token_file)?,
            hosts: tcp.hosts.as_slice().into(),
            cors_origins: tcp.cors_origins.clone(),
        })
    }
}

/// Ends the socket when it goes: its file is removed, and nobody is accepted any more.
#[derive(Debug)]
pub(super) struct SocketFile(Arc<Socket>);

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, ApiError> {
    // std sets SO_REUSEADDR: connections of an earlier daemon in TIME_WAIT do not matter.
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    bind().map_err(|source| ApiError::Tcp { address, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_goes_with_the_listeners() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("portward.sock");
        let listeners = Listeners::bind(&path, None).unwrap();
        assert!(path.exists());
        drop(listeners);
        assert!(!path.exists());
    }
}
