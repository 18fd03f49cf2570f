//! Whether ssh can make its control socket where portward tells it to.

use std::fs;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::finding::{Check, Finding};
use super::judged::{By, Judged};
use super::mend::{Mend, path};
use crate::paths;
use crate::ssh::ControlDirectory;

/// How far a trial came.
#[derive(Debug)]
enum Trial {
    /// A socket was made as ssh makes it.
    Worked,
    /// This user may not write there.
    NotAllowed,
    /// The file system cannot.
    Failed { doing: &'static str, source: io::Error },
}

/// Judges the place of the control sockets, which is beside the API's `socket`.
pub(super) fn judge(socket: &Path, judged: &Judged, mend: Mend) -> Vec<Finding> {
    let control = paths::control_directory(socket);
    let error =
        |what: String, why: &str, line: String| vec![Finding::error(Check::Multiplexing, what, why, line)];
    if let Err(too_long) = ControlDirectory::check_length(&control) {
        let why = "every tunnel's ssh makes a socket there, and a unix socket's path has at most 107 bytes";
        return error(
            too_long.to_string(),
            why,
            "portward run --socket /tmp/portward/portward.sock".to_owned(),
        );
    }
    if let Err(unsafe_directory) = ControlDirectory::check_safety(&control, judged.uid)
        && control.exists()
    {
        let owner = mend.as_root(&format!("chown {} {}", judged.user(), path(&control)));
        let line = format!("{owner} && {}", mend.as_root(&format!("chmod 700 {}", path(&control))));
        return error(unsafe_directory.to_string(), "portward does not start with such a directory", line);
    }
    let Some(directory) = existing(&control) else {
        return Vec::new();
    };
    let place = directory.display();
    vec![match try_in(&directory) {
        Trial::Worked => Finding::ok(
            Check::Multiplexing,
            format!("ssh can make its control sockets in {}", control.display()),
        ),
        Trial::NotAllowed if judged.by == By::Ourselves => Finding::warning(
            Check::Multiplexing,
            format!("you may not make {} in {place}", control.display()),
            "a daemon of yours would have no place for its sockets",
            format!("portward run --socket /tmp/portward-{}/portward.sock", judged.uid),
        ),
        Trial::NotAllowed => Finding::ok(
            Check::Multiplexing,
            format!("not tried: {place} is not yours to write in; {judged} makes its sockets there"),
        ),
        Trial::Failed { doing, source } => Finding::error(
            Check::Multiplexing,
            format!("the file system of {place} cannot {doing}: {source}"),
            "ssh makes its control socket under another name and links it to its own: without that no tunnel starts",
            "portward run --socket /run/portward/portward.sock  # a tmpfs, on most machines",
        ),
    }]
}

/// The innermost directory on the way to `control` that is there: the others are made by the daemon, or by systemd for it.
fn existing(control: &Path) -> Option<PathBuf> {
    control.ancestors().skip(1).find(|path| path.is_dir()).map(Path::to_owned)
}

/// Makes a socket and a link to it, as ssh does, and removes both.
fn try_in(directory: &Path) -> Trial {
    let made = directory.join(format!(".doctor-{}", std::process::id()));
    let linked = made.with_extension("link");
    let trial = match UnixListener::bind(&made) {
        Ok(_) => match fs::hard_link(&made, &linked) {
            Ok(()) => Trial::Worked,
            Err(source) => Trial::Failed { doing: "link to a unix socket", source },
        },
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            return Trial::NotAllowed;
        }
        Err(source) => return Trial::Failed { doing: "hold a unix socket", source },
    };
    for file in [&made, &linked] {
        // One of them may not be there; nothing else can be done about the other.
        let _ = fs::remove_file(file);
    }
    trial
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustix::thread::{CapabilitySet, CapabilitySets};

    use super::super::finding::Level;
    use super::super::judged::tests::judged;
    use super::*;

    const MEND: Mend = Mend { uid: 0 };

    fn judge_in(socket: &Path) -> Finding {
        let owner = nix::unistd::geteuid().as_raw();
        judge(socket, &judged(owner, CapabilitySet::empty(), false), MEND).swap_remove(0)
    }

    #[test]
    fn a_directory_that_takes_a_socket_is_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        for socket in ["portward.sock", "made/by/systemd/portward.sock"] {
            let finding = judge_in(&directory.path().join(socket));
            assert_eq!(finding.level, Level::Ok, "{finding:?}");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_an_error() {
        let finding = judge_in(&Path::new("/tmp").join("x".repeat(70)).join("portward.sock"));
        assert_eq!(finding.level, Level::Error);
        assert!(finding.what.contains("too long"), "{finding:?}");
    }

    #[test]
    fn a_control_directory_open_to_others_is_an_error_and_the_line_mends_it() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, control) = (directory.path().join("p.sock"), directory.path().join("p.ssh"));
        fs::create_dir(&control).unwrap();
        fs::set_permissions(&control, fs::Permissions::from_mode(0o755)).unwrap();
        let finding = judge_in(&socket);
        assert_eq!(finding.level, Level::Error);
        let line = finding.mend.unwrap();
        let ran = std::process::Command::new("/bin/sh").args(["-c", &line]).status().unwrap();
        assert!(ran.success(), "{line}");
        assert_eq!(judge_in(&socket).level, Level::Ok);
    }

    #[test]
    fn a_file_system_without_sockets_is_told_from_a_directory_that_may_not_be_written() {
        assert!(matches!(try_in(Path::new("/proc/self")), Trial::Failed { doing: "hold a unix socket", .. }));
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o555)).unwrap();
        // Of this thread alone: root could write everywhere.
        let without_capabilities = || {
            let none = CapabilitySet::empty();
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            rustix::thread::set_capabilities(None, sets).unwrap();
            try_in(directory.path())
        };
        let trial = std::thread::scope(|scope| scope.spawn(without_capabilities).join().unwrap());
        assert!(matches!(trial, Trial::NotAllowed), "{trial:?}");
    }
}
