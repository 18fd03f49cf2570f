//! What ssh's own configuration leaves to do for a tunnel.

use serde::{Deserialize, Serialize};

use super::settings::Settings;
use crate::core::{Failure, FailureKind};
use crate::port::Endpoint;

/// At these values of LogLevel ssh does not say which clients it turns away, nor, at some, why it fails. `ssh -G` prints
/// QUIET as SILENT.
const QUIET_LEVELS: [&str; 4] = ["SILENT", "QUIET", "FATAL", "ERROR"];

/// How to start the ssh of a tunnel, and where it will listen. The default is that of an ssh that could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    settings: Settings,
    proxy_command: Option<String>,
}

impl Plan {
    /// The plan for an ssh with these settings.
    pub fn new(settings: Settings, proxy_command: Option<String>) -> Self {
        Self { settings, proxy_command }
    }

    /// What ssh will listen on.
    pub fn address_family(&self) -> AddressFamily {
        match self.settings.one("addressfamily") {
            "inet" => AddressFamily::Inet,
            "inet6" => AddressFamily::Inet6,
            _ => AddressFamily::Any,
        }
    }

    /// Whether it may still be used after a wait for the port: it leaves the way to the server to ssh, which reads its configuration
    /// anew. What else is out of date by then costs one failed start, as the next one has a plan of its own.
    pub fn may_wait(&self) -> bool {
        self.proxy_command.is_none()
    }

    /// Whether ssh knows this option.
    pub(super) fn is_known(&self, option: &str) -> bool {
        self.settings.tells(option)
    }

    /// Whether ssh would not say what goes wrong with single connections.
    pub fn is_quiet(&self) -> bool {
        QUIET_LEVELS.contains(&self.settings.one("loglevel"))
    }

    /// The ProxyCommand to be used instead of the configured one, or instead of ProxyJump.
    pub(super) fn proxy_command(&self) -> Option<&str> {
        self.proxy_command.as_deref()
    }
}

/// AddressFamily of ssh_config(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressFamily {
    /// Every address.
    Any,
    /// IPv4 only.
    Inet,
    /// IPv6 only.
    Inet6,
}

impl AddressFamily {
    /// Which of `wanted` ssh will listen on: it refuses those that are of another family.
    ///
    /// # Errors
    /// None of them is; the failure names the option.
    pub fn endpoints(self, wanted: &[Endpoint], destination: &str) -> Result<Vec<Endpoint>, Failure> {
        let (family, is_refused): (_, fn(&Endpoint) -> bool) = match self {
            Self::Any => ("any", |_| false),
            Self::Inet => ("inet", |endpoint| endpoint.address.is_ipv6()),
            Self::Inet6 => ("inet6", |endpoint| endpoint.address.is_ipv4()),
        };
        let allowed: Vec<_> = wanted.iter().filter(|endpoint| !is_refused(endpoint)).copied().collect();
        match wanted.first() {
            Some(refused) if allowed.is_empty() => Err(Failure::new(
                FailureKind::Config,
                format!(
                    "ssh to {destination} does not listen on {refused}, because its settings say `AddressFamily {family}`: \
                     change local_port to an address of that family, or set `AddressFamily: any` under `ssh: options:`"
                ),
            )),
            _ => Ok(allowed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_family_that_ssh_listens_on_are_used() {
        let endpoints = ["127.0.0.1:80", "[::1]:80"].map(|text| {
            let address: std::net::SocketAddr = text.parse().unwrap();
            Endpoint::new(address.ip(), address.port())
        });
        let used = |family: &str, wanted: &[Endpoint]| {
            let plan = Plan::new(Settings::from_lines([format!("addressfamily {family}")]), None);
            plan.address_family().endpoints(wanted, "db")
        };
        assert_eq!(used("any", &endpoints).unwrap(), endpoints);
        assert_eq!(used("inet", &endpoints).unwrap(), endpoints[..1]);
        assert_eq!(used("inet6", &endpoints).unwrap(), endpoints[1..]);
        assert_eq!(used("inet6", &[]).unwrap(), []);
        let refused = used("inet6", &endpoints[..1]).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Config);
        assert!(refused.message.contains("AddressFamily inet6") && refused.message.contains("127.0.0.1:80"));
    }
}
