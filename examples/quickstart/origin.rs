//! The web page at the far end, which only the tunnel leads to.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use hyper::Method;
use tokio::net::{TcpListener, TcpStream};

use crate::{Result, http};

/// What the origin serves.
pub(crate) const PAGE: &str = "<h1>This page came through an SSH tunnel that portward keeps up.</h1>\n";

/// Serves [`PAGE`] on a port of the kernel's choice until the program ends.
pub(crate) async fn serve() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let pages = Router::new().route("/", get(async || PAGE));
    tokio::spawn(axum::serve(listener, pages).into_future());
    Ok(address)
}

/// Fetches the page through the tunnel that listens on `port`.
pub(crate) async fn fetch_through(port: u16) -> Result<()> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let (status, body) = http::exchange(stream, Method::GET, "/").await?;
    if !status.is_success() || body != PAGE {
        return Err(format!("port {port} answered {status} with {} bytes of another page", body.len()).into());
    }
    Ok(())
}
