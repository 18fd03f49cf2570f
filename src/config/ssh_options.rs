//! The options of ssh that decide whether a connection can be a tunnel, and what portward makes of each: the one list from
//! which ssh's command line, the configuration's refusals and `doctor` are drawn.

/// What portward makes of an option, wherever ssh would find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// On ssh's command line with this value. `ssh: options:` may not name it.
    Fixed(&'static str),
    /// Without effect on a tunnel, through another option or argument. `ssh: options:` may not name it.
    Moot,
    /// On ssh's command line with this value, unless `ssh: options:` names it.
    Default(&'static str),
    /// On ssh's command line with this value where ssh would otherwise be too quiet to say what fails, unless
    /// `ssh: options:` names it.
    Louder(&'static str),
    /// As ssh's configuration has it: portward adapts to it.
    Followed,
}

/// One option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SshOption {
    /// Its name, as ssh_config(5) writes it.
    pub name: &'static str,
    /// What portward makes of it.
    pub treatment: Treatment,
    /// Since which version of OpenSSH it is known: an ssh that `ssh -G` shows not to know it is not given it. `None`: all
    /// versions that portward works with know it.
    pub since: Option<&'static str>,
    /// Why; for an option that may not be named, what to do instead.
    pub why: &'static str,
}

const fn option(name: &'static str, treatment: Treatment, why: &'static str) -> SshOption {
    SshOption { name, treatment, since: None, why }
}

/// All options that are not simply left to ssh. What else may stand in a Host block has no effect on a tunnel: network devices
/// (`Tunnel`) go with `ClearAllForwardings`; a tunnel has no session, terminal or standard input (`StdinNull`, `EscapeChar`,
/// `SetEnv`); each forward names the address to bind, so that `GatewayPorts` has nothing to decide.
pub const SSH_OPTIONS: &[SshOption] = &[
    option(
        "BatchMode",
        Treatment::Fixed("yes"),
        "a tunnel where a person must authenticate has `interactive: true`",
    ),
    option("ClearAllForwardings", Treatment::Fixed("yes"), "portward asks for the forwards itself"),
    option("ConnectTimeout", Treatment::Moot, "set `ssh.connect_timeout` instead"),
    option(
        "ControlMaster",
        Treatment::Fixed("yes"),
        "portward keeps a control socket of its own for each tunnel",
    ),
    option("ControlPath", Treatment::Moot, "portward keeps a control socket of its own for each tunnel"),
    option("ControlPersist", Treatment::Fixed("no"), "portward ends its connections itself"),
    option("DynamicForward", Treatment::Moot, "write a tunnel with `direction: dynamic` instead"),
    SshOption {
        name: "ForkAfterAuthentication",
        treatment: Treatment::Fixed("no"),
        since: Some("8.7"),
        why: "portward keeps ssh in the foreground to watch it",
    },
    option("LocalCommand", Treatment::Moot, "let a systemd unit run what belongs to a tunnel"),
    option("LocalForward", Treatment::Moot, "write a tunnel with `local_port` and `remote_port` instead"),
    option("PermitLocalCommand", Treatment::Fixed("no"), "let a systemd unit run what belongs to a tunnel"),
    option("RemoteCommand", Treatment::Moot, "a tunnel runs no command on the server"),
    option("RemoteForward", Treatment::Moot, "write a tunnel with `direction: local_to_remote` instead"),
    option("RequestTTY", Treatment::Moot, "a tunnel has no terminal"),
    option("SessionType", Treatment::Moot, "a tunnel has no session on the server"),
    option(
        "StreamLocalBindMask",
        Treatment::Fixed("0177"),
        "a unix socket that ssh listens on is for portward's user alone, until portward gives it `socket_mode`",
    ),
    option(
        "StreamLocalBindUnlink",
        Treatment::Fixed("no"),
        "ssh would remove the socket of another program: portward removes those where nobody listens",
    ),
    option("ServerAliveInterval", Treatment::Default("15"), "a server that is gone is noticed"),
    option("ServerAliveCountMax", Treatment::Default("3"), "a server that is gone is noticed"),
    SshOption {
        name: "AddKeysToAgent",
        treatment: Treatment::Default("no"),
        since: Some("7.2"),
        why: "a tunnel adds no key to an agent, and cannot ask for confirmation",
    },
    option(
        "ForwardAgent",
        Treatment::Default("no"),
        "a server could use the agent though no session needs it",
    ),
    option(
        "ForwardX11",
        Treatment::Default("no"),
        "a server could reach the display though no session needs it",
    ),
    option(
        "LogLevel",
        Treatment::Louder("INFO"),
        "ssh would not say why it fails, nor which clients it turns away",
    ),
    option("AddressFamily", Treatment::Followed, "ssh listens on addresses of that family only"),
    option(
        "ProxyCommand",
        Treatment::Followed,
        "an ssh in it is kept from becoming a master that stays behind",
    ),
    option(
        "ProxyJump",
        Treatment::Followed,
        "the ssh to the jump host is kept from becoming a master that stays behind",
    ),
];

impl SshOption {
    /// Whether `ssh: options:` may not name it.
    pub const fn is_reserved(&self) -> bool {
        matches!(self.treatment, Treatment::Fixed(_) | Treatment::Moot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_there_once() {
        let mut names: Vec<_> = SSH_OPTIONS.iter().map(|option| option.name.to_ascii_lowercase()).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
