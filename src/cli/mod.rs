//! The command line: arguments to a request, its answer to a person or a program, and that to an exit code.
//!
//! `run`, `check`, `config`, `doctor`, `who`, `wait`, `completions` and `man-pages` need no daemon; everything else asks the running one over its
//! socket (`client`). What comes from ssh, from a remote host or from another process is never written to a terminal as it is
//! ([`crate::text`]).

mod act;
mod arguments;
mod askpass;
mod auth;
mod check;
mod client;
mod completions;
mod config;
mod doctor;
mod events;
mod failure;
mod help;
mod logs;
mod man_pages;
mod output;
mod place;
mod reload;
mod run;
mod sse;
mod status;
mod table;
mod terminal;
mod wait;
mod who;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

pub use self::arguments::definition;
use self::arguments::{Arguments, Command};
use self::client::Client;
use self::failure::Failed;
use crate::paths;
use crate::protocol::Verb;

/// `portward`, with the arguments of this process.
pub fn main() -> ExitCode {
    if let Some(question) = askpass::asked() {
        return askpass::pass_on(&question);
    }
    run_from(std::env::args_os())
}

/// `portward`, with the arguments given; the first one is the name of the program.
pub fn run_from(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and the version come this way too. If nobody reads them, nobody misses them.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match execute(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => failed.report(),
    }
}

fn execute(arguments: Arguments) -> Result<(), Failed> {
    let Arguments { socket, command } = arguments;
    let client = || Client::new(socket.clone().unwrap_or_else(paths::socket));
    match command {
        Command::Run(arguments) => block_on(run::run(arguments, socket.clone())),
        Command::Check(arguments) => block_on(check::check(arguments)),
        Command::Config(arguments) => config::config(arguments),
        Command::Status(arguments) => block_on(status::status(&client(), &arguments)),
        Command::Start(arguments) => block_on(act::act(&client(), Verb::Start, &arguments)),
        Command::Stop(arguments) => block_on(act::act(&client(), Verb::Stop, &arguments)),
        Command::Restart(arguments) => block_on(act::act(&client(), Verb::Restart, &arguments)),
        Command::Auth(arguments) => block_on(auth::auth(&client(), &arguments)),
        Command::Reload(arguments) => block_on(reload::reload(&client(), &arguments)),
        Command::Logs(arguments) => block_on(logs::logs(&client(), &arguments)),
        Command::Events(arguments) => block_on(events::events(&client(), &arguments)),
        Command::Who(arguments) => who::who(&arguments),
        Command::Wait(arguments) => block_on(wait::wait(&arguments)),
        Command::Doctor(arguments) => block_on(doctor::doctor(arguments, socket.clone())),
        Command::Completions(arguments) => completions::completions(&arguments),
        Command::ManPages(arguments) => man_pages::man_pages(&arguments),
    }
}

/// Threads for what may block, such as reading /proc. They are kept, for they count among the processes that the user may have
/// (RLIMIT_NPROC): one that has ended might not come back.
const BLOCKING_THREADS: usize = 16;

fn block_on(command: impl Future<Output = Result<(), Failed>>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(Duration::MAX)
        .build()
        .map_err(|error| Failed::NotDone(format!("cannot start: {error}")))?;
    // The first one is made while there is room for it: tokio panics if it needs one, has none and is given none.
    runtime.spawn_blocking(|| {});
    runtime.block_on(command)
}
