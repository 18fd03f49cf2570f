//! `command`: a program says whether the tunnel is well.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::pin::pin;
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::config::desired::{CommandTunnel, Ssh, SshTunnel, Work};
use crate::core::{CheckError, CheckErrorKind};
use crate::process::{self, OUTPUT_GRACE, Pace, read_lines};
use crate::text;

/// The tunnel's name, in the environment of the program.
const TUNNEL: &str = "PORTWARD_TUNNEL";

/// `address:port` where the tunnel listens, as a client of this machine reaches it; not set if a server listens.
const LISTEN: &str = "PORTWARD_LISTEN";

/// Bytes of the last line of output that a message has.
const LONGEST_LINE: usize = 300;

/// The program of the check, with the directory and the environment of the tunnel's own process.
pub(super) fn program(argv: &[String], tunnel: &str, work: &Work, listen: Option<SocketAddr>) -> Command {
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]);
    let env = match work {
        Work::Ssh(SshTunnel { ssh: Ssh { env, .. }, .. }) => env,
        Work::Command(CommandTunnel { env, working_directory, .. }) => {
            if let Some(directory) = working_directory {
                command.current_dir(directory);
            }
            env
        }
    };
    command.envs(env.iter()).env(TUNNEL, tunnel);
    match listen {
        Some(listen) => command.env(LISTEN, listen.to_string()),
        None => command.env_remove(LISTEN),
    };
    command
}

/// What a message says beside what has happened: which program, and how to run it by hand.
fn subject(command: &Command) -> (String, String) {
    let program = text::line(&command.get_program().to_string_lossy()).into_owned();
    let variable = |wanted: &str| {
        let mut variables = command.get_envs();
        variables.find_map(|(name, value)| if name == wanted { value?.to_str() } else { None })
    };
    let by_hand = variable(LISTEN).map_or_else(
        || "run it by hand to see more".to_owned(),
        |listen| format!("run it by hand with {LISTEN}={listen} to see more"),
    );
    (program, by_hand)
}

/// How the wait for the program ended.
enum End {
    Ended(std::io::Result<ExitStatus>),
    TooLate,
    Cancelled,
}

/// Runs the program, and ends every process of its tree, at the latest after `patience`. Reports, unless it is cancelled: success is
/// exit status 0.
pub async fn run(
    command: Command,
    patience: Duration,
    pace: &Pace,
    cancelled: impl Future<Output = ()>,
    report: impl FnOnce(Result<(), CheckError>),
) {
    let (program, by_hand) = subject(&command);
    let (mut child, stdout, stderr) = match process::spawn(command) {
        Ok(started) => started,
        Err(error) => {
            return report(Err(CheckError::new(CheckErrorKind::Failed, error.failure().message)));
        }
    };
    let tree = child.tree();
    let last = [Mutex::default(), Mutex::default()];
    let mut reading = pin!(async {
        let [output, errors] = [&last[0], &last[1]].map(|last| move |line: String| *lock(last) = line);
        tokio::join!(read_lines(stdout, pace, output), read_lines(stderr, pace, errors));
    });
    let mut is_read = false;
    let end = {
        let mut deadline = pin!(sleep(patience));
        let mut cancelled = pin!(cancelled);
        loop {
            tokio::select! {
                biased;
                () = &mut cancelled => break End::Cancelled,
                status = child.ended() => break End::Ended(status),
                () = &mut deadline => break End::TooLate,
                () = &mut reading, if !is_read => is_read = true,
            }
        }
    };
    // Whatever it has started goes with it, also into another session.
    tree.kill();
    if !is_read {
        let _ = timeout(OUTPUT_GRACE, &mut reading).await;
    }
    // What programs complain about they write to their standard error; the two are not read in the order of writing.
    let mut said = last.iter().rev().map(|last| text::excerpt(&lock(last), LONGEST_LINE).into_owned());
    let said = said.find(|line| !line.is_empty());
    let said = said.map_or_else(String::new, |line| format!(", and said: {line}"));
    match end {
        End::Cancelled => {}
        End::Ended(Ok(status)) => report(
            judged(status)
                .map_err(|(kind, how)| CheckError::new(kind, format!("{program} {how}{said}; {by_hand}"))),
        ),
        End::Ended(Err(error)) => {
            let message = format!("cannot learn how {program} ended: {error}");
            report(Err(CheckError::new(CheckErrorKind::Failed, message)));
        }
        End::TooLate => {
            let message =
                format!("{program} did not end within {patience:?} and was killed{said}; {by_hand}");
            report(Err(CheckError::new(CheckErrorKind::Timeout, message)));
        }
    }
    // A process that is stuck in the kernel is waited for here.
    let _ = child.ended().await;
    tree.gone().await;
}

fn lock(last: &Mutex<String>) -> MutexGuard<'_, String> {
    last.lock().unwrap_or_else(PoisonError::into_inner)
}

fn judged(status: ExitStatus) -> Result<(), (CheckErrorKind, String)> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err((CheckErrorKind::Exited, format!("ended with status {code}"))),
        (None, Some(signal)) => Err((CheckErrorKind::Killed, format!("was ended by signal {signal}"))),
        (None, None) => Err((CheckErrorKind::Failed, format!("ended ({status})"))),
    }
}
