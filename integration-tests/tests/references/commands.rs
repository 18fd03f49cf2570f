//! docs/reference/commands.md: every command and option, from the definition of the command line.

use std::iter;

use clap::{Arg, Command};

use crate::markdown::{alternatives, block, capitalized, element, paragraph};

const HEAD: &str = "\
<!-- Written by the test `references` from the definition of the command line, src/cli/arguments.rs and src/cli/help.rs. -->

# Commands

`--help` and the man pages (`man portward`, `man portward-status`) say the same.

";

/// The page of `portward`, which is built.
pub(crate) fn page(portward: &Command) -> String {
    let after = portward.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let commands = visible(portward).map(|command| section(command, portward, 2));
    iter::once(HEAD.to_owned())
        .chain([
            text(&about(portward)),
            usage(portward),
            list(portward),
            "## Options of all commands\n\n".to_owned(),
        ])
        .chain([arguments(portward, None)])
        .chain(commands)
        .chain([text(&after)])
        .collect::<String>()
        .trim_end()
        .to_owned()
        + "\n"
}

/// A command, and those below it; `above` is the one that it belongs to.
fn section(command: &Command, above: &Command, depth: usize) -> String {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let heading = format!("{} `{name}`\n\n", "#".repeat(depth));
    let below = visible(command).map(|below| section(below, command, depth + 1));
    [heading, text(&about(command)), usage(command), arguments(command, Some(above))]
        .into_iter()
        .chain(below)
        .collect()
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}

/// The whole description, as `--help` has it.
fn about(command: &Command) -> String {
    let about =
        command.get_long_about().or(command.get_about()).expect("each command says what it does").to_string();
    let (first, rest) = about.split_once('\n').unwrap_or((&about, ""));
    format!("{}.\n{rest}", first.trim_end_matches('.'))
}

fn usage(command: &Command) -> String {
    block(command.clone().render_usage().to_string().trim_start_matches("Usage: "))
}

/// The commands, each with what it does.
fn list(portward: &Command) -> String {
    let rows = visible(portward).map(|command| {
        let name = command.get_name();
        let about = command.get_about().expect("each command says what it does");
        format!("| [`{name}`](#portward-{name}) | {about} |\n")
    });
    format!("| command | what it does |\n|---|---|\n{}\n", rows.collect::<String>())
}

/// The arguments and options of a command, without those of the one `above`, which all of its commands have.
fn arguments(command: &Command, above: Option<&Command>) -> String {
    let is_inherited = |argument: &Arg| {
        above.is_some_and(|above| above.get_arguments().any(|other| other.get_id() == argument.get_id()))
    };
    let own = command.get_arguments().filter(|argument| !argument.is_hide_set() && !is_inherited(argument));
    let (places, options): (Vec<_>, Vec<_>) = own.partition(|argument| argument.is_positional());
    let list: String = places.into_iter().chain(options).map(argument).collect();
    if list.is_empty() { list } else { list + "\n" }
}

fn argument(argument: &Arg) -> String {
    let takes_values = argument.get_action().takes_values();
    let short = argument.get_short().filter(|_| argument.get_long().is_some());
    let short = short.map(|short| format!("-{short}, ")).unwrap_or_default();
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let values = argument.get_possible_values();
    let values: Vec<_> = values.iter().filter(|value| takes_values && !value.is_hide_set()).collect();
    let (explained, bare): (Vec<_>, Vec<_>) =
        values.into_iter().partition(|value| value.get_help().is_some());
    let bare: Vec<_> = bare.iter().map(|value| format!("`{}`", value.get_name())).collect();
    let words = if bare.is_empty() { String::new() } else { format!(": {}", alternatives(&bare)) };
    let default = argument.get_default_values().first().filter(|_| takes_values);
    let default = default.map(|default| format!(" [default: {}]", default.display())).unwrap_or_default();
    let variable = argument.get_env().map(|variable| format!(" [env: {}]", variable.display()));
    let line = format!("`{short}{argument}`: {help}{words}{default}{}", variable.unwrap_or_default());
    let explained = explained.into_iter().map(|value| {
        let help = value.get_help().map(ToString::to_string).unwrap_or_default();
        element(1, &format!("`{}`: {help}", value.get_name()))
    });
    iter::once(element(0, &line)).chain(explained).collect()
}

/// A text of `--help`: lines of capitals are headings, indented lines stay as they are, and the others form paragraphs.
fn text(help: &str) -> String {
    let lines: Vec<&str> = help.lines().collect();
    let runs = lines.chunk_by(|line, next| line.starts_with("  ") == next.starts_with("  "));
    let is_heading = |line: &str| line.chars().all(|letter| letter.is_ascii_uppercase() || letter == ' ');
    let line = |line: &&str| match *line {
        "" => String::new(),
        line if is_heading(line) => format!("## {}\n\n", capitalized(&line.to_lowercase())),
        line => paragraph(line),
    };
    let run = |run: &[&str]| match run {
        [first, ..] if first.starts_with("  ") => {
            block(&run.iter().map(|line| line[2..].to_owned() + "\n").collect::<String>())
        }
        others => others.iter().map(line).collect(),
    };
    runs.map(run).collect()
}
