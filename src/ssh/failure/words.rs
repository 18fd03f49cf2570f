//! OpenSSH's own lines, and what each of them means.
//!
//! Every pattern begins at the start of the line and follows the format in OpenSSH's sources (ssh.c, sshconnect.c,
//! sshconnect2.c, readconf.c, packet.c, kex.c, clientloop.c). Other lines are those of a server's banner, of a ProxyCommand or
//! of a wrapper. A banner may imitate any line; but the last line of an ssh that ends by itself is always its own.

/// What a line of OpenSSH means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Saying<'line> {
    /// ssh does not take its arguments or its configuration; it says so before it connects to anybody.
    Settings,
    /// The user that ssh runs as has no entry in the passwd database.
    NoUser,
    /// The name of the host does not resolve.
    Unresolved,
    /// No TCP connection was made, for this reason.
    Unconnected(&'line str),
    /// The server and this ssh have no algorithm in common.
    Negotiation,
    /// The host key is unknown, changed or revoked.
    HostKey,
    /// The server refuses the login; these are the methods that it would take.
    Denied(&'line str),
    /// The server ended the connection with this code (RFC 4253, 11.1) and this reason.
    Disconnected(&'line str, &'line str),
    /// The server of a jump host does not connect to where it was asked to, for this reason.
    NoChannel(&'line str),
    /// Nothing came from the other side for too long.
    TimedOut,
    /// The connection broke.
    Lost,
    /// The connection ended before the server said who it is. A process in between may have printed the reason.
    Unidentified,
    /// The process that carries the connection (ProxyCommand, or the ssh of ProxyJump) ended, or the server did.
    CarrierEnded,
    /// The connection ended as the line before says.
    Consequence,
}

impl Saying<'_> {
    /// Whether it can be said of a connection that stood: nothing of how one is made.
    pub(super) const fn can_end_a_connection(self) -> bool {
        match self {
            Self::Disconnected(..)
            | Self::TimedOut
            | Self::Lost
            | Self::CarrierEnded
            | Self::Consequence
            | Self::HostKey => true,
            Self::Settings
            | Self::NoUser
            | Self::Unresolved
            | Self::Unconnected(_)
            | Self::Negotiation
            | Self::Denied(_)
            | Self::NoChannel(_)
            | Self::Unidentified => false,
        }
    }
}

/// Lines of which everything is fixed, or all but what follows.
const STARTS: &[(&str, Saying<'static>)] = &[
    ("Host key verification failed.", Saying::HostKey),
    ("Server host key ", Saying::HostKey),
    ("No user exists for uid ", Saying::NoUser),
    ("You don't exist, go away!", Saying::NoUser),
    ("Unable to negotiate with ", Saying::Negotiation),
    ("Authentication failed.", Saying::Denied("")),
    ("Disconnected from ", Saying::Consequence),
    ("Timeout, server ", Saying::TimedOut),
    ("kex_exchange_identification: ", Saying::Unidentified),
    ("ssh_exchange_identification: ", Saying::Unidentified),
    ("banner exchange: Connection to ", Saying::Unidentified),
    ("Connection timed out during banner exchange", Saying::Unidentified),
    ("stdio forwarding failed", Saying::Unidentified),
    ("Connection closed by UNKNOWN port ", Saying::CarrierEnded),
    ("Connection reset by UNKNOWN port ", Saying::CarrierEnded),
    ("Connection to UNKNOWN port ", Saying::CarrierEnded),
    ("ssh_dispatch_run_fatal: Connection to UNKNOWN port ", Saying::CarrierEnded),
    ("Connection closed by ", Saying::Lost),
    ("Connection reset by ", Saying::Lost),
    ("Disconnecting ", Saying::Lost),
    ("client_loop: ", Saying::Lost),
    ("packet_write_wait: ", Saying::Lost),
    ("ssh_packet_write_poll: ", Saying::Lost),
    ("ssh_dispatch_run_fatal: ", Saying::Lost),
    ("Read from remote host ", Saying::Lost),
    ("Write failed: ", Saying::Lost),
    ("Bad packet length ", Saying::Lost),
    ("Corrupted MAC on input", Saying::Lost),
    ("Can't open user config file ", Saying::Settings),
    ("Bad owner or permissions on ", Saying::Settings),
    ("usage: ssh ", Saying::Settings),
    ("unknown option -- ", Saying::Settings),
    ("ssh: illegal option -- ", Saying::Settings),
    ("ssh: invalid option -- ", Saying::Settings),
    ("jumphost loop via ", Saying::Settings),
    ("inconsistent options: ProxyCommand+ProxyJump", Saying::Settings),
    ("ProxyCommand=- and ProxyUseFDPass are incompatible", Saying::Settings),
    ("hostname contains invalid characters", Saying::Settings),
    ("remote username contains invalid characters", Saying::Settings),
    ("Too many recursive configuration includes", Saying::Settings),
    ("Too many identity files specified ", Saying::Settings),
    ("Too many certificate files specified ", Saying::Settings),
    ("Identity file path ", Saying::Settings),
    ("Invalid UserKnownHostsFiles: ", Saying::Settings),
    ("Invalid GlobalKnownHostsFiles: ", Saying::Settings),
    ("Invalid number of ConnectionAttempts", Saying::Settings),
    ("Invalid config SetEnv: ", Saying::Settings),
    ("Host directive not supported as a command-line ", Saying::Settings),
    ("Match directive not supported as a command-line ", Saying::Settings),
    ("Include directive not supported as a command-line ", Saying::Settings),
    ("Cannot execute command-line and remote command.", Saying::Settings),
    ("percent_expand: ", Saying::Settings),
    ("percent_dollar_expand: ", Saying::Settings),
    ("vdollar_percent_expand: unknown key ", Saying::Settings),
];

/// Beginnings of lines that do not explain an end. The last of them is what the ssh of a ProxyJump says when the one that
/// it serves ends it.
const NOISE: [&str; 9] = [
    "debug1: ",
    "debug2: ",
    "debug3: ",
    "Warning: Permanently added ",
    "** ",
    "Pseudo-terminal will not be allocated ",
    "Warning: No xauth data",
    "Warning: Identity file ",
    "Killed by signal ",
];

/// What `line` means, if it is a line of OpenSSH that explains an end.
pub(super) fn read(line: &str) -> Option<Saying<'_>> {
    if let Some(methods) = denied(line) {
        return Some(Saying::Denied(methods));
    }
    if let Some(rest) = line.strip_prefix("ssh: connect to host ") {
        // `db port 22: Connection refused`
        let (_, reason) = rest.split_once(" port ")?.1.split_once(": ")?;
        return Some(Saying::Unconnected(reason));
    }
    if let Some(rest) = line.strip_prefix("Received disconnect from ") {
        // `10.0.0.1 port 22:2: Too many authentication failures`
        let (code, reason) = rest.split_once(" port ")?.1.split_once(':')?.1.split_once(": ")?;
        return Some(Saying::Disconnected(code, reason));
    }
    if let Some(rest) = line.strip_prefix("channel 0: open failed: ") {
        return Some(Saying::NoChannel(rest));
    }
    if line.starts_with("ssh: Could not resolve hostname ") {
        return Some(Saying::Unresolved);
    }
    if is_about_a_file(line) {
        return Some(Saying::Settings);
    }
    if let Some((_, saying)) = STARTS.iter().find(|(start, _)| line.starts_with(start)) {
        return Some(*saying);
    }
    let rest = line.strip_prefix("Connection to ")?;
    if rest.ends_with(" timed out") {
        Some(Saying::TimedOut)
    } else if rest.ends_with(" closed by remote host.") || rest.ends_with(" closed.") {
        Some(Saying::Lost)
    } else {
        None
    }
}

/// Whether `line` does not explain an end.
pub(super) fn is_noise(line: &str) -> bool {
    line.trim().is_empty()
        || NOISE.iter().any(|start| line.starts_with(start))
        || at_line_of_file(line).is_some_and(|(_, complaint)| is_ignored_option(complaint))
}

/// Whether `line` is one of a debug log, which may be long.
pub fn is_debug(line: &str) -> bool {
    NOISE[..3].iter().any(|start| line.starts_with(start))
}

/// The methods in `user@host: Permission denied (publickey,password).`
fn denied(line: &str) -> Option<&str> {
    let (who, methods) = line.strip_suffix(").")?.split_once("Permission denied (")?;
    let is_user_at_host = |who: &str| who.contains('@') && !who.contains(char::is_whitespace);
    // Before OpenSSH 7.5 the line named no user.
    (who.is_empty() || who.strip_suffix(": ").is_some_and(is_user_at_host)).then_some(methods)
}

/// Whether ssh complains of a configuration file, or of the options on its command line.
fn is_about_a_file(line: &str) -> bool {
    if let Some((file, rest)) = line.split_once(": terminating, ") {
        return is_file(file) && rest.ends_with(" bad configuration options");
    }
    at_line_of_file(line).is_some_and(|(file, complaint)| match file.strip_suffix(':') {
        // A shell complains like this of a missing program.
        Some(_) => complaint.starts_with("Bad configuration option: "),
        None => !is_ignored_option(complaint),
    })
}

/// The file and the complaint in `/etc/ssh/ssh_config line 3: invalid quotes`, or with a colon after the file.
fn at_line_of_file(line: &str) -> Option<(&str, &str)> {
    let (file, rest) = line.split_once(" line ")?;
    let (number, complaint) = rest.split_once(": ")?;
    let is_number = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
    (is_number && is_file(file.strip_suffix(':').unwrap_or(file))).then_some((file, complaint))
}

fn is_file(file: &str) -> bool {
    file == "command-line" || file.starts_with('/')
}

/// An option that ssh knows and passes over. With a small letter, `unsupported option` is about a value, and an error.
fn is_ignored_option(complaint: &str) -> bool {
    ["Unsupported option ", "Deprecated option "].iter().any(|start| complaint.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_complaint_about_settings_is_known() {
        for line in [
            "command-line: line 0: Bad configuration option: foo",
            "command-line line 0: unsupported option \"perhaps\".",
            "command-line line 0: Bad SSH2 cipher spec 'foo'.",
            "command-line line 0: invalid quotes",
            "command-line line 0: keyword port extra arguments at end of line",
            "command-line line 0: Bad port 'abc'.",
            "command-line line 0: invalid time value.",
            "command-line line 0: garbage at end of line; \"33\".",
            "/etc/ssh/ssh_config line 3: no argument after keyword \"port\"",
            "/root/.ssh/config: line 1: Bad configuration option: foo",
            "/root/.ssh/config: terminating, 1 bad configuration options",
            "Can't open user config file /nope: No such file or directory",
            "Bad owner or permissions on /root/.ssh/config",
            "usage: ssh [-46AaCfGgKkMNnqsTtVvXxYy] [-B bind_interface]",
            "unknown option -- Z",
            "jumphost loop via 127.0.0.1",
            "percent_expand: failed",
        ] {
            assert_eq!(read(line), Some(Saying::Settings), "{line}");
        }
    }

    #[test]
    fn what_only_looks_like_a_line_of_openssh_is_none() {
        for line in [
            "Enter keyword help for assistance.",
            "terminating, unknown option, keyword",
            "/bin/bash: line 1: exec: corkscrew: not found",
            "/bin/sh: line 1: Bad luck",
            "We: Permission denied (publickey).",
            "someone at home: Permission denied (publickey).",
            "Welcome! user@db: Permission denied (publickey).",
            " Host key verification failed.",
            "all connections: Connection refused",
            "The Connection to the mainframe closed.",
            "see line 3: invalid quotes",
            "channel 3: open failed: connect failed: Connection refused",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
        let ignored = "/etc/ssh/ssh_config line 53: Unsupported option \"gssapiauthentication\"";
        assert!(read(ignored).is_none() && is_noise(ignored));
    }

    #[test]
    fn the_parts_of_a_line_are_found() {
        assert_eq!(
            read("CORP\\alice@db: Permission denied (publickey,password)."),
            Some(Saying::Denied("publickey,password"))
        );
        assert_eq!(read("Permission denied (publickey)."), Some(Saying::Denied("publickey")));
        assert_eq!(
            read("ssh: connect to host ::1 port 22: Connection refused"),
            Some(Saying::Unconnected("Connection refused"))
        );
        assert_eq!(
            read("Received disconnect from ::1 port 22:2: Too many authentication failures"),
            Some(Saying::Disconnected("2", "Too many authentication failures"))
        );
    }
}
