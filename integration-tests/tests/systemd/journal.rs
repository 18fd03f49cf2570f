//! The machine's journal, as `journalctl` shows it.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::machine::run;

/// An entry of the journal.
#[derive(Debug)]
pub(crate) struct Entry(Value);

impl Entry {
    fn parse(line: &str) -> Self {
        Self(serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}")))
    }

    /// The value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.0[name].as_str()
    }

    /// Whether it says that the tunnel `name` is up.
    pub(crate) fn tells_up(&self, name: &str) -> bool {
        self.has("TUNNEL", name) && self.has("STATE", "up")
    }

    /// Whether the field `name` holds this text.
    pub(crate) fn has(&self, name: &str, text: &str) -> bool {
        self.field(name) == Some(text)
    }
}

/// All entries so far for which the `matches` hold (`FIELD=value`, as journalctl takes them), oldest first.
pub(crate) fn entries(matches: &[&str]) -> Vec<Entry> {
    // The journal answers once it has stored what was sent to it before.
    run("journalctl", &["--sync"]);
    run("journalctl", &[&["--output=json", "--all"], matches].concat()).lines().map(Entry::parse).collect()
}

/// Follows what a unit says, and what systemd says of it, from the first entry on.
pub(crate) struct Follower {
    journalctl: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Follower {
    /// Of the system's unit `unit`.
    pub(crate) fn of(unit: &str) -> Self {
        Self::start(&["--unit", unit])
    }

    /// Of a unit of somebody's own service manager.
    pub(crate) fn of_user_unit(unit: &str) -> Self {
        Self::start(&[&format!("_SYSTEMD_USER_UNIT={unit}")])
    }

    fn start(what: &[&str]) -> Self {
        let mut journalctl = Command::new("journalctl")
            .args(["--follow", "--lines=all", "--output=json", "--all"])
            .args(what)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting journalctl");
        let lines = BufReader::new(journalctl.stdout.take().unwrap()).lines();
        Self { journalctl, lines }
    }

    /// The next entry for which `wanted` holds; those before it are passed over. The machine's deadline is the deadline.
    pub(crate) fn wait(&mut self, wanted: impl Fn(&Entry) -> bool) -> Entry {
        let mut entries = self.lines.by_ref().map(|line| Entry::parse(&line.unwrap()));
        entries
            .find(|entry| {
                // What is waited for in vain can then be seen in the output.
                println!(
                    "{}: {}",
                    entry.field("_COMM").unwrap_or_default(),
                    entry.field("MESSAGE").unwrap_or_default()
                );
                wanted(entry)
            })
            .expect("journalctl goes on")
    }

    /// The next entry that says that the tunnel `name` is up.
    pub(crate) fn wait_up(&mut self, name: &str) -> Entry {
        self.wait(|entry| entry.tells_up(name))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.journalctl.kill();
        let _ = self.journalctl.wait();
    }
}
