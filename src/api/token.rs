//! Lets through TCP clients that send a bearer token. The file of the tokens is read for every request, so that a new one counts from
//! the next request on, and the old one does not.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::refusal::Refusal;
use crate::token::{TokenError, Tokens};

/// The file with the tokens.
#[derive(Debug, Clone)]
pub(super) struct TokenFile {
    path: Arc<Path>,
    /// Why the file gave no token the last time; what the log has told.
    told: Arc<Mutex<Option<String>>>,
}

impl TokenFile {
    /// The file `path`, which must hold a token now.
    pub(super) fn new(path: &Path) -> Result<Self, TokenError> {
        Tokens::read(path)?;
        Ok(Self { path: path.into(), told: Arc::default() })
    }

    /// Today's tokens. Without any nobody is let through, and the log tells why, once.
    fn tokens(&self) -> Option<Tokens> {
        let (tokens, why) = match Tokens::read(&self.path) {
            Ok(tokens) => (Some(tokens), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != why {
            if let Some(why) = &why {
                tracing::error!("no request over TCP is let through: {why}");
            } else {
                tracing::info!("the API's token file {} holds a token again", self.path.display());
            }
            *told = why;
        }
        tokens
    }
}

/// Middleware: lets through who has a token.
pub(super) async fn require(State(file): State<TokenFile>, request: Request, next: Next) -> Response {
    // A request without any costs no look at the file.
    let is_right = request.headers().contains_key(AUTHORIZATION)
        && file.tokens().is_some_and(|tokens| sends(&request, &tokens));
    if is_right { next.run(request).await } else { Refusal::unauthorized().into_response() }
}

fn sends(request: &Request, tokens: &Tokens) -> bool {
    let Some(value) = request.headers().get(AUTHORIZATION) else { return false };
    let Some((scheme, given)) = value.as_bytes().split_at_checked("Bearer ".len()) else { return false };
    scheme.eq_ignore_ascii_case(b"Bearer ") && tokens.has(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_request_with_the_very_token_is_let_through() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s3cret").unwrap();
        let tokens = TokenFile::new(file.path()).unwrap().tokens().unwrap();
        let is_let_through = |value: &str| {
            let request = Request::builder().header(AUTHORIZATION, value).body(axum::body::Body::empty());
            sends(&request.unwrap(), &tokens)
        };
        assert!(is_let_through("Bearer s3cret"));
        assert!(is_let_through("bearer s3cret"));
        for wrong in ["", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "s3cret"] {
            assert!(!is_let_through(wrong), "{wrong}");
        }
        assert!(!sends(&Request::new(axum::body::Body::empty()), &tokens));
    }
}
