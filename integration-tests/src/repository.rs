//! Files of the repository, which some tests compare with each other.

use std::fs;
use std::path::{Path, PathBuf};

/// Its root.
///
/// # Panics
/// It is gone.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The text of a file, by its path in the repository.
///
/// # Panics
/// It cannot be read.
pub fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files below `directory` of the repository with this extension: the path of each in there, and its text. In order.
///
/// # Panics
/// One of them cannot be read.
pub fn read_below(directory: &str, extension: &str) -> Vec<(String, String)> {
    let root = repository().join(directory);
    let mut files = Vec::new();
    collect(&root, Path::new(""), extension, &mut files);
    files.sort();
    files
}

fn collect(root: &Path, below: &Path, extension: &str, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(root.join(below)).unwrap().map(Result::unwrap) {
        let path = below.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            collect(root, &path, extension, files);
        } else if path.extension().is_some_and(|found| found == extension) {
            let name = path.to_str().unwrap().to_owned();
            files.push((name, fs::read_to_string(entry.path()).unwrap()));
        }
    }
}
