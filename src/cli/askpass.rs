//! What ssh starts in order to ask a person (`SSH_ASKPASS`): passes the question on to the daemon, and prints the answer for ssh.

use std::env;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use crate::protocol::{AskpassAnswer, AskpassQuery, QuestionKind};
use crate::ssh::{KIND, PROGRAM, SOCKET, TOKEN};

/// Longest answer of the daemon that is read, in bytes: an answer has 1,000, and may be escaped.
const LONGEST: u64 = 64 * 1024;

/// The question, if this process was started by ssh to ask it: by the very name that ssh was given for that.
pub(super) fn asked() -> Option<AskpassQuery> {
    let mut arguments = env::args_os();
    let program = arguments.next()?;
    if env::var_os(PROGRAM)? != program {
        return None;
    }
    let token = env::var(TOKEN).ok()?;
    let kind = match env::var(KIND).as_deref() {
        Ok("confirm") => QuestionKind::Confirm,
        Ok("none") => QuestionKind::Notice,
        Ok(_) | Err(_) => QuestionKind::Text,
    };
    let question = arguments.next()?.to_string_lossy().into_owned();
    Some(AskpassQuery { token, kind, question })
}

/// Asks the daemon, which asks the person. ssh takes a failure for no answer; the daemon knows the reason.
pub(super) fn pass_on(query: &AskpassQuery) -> ExitCode {
    match ask(query) {
        Ok(Some(answer)) => {
            let print = |mut stdout: io::Stdout| {
                stdout.write_all(format!("{}\n", answer.answer.0).as_bytes())?;
                stdout.flush()
            };
            if print(io::stdout()).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Ok(None) | Err(_) => ExitCode::FAILURE,
    }
}

/// One request over the daemon's socket; `None`: it was refused. Waits for as long as the person does.
fn ask(query: &AskpassQuery) -> io::Result<Option<AskpassAnswer>> {
    let socket = env::var_os(SOCKET).ok_or(io::ErrorKind::NotFound)?;
    let mut stream = UnixStream::connect(socket)?;
    let body = serde_json::to_string(query)?;
    let head = format!(
        "POST /askpass HTTP/1.0\r\nHost: portward\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all([head, body].concat().as_bytes())?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return Ok(None) };
    if head.split(' ').nth(1) != Some("200") {
        return Ok(None);
    }
    Ok(serde_json::from_str(body).ok())
}
