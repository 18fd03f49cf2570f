//! Texts that look like messages by their place, and are none.

use std::collections::BTreeSet;

use crate::source::Literal;

/// File below `src`, constant or function (empty: all of the file), and the reason.
const ITEMS: &[(&str, &str, &str)] = &[
    ("api/act.rs", "responses", "the description of the API for programs"),
    ("api/description.rs", "", "the description of the API for programs"),
    ("api/metrics.rs", "OPENMETRICS", "a media type"),
    ("api/metrics.rs", "PROMETHEUS", "a media type"),
    ("cli/askpass.rs", "ask", "the head of a request to the daemon"),
    ("cli/help.rs", "", "the help of the command line"),
    ("config/form.rs", "meant", "steps that are printed beside a message"),
    ("config/form.rs", "tunnels", "steps that are printed beside a message"),
    ("config/health.rs", "WAYS", "a step that is printed beside a message"),
    ("config/hint.rs", "", "steps that are printed beside a message"),
    ("config/located.rs", "", "an error of serde that cannot occur: both ends are of this file"),
    ("config/node.rs", "NO_TUNNELS", "a step that is printed beside a message"),
    ("config/overlap.rs", "PATH", "a step that is printed beside a message"),
    ("config/overlap.rs", "PORT", "a step that is printed beside a message"),
    (
        "config/ssh_options.rs",
        "SSH_OPTIONS",
        "steps that are printed beside a message, and reasons for readers of the source",
    ),
    ("config/syntax.rs", "SLIPS", "what the YAML parser says, and steps that are printed beside it"),
    ("daemon/metrics.rs", "", "what the metrics mean"),
    ("daemon/narrate.rs", "serves", "part of the line that a tunnel is up"),
    ("doctor/file_events.rs", "CHANGED_ELSEWHERE", "names of file systems"),
    ("doctor/host_keys.rs", "unknown", "part of a fix"),
    ("ssh/failure/words.rs", "NOISE", "lines of ssh that explain no failure"),
    ("ssh/server.rs", "SCRIPT", "a script that runs on the server"),
    ("ssh/server.rs", "command", "the line that starts a script on the server"),
];

/// File below `src`, the beginning of the text, and the reason.
const TEXTS: &[(&str, &str, &str)] = &[
    ("api/act.rs", "… is up after", "a success"),
    ("api/act.rs", "… is stopped after", "a success"),
    ("api/configure.rs", "Configuration saved", "a success"),
    ("api/configure.rs", "Tunnel deleted", "a success"),
    ("api/login.rs", "Logging in to", "the beginning of a login"),
    ("api/login.rs", "Please type 'yes'", "what ssh asks"),
    ("api/login.rs", "The authenticity of host", "what ssh asks"),
    ("api/login.rs", "… is up…", "a success"),
    ("cli/check.rs", "the user of this command", "part of a success"),
    ("cli/events.rs", "no warnings are left", "the end of a warning"),
    ("cli/events.rs", "the configuration is in force", "a success"),
    ("cli/failure.rs", "not done", "never printed: all was said before"),
    ("cli/who.rs", "Nobody listens on", "a result"),
    ("config/environment.rs", "the value", "the subject of a message"),
    ("config/health.rs", "write `command:` with", "a step that is printed beside a message"),
    (
        "config/read.rs",
        "a value was asked for",
        "an error of serde that cannot occur: serde asks for keys first",
    ),
    ("config/read.rs", "give it a value", "a step that is printed beside a message"),
    ("config/work.rs", "an argument", "the subject of a message"),
    ("daemon/narrate.rs", "needs a person to log in", "a line of the log at level info"),
    ("daemon/narrate.rs", "nothing of it is left", "a line of the log at level info"),
    ("daemon/ssh_start.rs", "ssh was told to end", "nobody reads it: a start that was cancelled"),
    ("doctor/claims.rs", "the API (`api.listen`)", "the subject of a finding"),
    ("doctor/commands.rs", "the tunnel's `env:`", "part of a reason"),
    ("doctor/directories.rs", "sh -c", "a fix"),
    ("doctor/held.rs", "… && portward status", "a fix"),
    ("network/way.rs", "the route has no interface", "a line of the log at level debug"),
    ("observe/log/mod.rs", "logging was already started", "cannot occur: `portward run` starts it once"),
    ("port/advice.rs", "docker ps", "a command"),
    ("port/advice.rs", "podman ps", "a command"),
    ("port/advice.rs", "…systemctl --user", "a command"),
    ("port/wire.rs", "malformed sock_diag message", "a line of the log at level debug"),
    ("process/limits.rs", "an unknown number", "in place of a number"),
    ("ssh/server.rs", "cannot ask the server", "a line of the log at level debug"),
    ("ssh/server.rs", "the server has not answered", "a line of the log at level debug"),
    ("ssh/server.rs", "what the server says is no answer", "a line of the log at level debug"),
];

/// The exceptions, and which of them have excused a text.
#[derive(Debug, Default)]
pub(crate) struct Exceptions {
    used: BTreeSet<(&'static str, &'static str)>,
}

impl Exceptions {
    /// Whether this text is no message.
    pub(crate) fn excuse(&mut self, literal: &Literal) -> bool {
        let of_item = ITEMS
            .iter()
            .find(|(file, item, _)| literal.file == *file && (item.is_empty() || literal.item == *item));
        let of_text =
            TEXTS.iter().find(|(file, start, _)| literal.file == *file && literal.text.starts_with(start));
        let found = of_item.or(of_text);
        self.used.extend(found.map(|(file, name, _)| (*file, *name)));
        found.is_some()
    }

    /// Those that have excused nothing.
    pub(crate) fn unused(&self) -> Vec<String> {
        let all = ITEMS.iter().chain(TEXTS);
        let unused = all.filter(|(file, name, _)| !self.used.contains(&(*file, *name)));
        unused.map(|(file, name, reason)| format!("{file}: {name} ({reason})")).collect()
    }
}
