//! Programs that `integration-tests/run` installs from PyPI, for Debian has no packages of them.

use std::path::PathBuf;

/// Where the program `name` is.
///
/// # Panics
/// It is not installed.
pub fn tool(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let places = test.ancestors().map(|folder| folder.join("tools/bin").join(name));
    let program = places.into_iter().find(|program| program.exists());
    program.unwrap_or_else(|| {
        panic!("{name} is missing: integration-tests/run installs it into the target directory")
    })
}
