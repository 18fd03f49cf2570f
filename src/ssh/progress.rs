//! How far an ssh has come that is not ready yet, as /proc shows its process.

use std::fs;
use std::path::Path;

/// An argument that every ssh of ours has (`master`).
const OUR_ARGUMENT: &[u8] = b"ControlMaster=yes";

/// What OpenSSH's program and its variants are called, be it with a suffix (`ssh-9.9`) or a dot before it.
const SSH: [&str; 4] = ["ssh", "openssh", "hpnssh", "gsissh"];

/// The programs with which ssh speaks to a security key or a smart card. The kernel shows 15 letters of a name.
const TOKEN_HELPERS: [&str; 2] = ["ssh-sk-helper", "ssh-pkcs11-help"];

/// The longest protocol name of the kernel's has 31 letters.
const PROTOCOL_NAME: usize = 32;

/// What the process is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// It is not ssh, but this program.
    NotSsh(String),
    /// It is an ssh without portward's arguments.
    OtherArguments,
    /// It asks a security key or a smart card.
    Token,
    /// It has a connection and a unix socket open, as it has while it asks an agent.
    Agent,
    /// This child of it carries the connection.
    Carrier(String),
    /// It has a TCP socket.
    Tcp,
    /// It has no connection yet.
    Nothing,
    /// /proc does not show it.
    Unknown,
}

impl Progress {
    /// Of the process `pid`. Some ten system calls; none of them waits for anything.
    pub(super) fn of(pid: u32) -> Self {
        Self::look(&Path::new("/proc").join(pid.to_string())).unwrap_or(Self::Unknown)
    }

    fn look(process: &Path) -> Option<Self> {
        let executable = fs::read_link(process.join("exe")).ok()?;
        let name = executable.file_name()?.to_string_lossy();
        if !is_ssh(&name) {
            return Some(Self::NotSsh(name.into_owned()));
        }
        let arguments = fs::read(process.join("cmdline")).ok()?;
        if !arguments.split(|byte| *byte == 0).any(|argument| argument == OUR_ARGUMENT) {
            return Some(Self::OtherArguments);
        }
        let children = children(process);
        if children.iter().any(|name| TOKEN_HELPERS.contains(&name.as_str())) {
            return Some(Self::Token);
        }
        let sockets = sockets(process)?;
        let has = |protocol: &str| sockets.iter().any(|name| name.starts_with(protocol));
        let carrier = children.into_iter().next();
        // A ProxyCommand may be connected through a pair of unix sockets.
        Some(match carrier {
            _ if has("TCP") && has("UNIX") => Self::Agent,
            Some(name) => Self::Carrier(name),
            None if has("TCP") => Self::Tcp,
            None => Self::Nothing,
        })
    }
}

fn is_ssh(name: &str) -> bool {
    let mut words =
        name.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.next().is_some_and(|word| SSH.contains(&word))
}

/// The names of the children that the process's first thread has.
fn children(process: &Path) -> Vec<String> {
    let Some(pid) = process.file_name() else { return Vec::new() };
    let pids = fs::read_to_string(process.join("task").join(pid).join("children")).unwrap_or_default();
    let name = |pid: &str| {
        Some(fs::read_to_string(process.with_file_name(pid).join("comm")).ok()?.trim_end().to_owned())
    };
    pids.split_ascii_whitespace().filter_map(name).collect()
}

/// The protocols of its sockets, in the kernel's words: `TCP`, `TCPv6`, `UNIX-STREAM`.
fn sockets(process: &Path) -> Option<Vec<String>> {
    let descriptors = fs::read_dir(process.join("fd")).ok()?.flatten().map(|entry| entry.path());
    let protocol = |descriptor| {
        let mut name = [0; PROTOCOL_NAME];
        let length = rustix::fs::getxattr(descriptor, "system.sockprotoname", &mut name).ok()?;
        Some(String::from_utf8_lossy(name.get(..length)?).trim_end_matches('\0').to_owned())
    };
    Some(descriptors.filter_map(protocol).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_names_the_protocol_of_a_socket() {
        let _tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _pair = std::os::unix::net::UnixStream::pair().unwrap();
        let sockets = sockets(Path::new("/proc/self")).unwrap();
        assert!(sockets.iter().any(|name| name == "TCP"), "{sockets:?}");
        assert!(sockets.iter().any(|name| name.starts_with("UNIX")), "{sockets:?}");
    }

    #[test]
    fn a_program_that_starts_ssh_is_not_ssh() {
        assert!(["ssh", "ssh-9.9", ".ssh-wrapped", "ssh (deleted)"].into_iter().all(is_ssh));
        assert!(!["sshpass", "autossh", "dash", ""].into_iter().any(is_ssh));
    }

    #[test]
    fn what_is_not_ssh_and_what_is_gone_are_told_apart() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        // A name of busybox, say, is not what counts.
        assert!(matches!(Progress::of(pid), Progress::NotSsh(_)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(Progress::of(pid), Progress::Unknown);
    }
}
