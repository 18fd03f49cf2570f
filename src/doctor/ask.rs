//! Runs other programs and reads their output, with a time limit.

use std::ffi::OsString;
use std::io;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use crate::process::{Pace, SpawnError, read_lines, spawn};

/// A program that needs longer than this has hung: it should take milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most that is kept of a program's output, in bytes: ten times what any of them prints.
const BYTES_KEPT: usize = 256 * 1024;

/// Programs that run at a time.
const CONCURRENCY: usize = 8;

/// The output of a program.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: ExitStatus,
    /// Lines of its standard output.
    pub(super) output: Vec<String>,
    /// Lines of its standard error.
    pub(super) complaints: Vec<String>,
}

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("{program:?} did not end within {PATIENCE:?}")]
    Silent { program: OsString },
    #[error("cannot wait for {program:?}: {source}")]
    Wait { program: OsString, source: io::Error },
    /// Nothing is known about the program.
    #[error("the time limit of the examination was reached")]
    OutOfTime,
}

/// Runs programs until its time is over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    /// When the examination must be finished.
    pub(super) deadline: Option<Instant>,
}

impl Asker {
    /// Runs `command` to its end. Blocks; must be called on a thread of a tokio runtime that may.
    pub(super) fn ask(self, command: Command) -> Result<Answer, AskError> {
        Handle::current().block_on(self.run(command))
    }

    /// Runs several commands, some of them at the same time. The answers have the order of the commands.
    pub(super) fn ask_all(self, commands: Vec<Command>) -> Vec<Result<Answer, AskError>> {
        let mut answers = Vec::with_capacity(commands.len());
        let mut commands = commands.into_iter().peekable();
        while commands.peek().is_some() {
            let running = commands.by_ref().take(CONCURRENCY);
            let running: Vec<_> = running
                .map(|command| Handle::current().spawn(async move { self.run(command).await }))
                .collect();
            for task in running {
                // A task that panics was reported by the panic hook.
                let answer = Handle::current().block_on(task);
                answers.push(answer.unwrap_or(Err(AskError::OutOfTime)));
            }
        }
        answers
    }

    /// At the deadline the program and all that it has started are killed.
    async fn run(self, command: Command) -> Result<Answer, AskError> {
        let patience = Instant::now() + PATIENCE;
        let deadline = self.deadline.map_or(patience, |deadline| deadline.min(patience));
        if deadline <= Instant::now() {
            return Err(AskError::OutOfTime);
        }
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
        match timeout_at(deadline, everything).await {
            Ok(Ok(status)) => Ok(Answer { status, output, complaints }),
            Ok(Err(source)) => Err(AskError::Wait { program, source }),
            Err(_) if deadline < patience => Err(AskError::OutOfTime),
            Err(_) => Err(AskError::Silent { program }),
        }
    }
}

/// Takes lines into `kept` as long as there is room.
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
pub(super) mod tests {
    use super::*;

    /// Runs `work` on a thread that may block.
    pub(in crate::doctor) fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(runtime.spawn_blocking(work)).unwrap()
    }

    pub(in crate::doctor) const ASKER: Asker = Asker { deadline: None };

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_streams_and_the_status_are_returned_in_the_order_of_the_commands() {
        let numbers: Vec<i32> = (0..20).collect();
        let commands =
            numbers.iter().map(|n| shell(&format!("echo {n}; echo error >&2; exit {n}"))).collect();
        let answers = blocking(move || ASKER.ask_all(commands));
        let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
        assert!(answers.iter().all(|answer| answer.complaints == ["error"]));
        assert!(answers.iter().zip(&numbers).all(|(answer, n)| answer.output == [n.to_string()]));
        assert!(answers.iter().zip(&numbers).all(|(answer, n)| answer.status.code() == Some(*n)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_hangs_is_killed_at_the_deadline() {
        let error = ASKER.run(shell("sleep 1000")).await.unwrap_err();
        assert!(matches!(error, AskError::Silent { .. }), "{error}");
        let deadline = Some(Instant::now() + Duration::from_secs(1));
        let error = Asker { deadline }.run(shell("sleep 1000")).await.unwrap_err();
        assert!(matches!(error, AskError::OutOfTime), "{error}");
        assert!(matches!(Asker { deadline }.run(shell("true")).await, Err(AskError::OutOfTime)));
    }
}
