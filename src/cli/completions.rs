//! `portward completions`.

use clap::CommandFactory;

use super::arguments::{Arguments, CompletionsArguments};
use super::failure::Failed;
use super::output;

/// Prints the completions for a shell.
pub(super) fn completions(arguments: &CompletionsArguments) -> Result<(), Failed> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "portward", &mut script);
    Ok(output::print(String::from_utf8_lossy(&script).trim_end())?)
}
