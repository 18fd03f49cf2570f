//! Paths as written in the configuration, made absolute.

use std::path::{Path, PathBuf};

use super::diagnose::{Refusal, quote};
use super::meant;

/// What relative paths are resolved against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Base<'b> {
    /// The directory of the configuration; absolute.
    pub(super) directory: &'b Path,
    /// The home directory of the user that portward runs as, if it has one.
    pub(super) home: Option<&'b Path>,
}

/// Expands `~/` to the home directory, and resolves relative paths against the directory of the configuration.
pub(super) fn expand(text: &str, base: Base<'_>) -> Result<PathBuf, Refusal> {
    if text.is_empty() {
        return Err(Refusal::new("is an empty path").hint("give it a value or remove the line"));
    }
    if text.chars().any(char::is_control) {
        return Err(Refusal::new("is a path with a control character in it"));
    }
    meant::path(text)?;
    match text.strip_prefix('~') {
        None => Ok(base.directory.join(text)),
        Some(rest) => match (rest.strip_prefix('/'), base.home) {
            (Some(rest), Some(home)) => Ok(home.join(rest)),
            (Some(_), None) => Err(Refusal::new(format!(
                "{}: HOME is not set, and the user has no home directory in the passwd database",
                quote(text)
            ))
            .hint("write the path from `/` on")),
            (None, _) => Err(Refusal::new(format!(
                "{}: only your own home directory has a short form, `~/`",
                quote(text)
            ))
            .hint("write the path from `/` on")),
        },
    }
}

/// The same for a program: a name without a slash is left to be looked up in PATH.
pub(super) fn program(text: &str, base: Base<'_>) -> Result<PathBuf, Refusal> {
    if text.starts_with('-') {
        return Err(
            Refusal::new(format!("{} is not a program", quote(text))).hint("the first word is the program")
        );
    }
    meant::program(text)?;
    if text.contains('/') || text.is_empty() {
        return expand(text, base);
    }
    expand(text, Base { directory: Path::new(""), ..base })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Base<'static> {
        Base { directory: Path::new("/etc/portward"), home: Some(Path::new("/home/alice")) }
    }

    #[test]
    fn relative_paths_are_taken_from_the_configuration() {
        assert_eq!(expand("token", base()).unwrap(), Path::new("/etc/portward/token"));
        assert_eq!(expand("/run/token", base()).unwrap(), Path::new("/run/token"));
        assert_eq!(program("./ssh", base()).unwrap(), Path::new("/etc/portward/./ssh"));
        assert_eq!(program("ssh", base()).unwrap(), Path::new("ssh"));
    }

    #[test]
    fn a_tilde_is_the_home_directory() {
        assert_eq!(expand("~/.ssh/id", base()).unwrap(), Path::new("/home/alice/.ssh/id"));
        assert_eq!(program("~/bin/ssh", base()).unwrap(), Path::new("/home/alice/bin/ssh"));
        assert!(expand("~root/.ssh/id", base()).is_err());
        assert!(expand("~/.ssh/id", Base { home: None, ..base() }).is_err());
    }
}
