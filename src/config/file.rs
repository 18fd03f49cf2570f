//! Reading the file, as a text of bounded size.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// A larger file is not a configuration.
const LARGEST_FILE: u64 = 1024 * 1024;

/// Why the file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refuses it.
    #[error("cannot read the configuration {path}: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A directory, a pipe or a device; reading it may never end.
    #[error("the configuration {path} is not a regular file", path = path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// It is larger than 1 MiB.
    #[error("the configuration {path} is larger than 1 MiB: is it the right file?", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not a text.
    #[error("the configuration {path} is not UTF-8 from byte {valid} on: save it as UTF-8", path = path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Number of bytes before the first wrong one.
        valid: usize,
    },
}

/// The text of `path`.
pub(super) fn read(path: &Path) -> Result<String, ReadError> {
    text(bytes(path)?, path)
}

/// The content of `path`, whatever it is.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, ReadError> {
    let unreadable = |source| ReadError::Unreadable { path: path.to_owned(), source };
    // Opening a pipe blocks until another process opens it for writing.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(ReadError::NotAFile { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST_FILE {
        Err(ReadError::TooLarge { path: path.to_owned() })
    } else {
        Ok(bytes)
    }
}

/// The text in `bytes`, the content of `path`.
pub(super) fn text(bytes: Vec<u8>, path: &Path) -> Result<String, ReadError> {
    String::from_utf8(bytes).map_err(|error| ReadError::NotUtf8 {
        path: path.to_owned(),
        valid: error.utf8_error().valid_up_to(),
    })
}
