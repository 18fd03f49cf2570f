//! `8000-8010`: ports as they are written.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// A port or a range of ports, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is neither.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PortRangeError {
    /// It is no number of a port.
    #[error("`{0}` is neither a port nor a range: write 3306 or 8000-8010; ports go from 1 to 65535")]
    NotPorts(String),
    /// It begins behind its end.
    #[error("`{0}` ends before it begins: write the lower port first")]
    Backwards(String),
}

impl PortRange {
    pub(super) fn ports(&self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    pub(super) fn as_written(&self) -> String {
        if self.first == self.last { self.first.to_string() } else { format!("{}-{}", self.first, self.last) }
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let port = |digits: &str| digits.parse().ok().filter(|port| *port != 0);
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (Some(first), Some(last)) = (port(first), port(last)) else {
            return Err(PortRangeError::NotPorts(text.to_owned()));
        };
        if first > last {
            return Err(PortRangeError::Backwards(text.to_owned()));
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.first == self.last { "port" } else { "ports" };
        write!(formatter, "{word} {}", self.as_written())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_are_taken() {
        for (text, ports) in [("3306", 3306..=3306), ("8000-8010", 8000..=8010), ("1-65535", 1..=65535)] {
            assert_eq!(text.parse::<PortRange>().unwrap().ports(), ports, "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in ["", "0", "65536", "-1", "80-", "http", "80-90-100", "0-10"] {
            assert_eq!(text.parse::<PortRange>(), Err(PortRangeError::NotPorts(text.to_owned())));
        }
        assert_eq!("90-80".parse::<PortRange>(), Err(PortRangeError::Backwards("90-80".to_owned())));
    }
}
