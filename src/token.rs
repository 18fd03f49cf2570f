//! The bearer tokens of the API, and the file that holds them.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use subtle::{Choice, ConstantTimeEq};

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
        "the API's token file {} must hold a token, or several on lines of their own, each one word of visible ASCII: `openssl rand -hex 32 > {}`",
        path.display(),
        path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
    },
}

/// The tokens, at least one. They are never shown.
pub struct Tokens(Vec<String>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Tokens")
    }
}

impl Tokens {
    /// Reads the tokens, one a line, from a file that only its owner may read.
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
        let tokens = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned);
        let tokens: Vec<String> = tokens.collect();
        let is_word = |token: &String| token.bytes().all(|letter| letter.is_ascii_graphic());
        if tokens.is_empty() || text.len() as u64 > LONGEST || !tokens.iter().all(is_word) {
            return Err(TokenError::Unusable { path: path.to_owned() });
        }
        Ok(Self(tokens))
    }

    /// Whether `given` is one of them; takes the same time whatever it is.
    pub fn has(&self, given: &[u8]) -> bool {
        let is_one = |found: Choice, token: &String| found | given.ct_eq(token.as_bytes());
        self.0.iter().fold(Choice::from(0), is_one).into()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read(content: &str, mode: u32) -> Result<Tokens, TokenError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
        Tokens::read(file.path())
    }

    #[test]
    fn a_private_file_with_one_word_is_a_token() {
        for mode in [0o600, 0o400] {
            assert_eq!(read("s3cret\n", mode).unwrap().0, ["s3cret"]);
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
        for content in ["", " \n", "two words", "caf\u{e9}", "a\nb c", &"x".repeat(5000)] {
            assert!(matches!(read(content, 0o600), Err(TokenError::Unusable { .. })), "{content:?}");
        }
        assert!(matches!(Tokens::read(Path::new("/nonexistent")), Err(TokenError::Read { .. })));
    }

    #[test]
    fn each_line_is_a_token_and_nothing_else_is() {
        let tokens = read("s3cret\n\n  other\r\n", 0o600).unwrap();
        assert!(tokens.has(b"s3cret") && tokens.has(b"other"));
        for wrong in [&b""[..], b"s3cre", b"s3cret2", b"S3cret", b"s3cret\n\n  other", b"othe"] {
            assert!(!tokens.has(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn debug_does_not_show_them() {
        assert_eq!(format!("{:?}", read("s3cret", 0o600).unwrap()), "Tokens");
    }
}
