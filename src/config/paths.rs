//! Paths as written in the configuration, made absolute.

use std::env;
use std::path::{Path, PathBuf};

use super::diagnose::{Refusal, quote};
use super::meant;

/// Expands `~/` to the home directory; what is relative is taken from `directory`, where the configuration lies.
pub(super) fn expand(text: &str, directory: &Path) -> Result<PathBuf, Refusal> {
    if text.is_empty() {
        return Err(Refusal::new("is an empty path").hint("give it a value or remove the line"));
    }
    if text.chars().any(char::is_control) {
        return Err(Refusal::new("is a path with a control character in it"));
    }
    meant::path(text)?;
    match text.strip_prefix('~') {
        None => Ok(directory.join(text)),
        Some(rest) => {
            match (rest.strip_prefix('/'), env::var_os("HOME")) {
                (Some(rest), Some(home)) if !home.is_empty() => Ok(Path::new(&home).join(rest)),
                (Some(_), _) => Err(Refusal::new(format!("{}: HOME is not set", quote(text)))
                    .hint("write the path from `/` on")),
                (None, _) => Err(Refusal::new(format!(
                    "{}: only your own home directory has a short form, `~/`",
                    quote(text)
                ))
                .hint("write the path from `/` on")),
            }
        }
    }
}

/// The same for a program: a name without a slash is left to be looked up in PATH.
pub(super) fn program(text: &str, directory: &Path) -> Result<PathBuf, Refusal> {
    if text.starts_with('-') {
        return Err(
            Refusal::new(format!("{} is not a program", quote(text))).hint("the first word is the program")
        );
    }
    meant::program(text)?;
    if text.contains('/') || text.is_empty() {
        return expand(text, directory);
    }
    expand(text, Path::new(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_are_taken_from_the_configuration() {
        let directory = Path::new("/etc/portward");
        assert_eq!(expand("token", directory).unwrap(), Path::new("/etc/portward/token"));
        assert_eq!(expand("/run/token", directory).unwrap(), Path::new("/run/token"));
        assert_eq!(program("./ssh", directory).unwrap(), Path::new("/etc/portward/./ssh"));
        assert_eq!(program("ssh", directory).unwrap(), Path::new("ssh"));
    }

    #[test]
    fn a_tilde_is_the_home_directory() {
        let home = PathBuf::from(env::var_os("HOME").unwrap());
        assert_eq!(expand("~/.ssh/id", Path::new("/etc")).unwrap(), home.join(".ssh/id"));
        assert!(expand("~root/.ssh/id", Path::new("/etc")).is_err());
    }
}
