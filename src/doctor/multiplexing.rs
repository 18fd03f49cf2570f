//! Whether ssh can create its control sockets where portward tells it to.

use std::fs;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::fix::{Fix, path};
use super::process::Process;
use crate::paths;
use crate::protocol::doctor::Finding;
use crate::ssh::ControlDirectory;

/// What prevents ssh from creating its control sockets, in a directory beside the API's `socket`.
pub(super) fn finding(socket: &Path, process: &Process, fix: Fix) -> Option<Finding> {
    let control = paths::control_directory(socket);
    if let Err(too_long) = ControlDirectory::check_length(&control) {
        let why = "the ssh of every tunnel creates a socket there, and the path of a unix socket has at most 107 bytes";
        let line = "portward run --socket /tmp/portward/portward.sock";
        return Some(Finding::error(too_long.to_string(), why, line));
    }
    if control.exists()
        && let Err(unsafe_directory) = ControlDirectory::check_safety(&control, process.uid)
    {
        let owner = fix.as_root(&format!("chown {} {}", process.user(), path(&control)));
        let line = format!("{owner} && {}", fix.as_root(&format!("chmod 700 {}", path(&control))));
        let why = "portward does not start with such a directory";
        return Some(Finding::error(unsafe_directory.to_string(), why, line));
    }
    // The innermost directory that exists: the others are created by the daemon, or by systemd for it.
    let directory = control.ancestors().skip(1).find(|path| path.is_dir())?;
    let (operation, error) = try_in(directory).err()?;
    Some(match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Finding::warning(
            format!(
                "user {} may not create {} in {}",
                process.user(),
                control.display(),
                directory.display()
            ),
            "a daemon of this user would have no place for its sockets",
            format!("portward run --socket /tmp/portward-{}/portward.sock", process.uid),
        ),
        _ => Finding::error(
            format!("the file system of {} cannot {operation}: {error}", directory.display()),
            "ssh creates its control socket under another name and links it: no tunnel starts without that",
            "portward run --socket /run/portward/portward.sock  # a tmpfs, on most machines",
        ),
    })
}

/// Creates a socket and a link to it, as ssh does, and removes both. The error comes with the operation that failed.
fn try_in(directory: &Path) -> Result<(), (&'static str, io::Error)> {
    let socket = directory.join(format!(".doctor-{}", std::process::id()));
    let link = socket.with_extension("link");
    UnixListener::bind(&socket).map_err(|error| ("hold a unix socket", error))?;
    let linked = fs::hard_link(&socket, &link).map_err(|error| ("link to a unix socket", error));
    // The link may not exist, and nothing else can be done about the socket.
    let _ = (fs::remove_file(&socket), fs::remove_file(&link));
    linked
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustix::thread::{CapabilitySet, CapabilitySets};

    use super::super::process::tests::process;
    use super::*;
    use crate::protocol::doctor::Level;

    fn found(socket: &Path) -> Option<Finding> {
        let owner = nix::unistd::geteuid().as_raw();
        finding(socket, &process(owner, CapabilitySet::empty(), false), Fix { uid: 0 })
    }

    #[test]
    fn a_directory_that_takes_a_socket_is_left_unchanged() {
        let directory = tempfile::tempdir().unwrap();
        for socket in ["portward.sock", "created/by/systemd/portward.sock"] {
            assert_eq!(found(&directory.path().join(socket)), None);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_an_error() {
        let finding = found(&Path::new("/tmp").join("x".repeat(70)).join("portward.sock")).unwrap();
        assert_eq!(finding.level, Level::Error);
        assert!(finding.what.contains("too long"), "{finding:?}");
    }

    #[test]
    fn the_fix_closes_a_control_directory_that_is_open_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, control) = (directory.path().join("p.sock"), directory.path().join("p.ssh"));
        fs::create_dir(&control).unwrap();
        fs::set_permissions(&control, fs::Permissions::from_mode(0o755)).unwrap();
        let finding = found(&socket).unwrap();
        assert_eq!(finding.level, Level::Error);
        let line = finding.fix.unwrap();
        let ran = std::process::Command::new("/bin/sh").args(["-c", &line]).status().unwrap();
        assert!(ran.success(), "{line}");
        assert_eq!(found(&socket), None);
    }

    #[test]
    fn a_file_system_without_sockets_is_told_from_a_directory_that_may_not_be_written() {
        let finding = found(Path::new("/proc/self/portward.sock")).unwrap();
        assert!(
            finding.level == Level::Error && finding.what.contains("cannot hold a unix socket"),
            "{finding:?}"
        );
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o555)).unwrap();
        // Of this thread alone: root could write everywhere.
        let without_capabilities = || {
            let none = CapabilitySet::empty();
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            rustix::thread::set_capabilities(None, sets).unwrap();
            found(&directory.path().join("portward.sock")).unwrap()
        };
        let finding = std::thread::scope(|scope| scope.spawn(without_capabilities).join().unwrap());
        assert!(finding.level == Level::Warning && finding.what.contains("may not create"), "{finding:?}");
    }
}
