//! Resolves a path step by step through directories and symbolic links.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows.
const LINKS_AT_MOST: usize = 40;

/// A name looked up in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// The directory, without links in it.
    pub(super) directory: PathBuf,
    /// The name in it.
    pub(super) name: OsString,
}

impl Step {
    /// The path of what is looked up.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }
}

/// The lookups by which `path` (absolute) is found, whose change could make it lead elsewhere: those that end at the
/// file, at a link, or at nothing yet.
///
/// A directory that is replaced reports that itself. Directories above it are left out, because notify also reports every file that
/// is opened in a directory, and `/etc`, `/tmp` or a home directory are busy. So the renaming of one of those is not noticed.
pub(super) fn of(path: &Path) -> Vec<Step> {
    let mut pending: VecDeque<OsString> = names(path).collect();
    let mut directory = PathBuf::from("/");
    let mut links = 0;
    // Each step, and whether it matters for itself.
    let mut steps: Vec<(Step, bool)> = Vec::new();
    while let Some(name) = pending.pop_front() {
        if name == ".." {
            directory.pop();
            continue;
        }
        let step = Step { directory: directory.clone(), name };
        let found = step.path();
        let is_last = pending.is_empty();
        match found.symlink_metadata() {
            Ok(metadata) if metadata.is_symlink() && links < LINKS_AT_MOST => {
                links += 1;
                steps.push((step, true));
                let target = found.read_link().unwrap_or_default();
                if target.is_absolute() {
                    directory = PathBuf::from("/");
                }
                for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                    pending.push_front(name);
                }
            }
            Ok(_) => {
                steps.push((step, is_last));
                directory = found;
            }
            Err(_) => {
                steps.push((step, true));
                break;
            }
        }
    }
    steps.into_iter().filter(|(_, matters)| *matters).map(|(step, _)| step).collect()
}

fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// The trail of `path`, as paths below `root`.
    fn trail(root: &Path, path: &str) -> Vec<String> {
        of(&root.join(path))
            .iter()
            .filter_map(|step| Some(step.path().strip_prefix(root).ok()?.to_string_lossy().into_owned()))
            .collect()
    }

    fn root() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().canonicalize().unwrap();
        (root, path)
    }

    #[test]
    fn a_plain_file_has_its_directory_alone() {
        let (_guard, root) = root();
        fs::create_dir_all(root.join("above/etc")).unwrap();
        fs::write(root.join("above/etc/config.yaml"), "").unwrap();
        assert_eq!(trail(&root, "above/etc/config.yaml"), ["above/etc/config.yaml"]);
    }

    #[test]
    fn a_file_of_kubernetes_has_every_link() {
        let (_guard, root) = root();
        fs::create_dir_all(root.join("etc/..1")).unwrap();
        fs::write(root.join("etc/..1/config.yaml"), "").unwrap();
        symlink("..1", root.join("etc/..data")).unwrap();
        symlink("..data/config.yaml", root.join("etc/config.yaml")).unwrap();
        assert_eq!(trail(&root, "etc/config.yaml"), ["etc/config.yaml", "etc/..data", "etc/..1/config.yaml"]);
    }

    #[test]
    fn a_missing_directory_ends_the_trail() {
        let (_guard, root) = root();
        fs::create_dir_all(root.join("above")).unwrap();
        assert_eq!(trail(&root, "above/etc/config.yaml"), ["above/etc"]);
    }

    #[test]
    fn links_in_a_circle_end() {
        let (_guard, root) = root();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        assert!(trail(&root, "a").len() <= LINKS_AT_MOST + 2);
    }
}
