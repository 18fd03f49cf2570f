//! What a program prints.

use std::process::Output;

use tokio::process::Command;

use crate::record::within_deadline;

/// Runs a program to its end: its exit code and what it printed on both streams.
pub async fn said_by(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = within_deadline("the program", command.output()).await.unwrap();
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

/// As [`said_by`]; checks the exit code.
pub async fn run(command: &mut Command, code: i32) -> String {
    let (ended, text) = said_by(command).await;
    assert_eq!(ended, Some(code), "{command:?}: {text}");
    text
}
