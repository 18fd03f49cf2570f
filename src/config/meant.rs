//! Texts that people write in good faith and the configuration does not take, and what they meant. For each a hint that shows the
//! line to write.

use super::diagnose::{Refusal, quote};
use super::hint::{self, FILL_IN, write, yaml};

/// The keys that two ports belong to which were written as one, as in `8080:80`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    /// The port to listen on, and the port to connect to.
    Pair(&'static str, &'static str),
    /// A command has one port.
    Command,
    /// This is the port to connect to; the other key depends on the direction.
    Other,
}

/// Words that templates have in place of a value, whatever their case.
const PLACEHOLDER_WORDS: [&str; 6] =
    ["changeme", "change_me", "change-me", "replaceme", "replace_me", "replace-me"];

/// The quotes of word processors and chat programs, which are letters to YAML.
const TYPOGRAPHIC_QUOTES: [char; 8] = ['“', '”', '„', '‘', '’', '‚', '«', '»'];

/// Refuses what a template has in place of a value.
pub(super) fn filled_in(text: &str) -> Result<(), Refusal> {
    match placeholder(text) {
        Some(found) => {
            Err(Refusal::new(format!("{} is a placeholder that was not filled in", quote(found)))
                .hint(FILL_IN))
        }
        None => Ok(()),
    }
}

/// The part of `text` that is a template's for certain, whatever else may be written there: `{{ x }}`, `{% x %}` or `${X}`.
pub(super) fn template(text: &str) -> Option<&str> {
    [("{{", "}}"), ("{%", "%}"), ("${", "}")]
        .into_iter()
        .find_map(|(open, close)| enclosed(text, open, close))
}

/// The same where there can be no other reason for `<x>`, `$X`, `%X%`, `@X@`, `__X__` or CHANGEME.
fn placeholder(text: &str) -> Option<&str> {
    // The user, the host and the port of a destination may be placeholders by themselves.
    let mut parts = text.split(['@', ':', '/']);
    let is_word = |word: &str| {
        let underlined = word.len() > 4 && word.starts_with("__") && word.ends_with("__");
        underlined || PLACEHOLDER_WORDS.iter().any(|known| known.eq_ignore_ascii_case(word))
    };
    template(text)
        .or_else(|| parts.find(|part| is_word(part)))
        .or_else(|| enclosed(text, "<", ">"))
        .or_else(|| enclosed(text, "%", "%"))
        .or_else(|| text.starts_with('@').then(|| enclosed(text, "@", "@")).flatten())
        .or_else(|| {
            let begin = text.find('$')?;
            let name = text[begin + 1..]
                .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
                .next()?;
            (!name.is_empty()).then(|| &text[begin..=begin + name.len()])
        })
}

/// The first part of `text` from `open` to `close` with something between them.
fn enclosed<'t>(text: &'t str, open: &str, close: &str) -> Option<&'t str> {
    let begin = text.find(open)?;
    let inner = &text[begin + open.len()..];
    let length = inner.find(close).filter(|length| *length > 0)?;
    Some(&text[begin..begin + open.len() + length + close.len()])
}

/// The text between typographic quotes.
fn quoted_by_a_word_processor(text: &str) -> Option<&str> {
    let inner = text.trim_matches(TYPOGRAPHIC_QUOTES);
    (inner.len() < text.len()).then_some(inner)
}

fn typographic(text: &str, inner: &str) -> Refusal {
    Refusal::new(format!("{} stands in typographic quotes, which belong to the text here", quote(text)))
        .hint(write(&yaml(inner)))
}

/// Refuses what a name can only be by accident.
pub(super) fn name(text: &str) -> Result<(), Refusal> {
    if template(text).is_some() {
        return filled_in(text);
    }
    let both = text.starts_with(TYPOGRAPHIC_QUOTES) && text.ends_with(TYPOGRAPHIC_QUOTES);
    match quoted_by_a_word_processor(text) {
        Some(inner) if both && !inner.is_empty() => Err(typographic(text, inner)),
        _ => Ok(()),
    }
}

/// Refuses forms of a port, or of an address with a port, that other programs have.
pub(super) fn port(text: &str, keys: Keys) -> Result<(), Refusal> {
    filled_in(text)?;
    if let Some(inner) = quoted_by_a_word_processor(text) {
        return Err(typographic(text, inner));
    }
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|digit| digit.is_ascii_digit());
    if let Some((scheme, rest)) = text.split_once("://") {
        let place = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
        let has_port = place.rsplit_once(':').is_some_and(|(_, port)| is_number(port));
        let default = match scheme {
            "http" | "ws" => ":80",
            "https" | "wss" => ":443",
            _ => ":PORT",
        };
        let place = if has_port { place.to_owned() } else { format!("{place}{default}") };
        return Err(Refusal::new(format!("{} is a URL, not a port", quote(text))).hint(write(&yaml(&place))));
    }
    if let Some((number, protocol @ ("tcp" | "udp"))) = text.rsplit_once('/') {
        let hint = match (keys, protocol) {
            (Keys::Command, "udp") => format!("write `local_port: {number}` and `protocol: udp`"),
            (Keys::Command, _) | (_, "tcp") => write(number),
            _ => "ssh forwards TCP and nothing else: a `command` can speak UDP".to_owned(),
        };
        return Err(Refusal::new(format!("{} is a port with a protocol", quote(text))).hint(hint));
    }
    let several = |separator: char| {
        text.contains(separator) && text.split(separator).all(|part| is_number(part.trim()))
    };
    if several(',') || several(' ') {
        let hint = match keys {
            Keys::Command => "a command has one port: write a tunnel for each",
            Keys::Pair(..) | Keys::Other => {
                "a tunnel has one port, or a range such as 8000-8010: write a tunnel for each"
            }
        };
        return Err(Refusal::new(format!("{} is more than one port", quote(text))).hint(hint));
    }
    let parts: Vec<&str> = text.split(':').collect();
    let (bind, rest) = match &parts[..] {
        [bind, port, rest @ ..] if !is_number(bind) && is_number(port) && !rest.is_empty() => {
            (Some(*bind), &parts[1..])
        }
        _ => (None, &parts[..]),
    };
    let (here, there) = match rest {
        [here, there] if is_number(here) && is_number(there) => (*here, (*there).to_owned()),
        [here, host, there]
            if is_number(here) && !is_number(host) && !host.is_empty() && is_number(there) =>
        {
            (*here, format!("{host}:{there}"))
        }
        _ => return Ok(()),
    };
    let here = bind.map_or_else(|| here.to_owned(), |bind| format!("{bind}:{here}"));
    let hint = match keys {
        Keys::Pair(first, second) => {
            format!("write the two apart: `{first}: {}` and `{second}: {}`", yaml(&here), yaml(&there))
        }
        Keys::Command => {
            format!("write `local_port: {}`, and the other port among the command's arguments", yaml(&here))
        }
        Keys::Other => {
            "write the port to connect to, and the port to listen on under the other key".to_owned()
        }
    };
    Err(Refusal::new(format!("{} is two ports", quote(text))).hint(hint))
}

/// Refuses what is no ssh destination and looks like something else that people have at hand.
pub(super) fn destination(text: &str) -> Result<(), Refusal> {
    filled_in(text)?;
    if let Some(inner) = quoted_by_a_word_processor(text) {
        return Err(typographic(text, inner));
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let (host, path) = rest.split_once(['/', '?', '#']).unwrap_or((rest, ""));
        if scheme == "ssh" && path.is_empty() {
            return Ok(());
        }
        let (what, meant) = if scheme == "ssh" {
            ("has a path, which a tunnel has no use for", format!("ssh://{host}"))
        } else {
            let port = host
                .rsplit_once(':')
                .is_some_and(|(_, port)| port.bytes().all(|digit| digit.is_ascii_digit()));
            let host = if port { host.rsplit_once(':').map_or(host, |(host, _)| host) } else { host };
            ("is a URL, not an ssh destination", host.to_owned())
        };
        return Err(Refusal::new(format!("{} {what}", quote(text)))
            .hint(write(&format!("remote_host: {}", yaml(&meant)))));
    }
    if let Some(arguments) = text.strip_prefix("ssh ") {
        let mut words = arguments.split_whitespace();
        let (mut host, mut port) = (None, None);
        while let Some(word) = words.next() {
            match word {
                "-p" => port = words.next(),
                word if word.starts_with('-') => {}
                word => host = host.or(Some(word)),
            }
        }
        let meant = match (host, port) {
            (Some(host), Some(port)) => format!("ssh://{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => "user@host".to_owned(),
        };
        return Err(Refusal::new(format!("{} is a command, not an ssh destination", quote(text))).hint(
            format!(
                "{}, and what else ssh needs under `ssh:`",
                write(&format!("remote_host: {}", yaml(&meant)))
            ),
        ));
    }
    match text.split_once(":/") {
        Some((host, _)) if !host.is_empty() => {
            Err(Refusal::new(format!("{} has a path, as scp wants it", quote(text)))
                .hint(write(&format!("remote_host: {}", yaml(host)))))
        }
        _ => Ok(()),
    }
}

/// Refuses paths that only a shell or another system would understand.
pub(super) fn path(text: &str) -> Result<(), Refusal> {
    for home in ["$HOME/", "${HOME}/"] {
        if let Some(rest) = text.strip_prefix(home) {
            return Err(Refusal::new(format!(
                "{} is taken as it is written: no variable is replaced",
                quote(text)
            ))
            .hint(write(&format!("~/{rest}"))));
        }
    }
    if template(text).is_some() || text.starts_with('$') {
        return filled_in(text);
    }
    if let Some(rest) = text.strip_prefix("file://") {
        return Err(Refusal::new(format!("{} is a URL, not a path", quote(text))).hint(write(rest)));
    }
    let mut letters = text.chars();
    if let (Some('A'..='Z' | 'a'..='z'), Some(':'), Some('\\' | '/')) =
        (letters.next(), letters.next(), letters.next())
    {
        return Err(Refusal::new(format!("{} is a path of Windows", quote(text)))
            .hint("write the path that the file has on this machine, from `/` on"));
    }
    if let Some(inner) = quoted_by_a_word_processor(text) {
        return Err(typographic(text, inner));
    }
    Ok(())
}

/// Refuses a program with its arguments in one word. A path may hold a space: it begins with `/`, `./` or `~/`.
pub(super) fn program(text: &str) -> Result<(), Refusal> {
    if !text.contains(char::is_whitespace) || text.starts_with(['/', '.', '~']) {
        return Ok(());
    }
    let refusal = Refusal::new(format!("{} is a program with its arguments, in one word", quote(text)));
    Err(match hint::command(text) {
        Some(hint) => refusal.hint(hint),
        None => refusal.hint("write each argument as an element of the list"),
    })
}
