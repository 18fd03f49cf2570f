//! `?timeout=5s`: how long a request may wait.

use std::str::FromStr;
use std::time::Duration;

use jiff::fmt::friendly::SpanParser;
use serde::{Deserialize, Deserializer, de};

/// The longest wait that may be asked for.
const LONGEST: Duration = Duration::from_secs(5 * 60);

/// How long to wait before the answer is "not yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout(pub Duration);

impl Default for Timeout {
    fn default() -> Self {
        Self(Duration::from_secs(5))
    }
}

/// Why a text is no timeout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeoutError {
    /// It is no duration.
    #[error("`{0}` is not a duration: write it with its unit, as 250ms, 5s or 2m")]
    NotADuration(String),
    /// It is longer than anybody should wait for an answer.
    #[error("`{0}` is too long: 5m is the most")]
    TooLong(String),
}

impl FromStr for Timeout {
    type Err = TimeoutError;

    fn from_str(text: &str) -> Result<Self, TimeoutError> {
        let duration = duration(text)?;
        if duration > LONGEST {
            return Err(TimeoutError::TooLong(text.to_owned()));
        }
        Ok(Self(duration))
    }
}

/// A duration of any length, with its unit.
pub fn duration(text: &str) -> Result<Duration, TimeoutError> {
    SpanParser::new().parse_unsigned_duration(text).map_err(|_| TimeoutError::NotADuration(text.to_owned()))
}

impl<'de> Deserialize<'de> for Timeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_with_units_are_taken() {
        for (text, milliseconds) in
            [("250ms", 250), ("5s", 5_000), ("2m", 120_000), ("5m", 300_000), ("0s", 0)]
        {
            assert_eq!(text.parse(), Ok(Timeout(Duration::from_millis(milliseconds))), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in ["", "5", "five", "-5s", "5 parsecs", "s", "NaNs"] {
            assert_eq!(text.parse::<Timeout>(), Err(TimeoutError::NotADuration(text.to_owned())));
        }
        for text in ["5m1ms", "6m", "1h"] {
            assert_eq!(text.parse::<Timeout>(), Err(TimeoutError::TooLong(text.to_owned())));
        }
    }
}
