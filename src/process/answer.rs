//! A program that is asked something.

use std::convert::Infallible;
use std::process::Command;

use tokio::io::AsyncReadExt as _;

use super::child::spawn;

/// What the program says on its standard output; `None` if it fails, or says `longest` bytes or more. Dropping the future kills it.
pub async fn answer(command: Command, longest: u64) -> Option<Vec<u8>> {
    let (mut child, stdout, mut stderr) = spawn(command).ok()?;
    let mut answer = Vec::new();
    let mut stdout = stdout.take(longest);
    let answered = async {
        stdout.read_to_end(&mut answer).await.ok()?;
        let is_whole = stdout.limit() > 0;
        (is_whole && child.ended().await.ok()?.success()).then_some(())
    };
    let mut complaints = tokio::io::sink();
    tokio::select! {
        answered = answered => answered?,
        // Whoever complains must not come to a standstill.
        never = async {
            let _ = tokio::io::copy(&mut stderr, &mut complaints).await;
            std::future::pending::<Infallible>().await
        } => match never {},
    }
    Some(answer)
}
