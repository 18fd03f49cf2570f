//! The list that is printed: one line for each step, with its time.

use std::error::Error;
use std::fmt::{self, Display};
use std::io::{self, Write};

use tokio::time::{Duration, Instant};

/// Prints the list. Whoever reads it may stop reading (`| head`): that changes nothing about the steps.
#[derive(Debug)]
pub(crate) struct Report {
    began: Instant,
    steps: u32,
    current: &'static str,
}

impl Report {
    /// Starts the list, with a heading.
    pub(crate) fn begun(title: impl Display) -> Self {
        say(format_args!("{title}"));
        Self { began: Instant::now(), steps: 0, current: "set-up" }
    }

    /// Names the step that is being played.
    pub(crate) fn begin(&mut self, step: &'static str) {
        self.current = step;
    }

    /// The step did what it should; `took` is the time of what `text` says.
    pub(crate) fn done(&mut self, took: Duration, text: impl Display) {
        self.steps += 1;
        self.line(&Milliseconds(took).to_string(), text);
    }

    /// One more line about the step that is done.
    pub(crate) fn detail(text: impl Display) {
        say(format_args!("  {:<8} {:>9}  {text}", "", ""));
    }

    /// The last line of a list without failures.
    pub(crate) fn all_well(&self) {
        let seconds = self.began.elapsed().as_secs_f64();
        say(format_args!("\n{} steps in {seconds:.1} s, and each did what it says.", self.steps));
    }

    /// The last line of a list that ended early.
    pub(crate) fn failed(&self, error: &dyn Error) {
        self.line("FAILED", error);
    }

    fn line(&self, took: &str, text: impl Display) {
        say(format_args!("  {:<8} {took:>9}  {text}", self.current));
    }
}

/// A duration as milliseconds with one digit behind the point.
pub(crate) struct Milliseconds(pub(crate) Duration);

impl Display for Milliseconds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:.1} ms", self.0.as_secs_f64() * 1000.0)
    }
}

/// The last lines of a log, marked as such.
pub(crate) fn tail(log: &str) -> String {
    const LINES: usize = 40;
    let lines: Vec<String> = log.lines().map(|line| format!("  | {line}\n")).collect();
    lines[lines.len().saturating_sub(LINES)..].concat()
}

fn say(line: fmt::Arguments<'_>) {
    // Standard output may be closed; the exit code still tells.
    let _ = writeln!(io::stdout(), "{line}");
}
