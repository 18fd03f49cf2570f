//! `8000-8010`: ports that follow one another. Pure.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// One port or more that follow one another: never none, and never port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortRangeError {
    /// It is no number of a port.
    #[error("`{0}` is neither a port nor a range: write 3306 or 8000-8010; ports go from 1 to 65535")]
    NotPorts(String),
    /// It begins behind its end.
    #[error("`{0}` ends before it begins: write the lower port first")]
    Backwards(String),
}

impl PortRange {
    /// From `first` to `last`, both included; `None` if that is no range of ports.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first != 0 && first <= last).then_some(Self { first, last })
    }

    /// The lowest port.
    pub fn first(&self) -> u16 {
        self.first
    }

    /// How many there are.
    pub fn length(&self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// The ports, in order.
    pub fn ports(&self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// The port that is `offset` behind the first; the last one if the range ends before that.
    pub fn at(&self, offset: u16) -> u16 {
        self.first.saturating_add(offset).min(self.last)
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
        Self::new(first, last).ok_or_else(|| PortRangeError::Backwards(text.to_owned()))
    }
}

/// As people write it: `3306` or `8000-8010`.
impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(formatter, "{}", self.first)
        } else {
            write!(formatter, "{}-{}", self.first, self.last)
        }
    }
}

/// `addresses` for a person: ports of one address that follow one another as a range. In the order of the addresses' first ones.
pub fn concise(addresses: &[SocketAddr]) -> Vec<String> {
    let mut runs: Vec<(SocketAddr, u16)> = Vec::new();
    for address in addresses {
        let follows = |(first, last): &&mut (SocketAddr, u16)| {
            let at = |port| {
                let mut next = *first;
                next.set_port(port);
                next
            };
            last.checked_add(1).is_some_and(|port| at(port) == *address)
        };
        match runs.iter_mut().find(follows) {
            Some((_, last)) => *last = address.port(),
            None => runs.push((*address, address.port())),
        }
    }
    let written = |(first, last): &(SocketAddr, u16)| {
        if first.port() == *last { first.to_string() } else { format!("{first}-{last}") }
    };
    runs.iter().map(written).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_of_a_range_are_told_as_ranges() {
        let told = |addresses: &[&str]| {
            let addresses: Vec<SocketAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            concise(&addresses)
        };
        assert_eq!(told(&["127.0.0.1:80", "[::1]:80"]), ["127.0.0.1:80", "[::1]:80"]);
        assert_eq!(
            told(&["127.0.0.1:80", "[::1]:80", "127.0.0.1:81", "[::1]:81", "127.0.0.1:83"]),
            ["127.0.0.1:80-81", "[::1]:80-81", "127.0.0.1:83"]
        );
        assert_eq!(told(&["0.0.0.0:65535", "0.0.0.0:1"]), ["0.0.0.0:65535", "0.0.0.0:1"]);
        assert_eq!(told(&[]), [""; 0]);
    }

    #[test]
    fn ports_and_ranges_are_taken() {
        for (text, ports) in [("3306", 3306..=3306), ("8000-8010", 8000..=8010), ("1-65535", 1..=65535)] {
            let range = text.parse::<PortRange>().unwrap();
            assert_eq!(range.ports(), ports, "{text}");
            assert_eq!(range.length(), ports.count(), "{text}");
            assert_eq!(range.to_string(), text);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in ["", "0", "65536", "-1", "80-", "http", "80-90-100", "0-10"] {
            assert_eq!(text.parse::<PortRange>(), Err(PortRangeError::NotPorts(text.to_owned())));
        }
        assert_eq!("90-80".parse::<PortRange>(), Err(PortRangeError::Backwards("90-80".to_owned())));
    }

    #[test]
    fn a_port_is_found_by_its_offset() {
        let range = PortRange::new(65530, 65535).unwrap();
        assert_eq!((range.at(0), range.at(5), range.at(6)), (65530, 65535, 65535));
    }
}
