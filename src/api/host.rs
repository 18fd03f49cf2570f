//! Refuses TCP clients that ask for another machine by name. A web page can have its own name resolve to this machine (DNS
//! rebinding), and what a browser then sends still bears that name.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::refusal::Refusal;
use crate::text;

/// Bytes of a wrong host that are repeated.
const QUOTED: usize = 80;

/// Middleware: lets through who asks for an IP address, which no page can have resolve to another one, for `localhost`, for one of
/// `names`, or, as HTTP/1.0 allows, for no host at all. No browser leaves it out.
pub(super) async fn check(State(ours): State<Arc<[String]>>, request: Request, next: Next) -> Response {
    let named = request.headers().get_all(HOST).into_iter().map(HeaderValue::as_bytes);
    let in_uri = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let Some(wrong) = named.chain(in_uri).find(|host| !is_ours(host, &ours)) else {
        return next.run(request).await;
    };
    let error = format!(
        "this API is not for requests to `{}`: name it by its IP address or as localhost, as in http://127.0.0.1:8080/status, or add the name to `api.hosts`",
        text::excerpt(&String::from_utf8_lossy(wrong), QUOTED)
    );
    Refusal::new(StatusCode::FORBIDDEN, error).into_response()
}

/// Whether `host`, with a port or without, is `localhost`, an IP address or one of `names`.
fn is_ours(host: &[u8], names: &[String]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let name =
        host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(name, _)| name);
    if let Some(address) = name.strip_prefix('[').and_then(|address| address.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let is_called = |ours: &str| name.eq_ignore_ascii_case(ours);
    is_called("localhost") || name.parse::<Ipv4Addr>().is_ok() || names.iter().any(|ours| is_called(ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec!["panel.example".to_owned()]
    }

    #[test]
    fn addresses_localhost_and_names_of_the_configuration_are_ours_with_a_port_or_without() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "[::1]",
            "192.0.2.1:80",
            "localhost",
            "LocalHost:1",
            "panel.example",
            "Panel.Example:8080",
        ] {
            assert!(is_ours(host.as_bytes(), &names()), "{host}");
        }
    }

    #[test]
    fn names_and_what_only_looks_like_an_address_are_not() {
        for host in [
            "",
            "rebound.example",
            "rebound.example:8080",
            "localhost.rebound.example",
            "x.panel.example",
            "panel.example.",
            "127.0.0.1.rebound.example",
            "127.0.0.1@rebound.example",
            "user@127.0.0.1",
            "127.1",
            "127.0.0.1:",
            "127.0.0.1:80:80",
            "2130706433",
            "::1",
            "[::1].rebound.example",
            "localhost,rebound.example",
            "rebound.example localhost",
        ] {
            assert!(!is_ours(host.as_bytes(), &names()), "{host}");
        }
        assert!(!is_ours(b"\xff", &names()));
    }
}
