//! Keys and values to be written.

use serde_yaml::Value;

use super::EditError;
use crate::text::is_unsafe;

/// The keys of a tunnel whose value is a port, which stands without quotes if it is a number.
const PORTS: [&str; 2] = ["remote_port", "local_port"];

/// The keys of a tunnel whose value is true or false.
const FLAGS: [&str; 4] = ["interactive", "enabled", "standby", "share"];

/// Longest value, in bytes: a name has 128 characters, a path 107 bytes.
const LONGEST: usize = 4096;

/// A key of a tunnel, and the value that it is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub(super) key: String,
    pub(super) value: Scalar,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scalar {
    /// It is quoted where YAML would read something else than this text.
    Text(String),
    /// A number, as it is.
    Number(u16),
    /// True or false.
    Flag(bool),
}

impl Scalar {
    /// As the configuration reads it.
    pub(super) fn text(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Self::Text(text) => text.into(),
            Self::Number(number) => number.to_string().into(),
            Self::Flag(true) => "true".into(),
            Self::Flag(false) => "false".into(),
        }
    }

    /// Whether it may not stand in quotes.
    pub(super) fn is_plain(&self) -> bool {
        match self {
            Self::Flag(_) => true,
            Self::Text(_) | Self::Number(_) => false,
        }
    }

    pub(super) fn to_yaml(&self) -> Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Number(number) => (*number).into(),
            Self::Flag(flag) => (*flag).into(),
        }
    }
}

impl Change {
    /// `key: value`, with the value as a person or a client writes it. Whether the key may have it is found out when the whole
    /// configuration is checked; here it must be a text of one line.
    ///
    /// # Errors
    /// The key or the value cannot be written on one line that shows what it says.
    pub fn new(key: &str, value: &str) -> Result<Self, EditError> {
        let is_word = |letter: char| letter.is_ascii_lowercase() || letter == '_';
        if key.is_empty() || !key.chars().all(is_word) {
            return Err(EditError::refused(format_args!("`{key}` is not a key of a tunnel")));
        }
        if let Some(letter) = value.chars().find(|letter| is_unsafe(*letter)) {
            let letter = letter.escape_unicode();
            return Err(EditError::refused(format_args!(
                "`{key}` holds a character that cannot be seen ({letter}): write the value without it"
            )));
        }
        if value.len() > LONGEST {
            return Err(EditError::refused(format_args!("`{key}` is longer than {LONGEST} bytes")));
        }
        let value = match value.parse() {
            Ok(number) if PORTS.contains(&key) && u16::to_string(&number) == value => Scalar::Number(number),
            _ => match value {
                "true" if FLAGS.contains(&key) => Scalar::Flag(true),
                "false" if FLAGS.contains(&key) => Scalar::Flag(false),
                text => Scalar::Text(text.to_owned()),
            },
        };
        Ok(Self { key: key.to_owned(), value })
    }
}

/// Whether two texts of a port are the same: as written, or as numbers.
pub(super) fn is_same_port(one: &str, other: &str) -> bool {
    let number = |text: &str| text.parse::<u16>().ok();
    one == other || number(one).is_some_and(|one| number(other) == Some(one))
}
