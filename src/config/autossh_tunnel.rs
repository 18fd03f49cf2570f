//! The environment of autossh-tunnel-dockerized, which portward does not read: what was said there is said in the file here.

use std::ffi::OsString;
use std::path::Path;

use super::desired::Desired;

/// The variables of this process's environment that are set for autossh-tunnel and have no effect with the configuration `desired`,
/// the file `path`, each with what to do in its place.
pub fn unread_variables(desired: &Desired, path: &Path) -> Vec<(&'static str, &'static str)> {
    unread(desired, path, |name| std::env::var_os(name))
}

fn unread(
    desired: &Desired,
    path: &Path,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Vec<(&'static str, &'static str)> {
    let (standard, has_tcp) = (desired.ssh_standard, desired.api.tcp.is_some());
    let is_wrong = |name: &str, value: &OsString| match name {
        "TUNNEL_DIRECTION_MODE" => (value == "ssh-standard") != standard,
        "AUTOSSH_CONFIG_FILE" => Path::new(value) != path,
        "API_KEY" | "API_PORT" => !has_tcp,
        _ => true,
    };
    let is_wrong =
        |name: &str| variable(name).is_some_and(|value| !value.is_empty() && is_wrong(name, &value));
    INSTEAD.into_iter().filter(|(name, _)| is_wrong(name)).collect()
}

/// The variables, and what to write in their place.
const INSTEAD: [(&str, &str); 5] = [
    (
        "TUNNEL_DIRECTION_MODE",
        "write `direction_mode: ssh-standard` or `direction_mode: default` at the top of the configuration",
    ),
    ("AUTOSSH_CONFIG_FILE", "set PORTWARD_CONFIG, or give --config"),
    (
        "SSH_CONFIG_DIR",
        "ssh reads ~/.ssh; for another file write `ssh: {config_file: PATH}` under `defaults`",
    ),
    ("API_KEY", "write the keys into a file of mode 0600, one a line, and its path as `api.token_file`"),
    ("API_PORT", "write `api: {listen: \"127.0.0.1:8080\", token_file: PATH}`"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const PATH: &str = "/etc/portward/config.yaml";

    fn told(config: &str, variables: &[(&str, &str)]) -> Vec<&'static str> {
        let path = Path::new(PATH);
        let desired = parse(config, path).unwrap();
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        unread(&desired, path, variable).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn what_has_no_effect_is_told_and_what_the_file_says_as_well_is_not() {
        let standard = "direction_mode: ssh-standard\ntunnels: []";
        let mode = |value| [("TUNNEL_DIRECTION_MODE", value)];
        for value in ["default", "", "anything"] {
            assert_eq!(told("tunnels: []", &mode(value)), [""; 0], "{value}");
        }
        assert_eq!(told("tunnels: []", &mode("ssh-standard")), ["TUNNEL_DIRECTION_MODE"]);
        assert_eq!(told(standard, &mode("ssh-standard")), [""; 0]);
        assert_eq!(told(standard, &mode("default")), ["TUNNEL_DIRECTION_MODE"]);
        assert_eq!(told("tunnels: []", &[("AUTOSSH_CONFIG_FILE", PATH)]), [""; 0]);
        let all =
            [("AUTOSSH_CONFIG_FILE", "/c"), ("SSH_CONFIG_DIR", "/s"), ("API_KEY", "k"), ("API_PORT", "1")];
        assert_eq!(
            told("tunnels: []", &all),
            ["AUTOSSH_CONFIG_FILE", "SSH_CONFIG_DIR", "API_KEY", "API_PORT"]
        );
        let with_api = "api: {listen: '127.0.0.1:1', token_file: /t}\ntunnels: []";
        assert_eq!(told(with_api, &all), ["AUTOSSH_CONFIG_FILE", "SSH_CONFIG_DIR"]);
    }
}
