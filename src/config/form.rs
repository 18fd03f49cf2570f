//! Values of the wrong kind, such as a string instead of a list, and the form that was probably meant.

use super::hint::{FILL_IN, command, write, yaml};
use super::node::{Entry, Kind, NO_TUNNELS, Node};

/// What a key wanted to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Boolean,
    List,
    Mapping,
    Text,
}

impl Wanted {
    /// Its name in a message.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Boolean => "true or false",
            Self::List => "a list",
            Self::Mapping => "a mapping of keys to values",
            Self::Text => "a text or a number",
        }
    }
}

/// What to write under the key `name` instead of `node`. The file itself has no name.
pub(super) fn meant(name: Option<&str>, wanted: Wanted, node: &Node) -> Option<String> {
    let text = node.text().filter(|_| !node.is_null());
    match (wanted, name, &node.kind) {
        (Wanted::Boolean, Some(name), _) => {
            Some(text.and_then(boolean).map_or_else(
                || format!("write `{name}: true` or `{name}: false`"),
                |meant| write(&format!("{name}: {meant}")),
            ))
        }
        (Wanted::List, Some("command"), _) => Some(text.and_then(command).unwrap_or_else(|| {
            "write the program and its arguments as a list: `command: [program, argument, argument]`".to_owned()
        })),
        (Wanted::List, Some("tunnels"), kind) => Some(tunnels(kind)),
        (Wanted::Text, Some("command"), Kind::Mapping(entries)) => match &entries[..] {
            [Entry { key, value }] => {
                let (key, value) = (key.text()?, value.text()?);
                Some(format!("quote what holds a colon and a space: {}", yaml(&format!("{key}: {value}"))))
            }
            _ => None,
        },
        (Wanted::Text, Some("command"), Kind::Scalar { text, .. }) => Some(if text.is_empty() {
            "remove the dash, or write \"\" for an empty argument".to_owned()
        } else {
            format!("quote it if the program is to receive the word: '{text}'")
        }),
        (Wanted::Text, Some("command"), Kind::Sequence(_)) => {
            Some("write one list: each argument is an element of it".to_owned())
        }
        (Wanted::Text, Some("local_port" | "remote_port"), Kind::Sequence(_)) => {
            Some("a tunnel has one port, or a range such as 8000-8010: write a tunnel for each".to_owned())
        }
        (Wanted::Text, _, Kind::Mapping(entries)) => match &entries[..] {
            // A placeholder of Python's format or a similar template.
            [Entry { key, value }] if value.is_null() => {
                Some(format!("`{{{}}}` looks like a placeholder: {FILL_IN}", key.text()?))
            }
            _ => None,
        },
        (Wanted::Mapping, Some("options"), kind) => {
            let options = words(kind)?;
            let options = options.iter().map(String::as_str).filter(|word| *word != "-o");
            let pairs: Option<Vec<_>> =
                options.map(|option| option.strip_prefix("-o").unwrap_or(option).split_once('=')).collect();
            Some(pairs.filter(|pairs| !pairs.is_empty()).map_or_else(
                || "write each option by its name in ssh_config: `options: {Port: 2222}`".to_owned(),
                |pairs| write(&format!("options: {}", flow_mapping(&pairs))),
            ))
        }
        (Wanted::Mapping, Some("env"), kind) => {
            let words = words(kind)?;
            let pairs: Option<Vec<_>> = words.iter().map(|word| word.split_once('=')).collect();
            Some(pairs.filter(|pairs| !pairs.is_empty()).map_or_else(
                || "write each variable by its name: `env: {NAME: value}`".to_owned(),
                |pairs| write(&format!("env: {}", flow_mapping(&pairs))),
            ))
        }
        (Wanted::Mapping, Some("ssh"), Kind::Scalar { .. }) => Some(
            "options of ssh have a name here: `ssh: {identity_file: ~/.ssh/id_ed25519, options: {Port: 2222}}`".to_owned(),
        ),
        (Wanted::Mapping, Some("restart"), Kind::Scalar { .. }) => Some(
            "remove it: a tunnel is always started again, after waits that `min_delay` and `max_delay` set".to_owned(),
        ),
        (Wanted::Mapping, Some("health"), Kind::Scalar { text, .. }) if text.starts_with('/') => {
            Some(write(&format!("health: {{http: {}}}", yaml(text))))
        }
        (Wanted::Mapping, Some("health"), Kind::Sequence(_)) => {
            Some("a program is a key of it: `health: {command: [PROGRAM, ARGUMENT]}`".to_owned())
        }
        (Wanted::Mapping, Some("health"), _) => Some(
            "write `health: connect`, `health: {http: /PATH}` or `health: {command: [PROGRAM, ARGUMENT]}`".to_owned(),
        ),
        // An element of the list.
        (Wanted::Mapping, Some("tunnels"), Kind::Scalar { text, .. }) => Some(match text.split_once(':') {
            Some((key, value)) => write(&format!("- {}: {}", key.trim(), value.trim())),
            None => format!("{}, and the tunnel's other keys below `name`", write(&format!("- name: {text}"))),
        }),
        (Wanted::Mapping, None, Kind::Sequence(_)) => Some("write `tunnels:` in a line above the list".to_owned()),
        (Wanted::Mapping, None, Kind::Scalar { .. }) => Some(
            "write `tunnels:`, and below it each tunnel as `- remote_host: user@host` with its other keys".to_owned(),
        ),
        _ => None,
    }
}

/// The boolean that a word of YAML 1.1, or of other programs, stands for.
fn boolean(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "yes" | "y" | "on" | "1" | "t" | "enable" | "enabled" => Some(true),
        "no" | "n" | "off" | "0" | "f" | "disable" | "disabled" => Some(false),
        _ => None,
    }
}

fn tunnels(found: &Kind) -> String {
    let a_list = "write each tunnel as an element of a list, which begins with a dash";
    let Kind::Mapping(entries) = found else {
        return format!("{NO_TUNNELS}, or else {a_list}");
    };
    let Some(Entry { key, value }) = entries.first() else { return a_list.to_owned() };
    let key = key.text().unwrap_or_default();
    match &value.kind {
        // By name, as other programs have it.
        Kind::Mapping(_) => {
            format!("{a_list}: `- name: {key}` instead of `{key}:`, and its keys below `name`")
        }
        Kind::Scalar { text, .. } => format!("{a_list}: `- {key}: {text}`, and its other keys below `{key}`"),
        Kind::Sequence(_) => format!("{a_list}: `- {key}: ...`, and its other keys below `{key}`"),
    }
}

/// The words of a text, or of a list of texts.
fn words(kind: &Kind) -> Option<Vec<String>> {
    match kind {
        Kind::Scalar { text, .. } => Some(text.split_whitespace().map(str::to_owned).collect()),
        Kind::Sequence(elements) => {
            elements.iter().map(|element| element.text().map(str::to_owned)).collect()
        }
        Kind::Mapping(_) => None,
    }
}

fn flow_mapping(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<_> =
        pairs.iter().map(|(name, value)| format!("{}: {}", yaml(name), yaml(value))).collect();
    format!("{{{}}}", pairs.join(", "))
}
