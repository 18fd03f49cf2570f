//! How ssh asks a person although it has no terminal: for each question it starts the program that SSH_ASKPASS names (ssh(1)).
//!
//! That program is portward itself, which passes the question to the daemon and prints the answer for ssh. So an answer is in the
//! memory of these processes only, while it is passed on: in no file, no argument and no environment.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;

/// The variable in which ssh is told which program to start. Only what ssh has started as that program is asked something.
pub const PROGRAM: &str = "SSH_ASKPASS";

/// The variable in which ssh says what kind of a question it is: `confirm`, `none` (a notice), or anything else for a text.
pub const KIND: &str = "SSH_ASKPASS_PROMPT";

/// The variable with the daemon's socket.
pub const SOCKET: &str = "PORTWARD_ASKPASS_SOCKET";

/// The variable with the token of the login.
pub const TOKEN: &str = "PORTWARD_ASKPASS_TOKEN";

/// Where the questions of one login go.
#[derive(Clone, PartialEq, Eq)]
pub struct Askpass {
    socket: PathBuf,
    token: String,
}

impl fmt::Debug for Askpass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Askpass").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Askpass {
    /// Questions go to the daemon at `socket`, which knows the login by `token`.
    pub fn new(socket: PathBuf, token: String) -> Self {
        Self { socket, token }
    }

    /// Whether this is the token of the login.
    pub fn is(&self, token: &str) -> bool {
        use subtle::ConstantTimeEq as _;
        self.token.as_bytes().ct_eq(token.as_bytes()).into()
    }

    /// Has the ssh of `command` ask in this way. The program is that of this very process, also if its file is replaced meanwhile.
    pub(super) fn prepare(&self, command: &mut Command) {
        command
            .env(PROGRAM, format!("/proc/{}/exe", std::process::id()))
            .env("SSH_ASKPASS_REQUIRE", "force")
            .env(SOCKET, &self.socket)
            .env(TOKEN, &self.token);
        // Before OpenSSH 8.4 a display decides. Nothing is shown on it.
        if std::env::var_os("DISPLAY").is_none() {
            command.env("DISPLAY", "portward");
        }
    }
}
