//! One `ssh -G`: ssh prints the settings that it would use.

use std::convert::Infallible;
use std::process::Command;

use tokio::io::AsyncReadExt;

use super::settings::Settings;
use crate::process;

/// The most that is read of the answer, in bytes. OpenSSH 9.2 prints 5 KB, and a line more for each key and token.
const LONGEST_ANSWER: u64 = 256 * 1024;

/// Runs an `ssh -G`; `None` if it fails or does not answer as OpenSSH does. Dropping the future kills it.
pub(super) async fn ask(command: Command) -> Option<Settings> {
    let (mut child, stdout, mut stderr) = process::spawn(command).ok()?;
    let mut answer = Vec::new();
    let mut stdout = stdout.take(LONGEST_ANSWER);
    let answered = async {
        stdout.read_to_end(&mut answer).await.ok()?;
        let is_whole = stdout.limit() > 0;
        (is_whole && child.ended().await.ok()?.success()).then_some(())
    };
    let mut complaints = tokio::io::sink();
    tokio::select! {
        answered = answered => answered?,
        // Whoever complains must not come to a standstill; what is said is the real ssh's to say.
        never = async {
            let _ = tokio::io::copy(&mut stderr, &mut complaints).await;
            std::future::pending::<Infallible>().await
        } => match never {},
    }
    let settings = Settings::from_lines(String::from_utf8_lossy(&answer).lines());
    settings.tells("hostname").then_some(settings)
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
    async fn only_an_answer_as_of_openssh_counts() {
        let answer = ask(shell("echo 'hostname db'; echo 'loglevel INFO'")).await.unwrap();
        assert_eq!(answer.one("hostname"), "db");
        for script in
            ["echo 'hostname db'; exit 255", "echo usage: ssh", "", "yes 'hostname db' | head -c 300000"]
        {
            assert_eq!(ask(shell(script)).await, None, "{script}");
        }
        assert_eq!(ask(Command::new("/no/such/ssh")).await, None);
    }
}
