//! Programs that `integration-tests/run` installs from PyPI, for Debian has no packages of them.

use std::path::PathBuf;

/// Where the program `name` is.
///
/// # Panics
/// It is not installed.
pub fn tool(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    let program = target.expect("cargo's target directory").join("tools/bin").join(name);
    assert!(program.exists(), "{} is missing: integration-tests/run installs it", program.display());
    program
}
