//! The bearer token that TCP clients must send. Its file is read for every request, so that a new token counts from the next
//! request on, and the old one does not.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::refusal::Refusal;
use crate::access::{self, Insecure, Rule};

/// More than this is no token but the wrong file.
const LONGEST: u64 = 4096;

/// Why a file gives no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("cannot read the API's token file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read it.
    #[error(
        "the API's token file {} has mode {mode:04o}, so others can read it: `chmod 600 {}`, and write a new token",
        path.display(),
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds nothing, or what cannot be sent in a header.
    #[error(
        "the API's token file {} must hold one word of visible ASCII: `openssl rand -hex 32 > {}`",
        path.display(),
        path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
    },
}

/// The token. It is never shown.
struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Token")
    }
}

impl Token {
    /// Reads the token from a file that only its owner may read.
    fn read(path: &Path) -> Result<Self, TokenError> {
        let error = |source| TokenError::Read { path: path.to_owned(), source };
        // A FIFO in its place would block the open for ever.
        let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(error)?;
        // Of the open file, not of the path: they may differ by now.
        let metadata = file.metadata().map_err(error)?;
        access::check(&metadata, Rule::Private)
            .map_err(|Insecure { mode, .. }| TokenError::Exposed { path: path.to_owned(), mode })?;
        let mut text = String::new();
        file.take(LONGEST + 1).read_to_string(&mut text).map_err(error)?;
        let token = text.trim();
        let is_usable = !token.is_empty()
            && text.len() as u64 <= LONGEST
            && token.bytes().all(|letter| letter.is_ascii_graphic());
        if !is_usable {
            return Err(TokenError::Unusable { path: path.to_owned() });
        }
        Ok(Self(token.to_owned()))
    }

    fn is_in(&self, request: &Request) -> bool {
        let Some(value) = request.headers().get(AUTHORIZATION) else { return false };
        let Some((scheme, given)) = value.as_bytes().split_at_checked("Bearer ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(given.ct_eq(self.0.as_bytes()))
    }
}

/// Whether `path` gives a token.
pub(crate) fn check_token(path: &Path) -> Result<(), TokenError> {
    Token::read(path).map(drop)
}

/// The file with the token.
#[derive(Debug, Clone)]
pub(super) struct TokenFile {
    path: Arc<Path>,
    /// Why the file gave no token the last time; what the log has told.
    told: Arc<Mutex<Option<String>>>,
}

impl TokenFile {
    /// The file `path`, which must hold a token now.
    pub(super) fn new(path: &Path) -> Result<Self, TokenError> {
        check_token(path)?;
        Ok(Self { path: path.into(), told: Arc::default() })
    }

    /// Today's token. Without one nobody is let through, and the log tells why, once.
    fn token(&self) -> Option<Token> {
        let (token, why) = match Token::read(&self.path) {
            Ok(token) => (Some(token), None),
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
        token
    }
}

/// Middleware: lets through who has the token.
pub(super) async fn require(State(file): State<TokenFile>, request: Request, next: Next) -> Response {
    // A request without any costs no look at the file.
    let is_right = request.headers().contains_key(AUTHORIZATION)
        && file.token().is_some_and(|token| token.is_in(&request));
    if is_right { next.run(request).await } else { Refusal::unauthorized().into_response() }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read(content: &str, mode: u32) -> Result<Token, TokenError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
        Token::read(file.path())
    }

    #[test]
    fn a_private_file_with_one_word_is_a_token() {
        for mode in [0o600, 0o400] {
            assert_eq!(read("s3cret\n", mode).unwrap().0, "s3cret");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        for mode in [0o640, 0o604, 0o666, 0o610] {
            assert!(
                matches!(read("s3cret", mode), Err(TokenError::Exposed { mode: told, .. }) if told == mode)
            );
        }
    }

    #[test]
    fn an_empty_or_odd_file_is_refused() {
        for content in ["", " \n", "two words", "caf\u{e9}", "a\nb", &"x".repeat(5000)] {
            assert!(matches!(read(content, 0o600), Err(TokenError::Unusable { .. })), "{content:?}");
        }
        assert!(matches!(Token::read(Path::new("/nonexistent")), Err(TokenError::Read { .. })));
    }

    #[test]
    fn only_the_very_token_is_let_through() {
        let token = Token("s3cret".into());
        let is_in = |value: &str| {
            let request = Request::builder().header(AUTHORIZATION, value).body(axum::body::Body::empty());
            token.is_in(&request.unwrap())
        };
        assert!(is_in("Bearer s3cret"));
        assert!(is_in("bearer s3cret"));
        for wrong in ["", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "s3cret"] {
            assert!(!is_in(wrong), "{wrong}");
        }
        assert!(!token.is_in(&Request::new(axum::body::Body::empty())));
    }

    #[test]
    fn debug_does_not_show_it() {
        assert_eq!(format!("{:?}", Token("s3cret".into())), "Token");
    }
}
