//! One `ssh -G`: ssh prints the settings that it would use.

use std::process::Command;

use super::settings::Settings;
use crate::process;

/// The most that is read of the answer, in bytes. OpenSSH 9.2 prints 5 KB, and a line more for each key and token.
const LONGEST_ANSWER: u64 = 256 * 1024;

/// Runs an `ssh -G`; `None` if it fails or does not answer as OpenSSH does. Dropping the future kills it.
pub(super) async fn ask(command: Command) -> Option<Settings> {
    let answer = process::answer(command, LONGEST_ANSWER).await?;
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
