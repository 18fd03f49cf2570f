//! The configuration as written: every key there is, its type, and what it means.
//!
//! The JSON schema is made from these types and their comments, and so is the list of known keys.

use std::collections::BTreeSet;

use schemars::{JsonSchema, Schema};

use super::environment::Variables;
use super::located::Field;
use super::values::{Options, Period, Port};

/// The configuration of portward.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "portward configuration", extend("required" = ["tunnels"]))]
pub(super) struct Config {
    /// The tunnels; `[]` says that there are none.
    pub(super) tunnels: Field<Vec<Field<Tunnel>>>,
    /// What every tunnel has that does not say otherwise.
    pub(super) defaults: Field<Defaults>,
    /// Which of ssh's options the two words of `direction` stand for.
    pub(super) direction_mode: Field<DirectionMode>,
    /// Where the API listens.
    pub(super) api: Field<Api>,
}

/// A tunnel: a forward over ssh (`remote_host`), or a program that binds `local_port` itself (`command`).
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["local_port"]))]
pub(super) struct Tunnel {
    /// Unique name, 1 to 128 printable characters. Default: derived from host and port.
    pub(super) name: Field<String>,
    /// ssh destination: `user@host`, `ssh://user@host:port` or a Host alias of ssh_config.
    pub(super) remote_host: Field<String>,
    /// -L: `port` or `host:port` as the server sees it. -R: `port` or `bind:port` on the server. Not used by `dynamic`.
    pub(super) remote_port: Field<Port>,
    /// -L, -D and command: `port` or `address:port` to listen on. -R: `port` or `host:port` of the service here.
    pub(super) local_port: Field<Port>,
    /// Which side listens. Default: `remote_to_local`, ssh -L.
    pub(super) direction: Field<Direction>,
    /// A person must authenticate: the tunnel waits in `needs_auth`. Default: false.
    pub(super) interactive: Field<bool>,
    /// `false` keeps the tunnel stopped. Default: true.
    pub(super) enabled: Field<bool>,
    /// Program and arguments, instead of `remote_host`; no shell sees them.
    pub(super) command: Field<Vec<Field<String>>>,
    /// Where a command runs. Default: where portward does, which is `/` for a service.
    pub(super) working_directory: Field<String>,
    /// Variables of the environment of the command, or of ssh, beyond portward's own.
    pub(super) env: Field<Variables>,
    /// What a command speaks on `local_port`. Default: `tcp`.
    pub(super) protocol: Field<Protocol>,
    /// How long a command may take until it listens. Default: 30s.
    pub(super) start_timeout: Field<Period>,
    /// How ssh is called.
    pub(super) ssh: Field<Ssh>,
    /// How long to wait between tries.
    pub(super) restart: Field<Restart>,
    /// Time between SIGTERM and SIGKILL, for every process that the tunnel has started; and how long its process may be stopped
    /// by a signal before it is replaced. Default: 5s.
    pub(super) stop_grace: Field<Period>,
    /// What to do when somebody else holds the port. Default: `wait`.
    pub(super) on_conflict: Field<OnConflict>,
}

/// What every tunnel has that does not say otherwise. What cannot fit a tunnel's kind is left out for it.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Defaults {
    /// See the tunnel's key; for tunnels without `command`.
    pub(super) remote_host: Field<String>,
    /// See the tunnel's key; for tunnels without `command`.
    pub(super) direction: Field<Direction>,
    /// See the tunnel's key.
    pub(super) interactive: Field<bool>,
    /// See the tunnel's key.
    pub(super) enabled: Field<bool>,
    /// See the tunnel's key; for tunnels with `command`.
    pub(super) working_directory: Field<String>,
    /// See the tunnel's key; merged name by name.
    pub(super) env: Field<Variables>,
    /// See the tunnel's key; for tunnels with `command`.
    pub(super) start_timeout: Field<Period>,
    /// See the tunnel's key; merged key by key, for tunnels without `command`.
    pub(super) ssh: Field<Ssh>,
    /// See the tunnel's key; merged key by key.
    pub(super) restart: Field<Restart>,
    /// See the tunnel's key.
    pub(super) stop_grace: Field<Period>,
    /// See the tunnel's key.
    pub(super) on_conflict: Field<OnConflict>,
}

/// How ssh is called.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Ssh {
    /// The ssh program. Default: `ssh`, looked up in PATH.
    pub(super) program: Field<String>,
    /// ssh -F: a file to read instead of ~/.ssh/config, or `none`.
    pub(super) config_file: Field<String>,
    /// ssh -i: the private key.
    pub(super) identity_file: Field<String>,
    /// ssh -o: options of ssh_config by name, such as `ProxyJump: bastion`.
    pub(super) options: Field<Options>,
    /// ssh's ConnectTimeout, in whole seconds. Login included, ssh may take twice this and 5s more. Default: 10s.
    pub(super) connect_timeout: Field<Period>,
}

/// How long to wait between tries. The first retry comes at once; then the wait doubles.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Restart {
    /// The wait before the second retry. Default: 250ms.
    pub(super) min_delay: Field<Period>,
    /// No wait is longer. Default: 60s.
    pub(super) max_delay: Field<Period>,
    /// A tunnel that was up for so long starts counting anew. Default: 60s.
    pub(super) reset_after: Field<Period>,
}

/// Where the API listens.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("dependentRequired" = { "listen": ["token_file"], "token_file": ["listen"] }))]
pub(super) struct Api {
    /// Path of the unix socket. Default: `portward.sock` in the runtime directory.
    pub(super) socket: Field<String>,
    /// TCP address and port, such as `127.0.0.1:8080`. Default: no TCP.
    pub(super) listen: Field<String>,
    /// File with the bearer token that TCP clients must bring.
    pub(super) token_file: Field<String>,
}

/// Which side listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Direction {
    /// A service of the server's side is reached here: ssh -L (-R with `direction_mode: ssh-standard`).
    RemoteToLocal,
    /// A service of this side is reached on the server: ssh -R (-L with `direction_mode: ssh-standard`).
    LocalToRemote,
    /// A SOCKS proxy here: ssh -D.
    Dynamic,
}

impl Direction {
    /// The word as written.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::RemoteToLocal => "remote_to_local",
            Self::LocalToRemote => "local_to_remote",
            Self::Dynamic => "dynamic",
        }
    }
}

/// Which of ssh's options the two words of `direction` stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum DirectionMode {
    /// `remote_to_local` is -L, `local_to_remote` is -R.
    #[default]
    Default,
    /// `local_to_remote` is -L, `remote_to_local` is -R.
    SshStandard,
}

/// What a command speaks on `local_port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Protocol {
    /// TCP.
    Tcp,
    /// UDP: to be bound is to listen.
    Udp,
}

/// What to do when somebody else holds the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnConflict {
    /// Wait for the kernel's word that it is free.
    Wait,
    /// End exactly the processes that hold it: all of them, or where one may not be ended, none.
    Kill,
}

/// Every key that may occur in the file, wherever.
pub(super) fn known_keys() -> BTreeSet<String> {
    let schema = schema().to_value();
    let mut keys = BTreeSet::new();
    let mut pending = vec![&schema];
    while let Some(value) = pending.pop() {
        if let Some(properties) = value.get("properties").and_then(serde_json::Value::as_object) {
            keys.extend(properties.keys().cloned());
        }
        match value {
            serde_json::Value::Object(members) => pending.extend(members.values()),
            serde_json::Value::Array(elements) => pending.extend(elements),
            _ => {}
        }
    }
    keys
}

/// The JSON schema of the configuration, as committed in config/portward.schema.json.
pub fn schema() -> Schema {
    schemars::schema_for!(Config)
}
