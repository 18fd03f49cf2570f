//! The least of an HTTP client: one request on one connection, over whatever stream it is handed.

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::Result;

/// Sends a request and returns with the head of the answer; the body is still to come.
pub(crate) async fn open<S>(stream: S, method: Method, path: &str) -> Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends when the body has been read or dropped; what goes wrong on the way shows in the body.
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?)
}

/// Sends a request and reads the whole answer.
pub(crate) async fn exchange<S>(stream: S, method: Method, path: &str) -> Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let response = open(stream, method, path).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}
