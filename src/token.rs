//! The bearer token of the API, and the file that holds it.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq;

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
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Token")
    }
}

impl Token {
    /// Reads the token from a file that only its owner may read.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
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

    /// Whether `given` is this token; takes the same time whatever it is.
    pub fn is(&self, given: &[u8]) -> bool {
        given.ct_eq(self.0.as_bytes()).into()
    }
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
    fn only_the_very_token_is_it() {
        let token = Token("s3cret".into());
        assert!(token.is(b"s3cret"));
        for wrong in [&b""[..], b"s3cre", b"s3cret2", b"S3cret"] {
            assert!(!token.is(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn debug_does_not_show_it() {
        assert_eq!(format!("{:?}", Token("s3cret".into())), "Token");
    }
}
