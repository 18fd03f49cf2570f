//! `env`: variables of the environment of a tunnel's process.

use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer};

use super::diagnose::{Problems, Refusal, quote};
use super::located::Located;
use super::values::{Pairs, pairs};
use crate::text::is_unsafe;

/// Variables that the service manager sets for portward alone. Processes of tunnels do not inherit them: with them they could send
/// notifications on behalf of portward.
pub const SERVICE_MANAGER_VARIABLES: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// `MAX_ARG_STRLEN`: the bytes of an argument, or of a variable with its name, that the kernel takes, its NUL included.
const LONGEST_STRING: usize = 128 * 1024;

/// Variables by name, with their values, which may be secret.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Name and value of each variable.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of a variable that is set here.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// The names alone.
impl fmt::Debug for Environment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

/// `env` as written, in the order of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Variables(Pairs);

impl Variables {
    /// These variables, and those of `defaults` that are not among them.
    pub(super) fn merged(&self, defaults: &Self) -> Self {
        let is_missing =
            |(name, _): &&(Located<String>, _)| !self.0.iter().any(|(own, _)| own.value == name.value);
        Self(self.0.iter().chain(defaults.0.iter().filter(is_missing)).cloned().collect())
    }

    /// The valid variables.
    pub(super) fn environment(&self) -> Environment {
        let right = self.0.iter().filter_map(|(name, value)| Some((&name.value, value.value()?)));
        right.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Reports every variable that no process can have, or that no process of a tunnel may have.
    pub(super) fn check(&self, problems: &Problems) {
        for (name, value) in &self.0 {
            let written = &name.value;
            if let Err(refusal) = check_name(written) {
                problems.report(name.place, refusal);
            }
            if let Some(Located { place, value }) = value.get()
                && let Err(refusal) = check_value(written, value)
            {
                problems.report(*place, refusal.of(written));
            }
        }
    }
}

impl<'de> Deserialize<'de> for Variables {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        pairs(deserializer, "a mapping of names to values").map(Self)
    }
}

impl JsonSchema for Variables {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Variables".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": { "pattern": "^[^=\\s]+$" },
            "additionalProperties": { "type": ["string", "number", "boolean"] },
        })
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let quoted = quote(name);
    if name.is_empty() {
        return Err(Refusal::new("the name of a variable is empty").hint("write `NAME: value`"));
    }
    if let Some((before, after)) = name.split_once('=') {
        return Err(Refusal::new(format!("{quoted} is not the name of a variable: it holds `=`"))
            .hint(format!("write {}", quote(&format!("{before}: {after}")))));
    }
    if name.chars().any(|letter| letter.is_whitespace() || is_unsafe(letter)) {
        return Err(Refusal::new(format!(
            "{quoted} is not the name of a variable: it holds white space or a character that cannot be seen"
        ))
        .hint("write letters, digits and `_`"));
    }
    if SERVICE_MANAGER_VARIABLES.contains(&name) {
        return Err(Refusal::new(format!(
            "{quoted} is for portward's own dialogue with the service manager"
        ))
        .hint("remove the line: no process of a tunnel is given this variable"));
    }
    Ok(())
}

fn check_value(name: &str, value: &str) -> Result<(), Refusal> {
    check_string("the value", value, name.len() + 1)?;
    match named_itself(name, value) {
        Some(itself) => {
            Err(Refusal::new(format!("{} is taken as it is written: nothing replaces it", quote(&itself)))
                .hint("write the whole value, or let a shell do it: `command: [sh, -c, '...']`"))
        }
        None => Ok(()),
    }
}

/// The reference by which a value names its own variable, as in `PATH: /opt/bin:$PATH`.
fn named_itself(name: &str, value: &str) -> Option<String> {
    let (braced, bare) = (format!("${{{name}}}"), format!("${name}"));
    let goes_on =
        |rest: &str| rest.starts_with(|letter: char| letter.is_ascii_alphanumeric() || letter == '_');
    if value.contains(&braced) {
        Some(braced)
    } else if value.split(&bare).skip(1).any(|rest| !goes_on(rest)) {
        Some(bare)
    } else {
        None
    }
}

/// A text that a process is to receive, called `what` in messages; `more` bytes of the same string come before it.
pub(super) fn check_string(what: &str, text: &str, more: usize) -> Result<(), Refusal> {
    if text.contains('\0') {
        return Err(Refusal::new(format!("{what} holds a NUL character")).hint("no program can receive it"));
    }
    if text.len() + more >= LONGEST_STRING {
        return Err(Refusal::new(format!("{what} is {} bytes long", text.len()))
            .hint(format!("the kernel hands over less than {LONGEST_STRING} bytes: put it in a file")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_hold_a_dollar_sign_but_not_its_own_name() {
        for value in ["/opt/bin:$PATH", "${PATH}:/opt/bin", "$PATH/x"] {
            assert!(check_value("PATH", value).is_err(), "{value}");
        }
        for value in ["pa$$word", "$PATHS", "$HOME/bin", "PATH", "$", ""] {
            assert!(check_value("PATH", value).is_ok(), "{value}");
        }
    }

    #[test]
    fn a_text_that_the_kernel_does_not_hand_over_is_refused() {
        assert!(check_string("it", &"x".repeat(LONGEST_STRING - 1), 0).is_ok());
        assert!(check_string("it", &"x".repeat(LONGEST_STRING), 0).is_err());
        assert!(check_value("NAME", &"x".repeat(LONGEST_STRING - 6)).is_ok());
        assert!(check_value("NAME", &"x".repeat(LONGEST_STRING - 5)).is_err());
        assert!(check_string("it", "a\0b", 0).is_err());
    }

    #[test]
    fn a_value_is_not_shown_by_accident() {
        let environment: Environment = [("TOKEN", "secret")].into_iter().collect();
        assert_eq!(format!("{environment:?}"), r#"{"TOKEN"}"#);
    }
}
