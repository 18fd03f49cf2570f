//! Asks another program something, with a deadline.

use std::ffi::OsString;
use std::io;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tokio::time::timeout;

use crate::process::{Pace, SpawnError, read_lines, spawn};

/// What is asked here is answered within milliseconds; what takes longer than this stands still.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of an answer that are kept: no program that is asked here says a tenth of that.
const BYTES_KEPT: usize = 256 * 1024;

/// What a program answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// How it ended.
    pub(super) status: ExitStatus,
    /// Lines of its standard output.
    pub(super) output: Vec<String>,
    /// Lines of its standard error.
    pub(super) complaints: Vec<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// It did not start.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// It did not end.
    #[error("{program:?} does not answer within {PATIENCE:?}")]
    Silent {
        /// The program.
        program: OsString,
    },
    /// Its end was not told.
    #[error("cannot wait for {program:?}: {source}")]
    Wait {
        /// The program.
        program: OsString,
        /// Why.
        source: io::Error,
    },
}

/// Runs `command` to its end. It and what it has started are killed when the deadline is over.
pub(super) async fn ask(command: Command) -> Result<Answer, AskError> {
    let program = command.get_program().to_owned();
    let (mut child, stdout, stderr) = spawn(command)?;
    let (mut output, mut complaints) = (Vec::new(), Vec::new());
    let pace = Pace::default();
    let everything = async {
        let (status, (), ()) = tokio::join!(
            child.ended(),
            read_lines(stdout, &pace, keep(&mut output)),
            read_lines(stderr, &pace, keep(&mut complaints))
        );
        status
    };
    match timeout(PATIENCE, everything).await {
        Ok(Ok(status)) => Ok(Answer { status, output, complaints }),
        Ok(Err(source)) => Err(AskError::Wait { program, source }),
        Err(_) => Err(AskError::Silent { program }),
    }
}

/// Takes lines into `kept` for as long as there is room.
fn keep(kept: &mut Vec<String>) -> impl FnMut(String) {
    let mut room = BYTES_KEPT;
    move |line| {
        if let Some(left) = room.checked_sub(line.len()) {
            room = left;
            kept.push(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn both_streams_and_the_status_are_told() {
        let answer = ask(shell("echo out; echo error >&2; exit 3")).await.unwrap();
        assert_eq!(
            (answer.status.code(), answer.output, answer.complaints),
            (Some(3), vec!["out".to_owned()], vec!["error".to_owned()])
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_stands_still_is_given_up() {
        let error = ask(shell("sleep 1000")).await.unwrap_err();
        assert!(matches!(error, AskError::Silent { .. }), "{error}");
    }
}
