//! The configuration as written: every key, its type and its meaning.
//!
//! The JSON schema is made from these types and their comments, and so is the list of known keys.

use std::collections::BTreeSet;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::environment::Variables;
use super::located::Field;
use super::values::{Count, Options, Period, Port, SocketMode, Yes};

/// The configuration of portward.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "portward configuration", extend("required" = ["tunnels"]))]
pub(super) struct Config {
    /// The tunnels; `[]` or nothing if there are none.
    #[schemars(extend("type" = ["array", "null"]))]
    pub(super) tunnels: Field<Vec<Field<Tunnel>>>,
    /// Defaults for all tunnels.
    pub(super) defaults: Field<Defaults>,
    /// What the values of `direction` mean.
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
    /// Destination for ssh: `user@host`, `ssh://user@host:port` or a Host alias of ssh_config.
    pub(super) remote_host: Field<String>,
    /// -L: `port` or `host:port` as seen from the server. -R: `port` or `bind:port` on the server. Not used with `dynamic`. A range
    /// (`8000-8010`) is as long as that of `local_port`. Or the path of a unix socket of the server.
    pub(super) remote_port: Field<Port>,
    /// -L, -D and command: `port` or `address:port` to listen on. -R: `port` or `host:port` of the service here. A range
    /// (`8000-8010`, at most 256 ports) for -L and -R: all of its ports are up, or none. Or for these the path of a unix socket.
    pub(super) local_port: Field<Port>,
    /// Mode of the unix socket that a -L listens on, as an octal string from 0600 to 0777. Default: `"0600"`.
    pub(super) socket_mode: Field<SocketMode>,
    /// Which side listens. Default: `remote_to_local`, ssh -L.
    pub(super) direction: Field<Direction>,
    /// Who listens on `local_port` of a -L. Default: `ssh`.
    pub(super) listener: Field<Listener>,
    /// With `listener: portward`: how long a client waits for a connection to the server. Default: 30s.
    pub(super) connect_wait: Field<Period>,
    /// With `listener: portward`: start ssh when a client comes, and end it when there has been no client for this time. Default:
    /// ssh runs all the time.
    pub(super) on_demand: Field<Period>,
    /// With `listener: portward`: the users of this machine that may connect, by name or uid, and groups as `@name`. Default:
    /// everybody.
    pub(super) allow_users: Field<Vec<Field<String>>>,
    /// A person must log in, with `portward auth`: the tunnel waits in `needs_auth` until then, and again when the connection is
    /// lost. Not with `command`, `standby`, `on_demand`, `fallback_hosts` or a `health` that restarts. Default: false.
    pub(super) interactive: Field<bool>,
    /// `false` keeps the tunnel stopped. Default: true.
    pub(super) enabled: Field<bool>,
    /// Program and arguments, instead of `remote_host`; no shell is involved.
    pub(super) command: Field<Vec<Field<String>>>,
    /// Working directory of the command. Default: that of portward, which is `/` for a service.
    pub(super) working_directory: Field<String>,
    /// Environment variables for the command, or for ssh, in addition to portward's own.
    pub(super) env: Field<Variables>,
    /// Protocol of the `local_port` of a command. Default: `tcp`.
    pub(super) protocol: Field<Protocol>,
    /// Time that a command has to listen on its port. Default: 30s.
    pub(super) start_timeout: Field<Period>,
    /// How ssh is started.
    pub(super) ssh: Field<Ssh>,
    /// Delays between retries.
    pub(super) restart: Field<Restart>,
    /// Time between SIGTERM and SIGKILL for the processes of the tunnel, and how long its process may be suspended (SIGSTOP) before
    /// it is replaced. Default: 5s.
    pub(super) stop_grace: Field<Period>,
    /// What to do when another process holds the port. Default: `wait`.
    pub(super) on_conflict: Field<OnConflict>,
    /// -R: what to do when the server's end of an earlier connection of this tunnel still holds the port there. Default: `auto`.
    pub(super) remote_port_recovery: Field<RemotePortRecovery>,
    /// Other destinations with the same services, tried in order when `remote_host` cannot be reached. Not with `command`.
    pub(super) fallback_hosts: Field<Vec<Field<String>>>,
    /// Keep a second connection logged in, which takes over as soon as the first one is lost. Not with `command`. Default: false.
    pub(super) standby: Field<bool>,
    /// Use one connection with the other tunnels that have this key, the same destinations and the same `ssh` and `env`. Not with
    /// `command`. Default: false.
    pub(super) share: Field<bool>,
    /// A check that is repeated while the tunnel is up. `connect` is short for `{connect: true}`. Default: none.
    #[schemars(schema_with = "health_or_word")]
    pub(super) health: Field<Health>,
    /// Program and arguments to run when the state has changed, with the facts in its environment; no shell is involved. Default: none.
    pub(super) on_change: Field<Vec<Field<String>>>,
}

/// Defaults for all tunnels. Keys that do not apply to a tunnel are ignored for it.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Defaults {
    /// See the tunnel's key; for tunnels without `command`.
    pub(super) remote_host: Field<String>,
    /// See the tunnel's key; for tunnels without `command`.
    pub(super) direction: Field<Direction>,
    /// See the tunnel's key; for -L.
    pub(super) listener: Field<Listener>,
    /// See the tunnel's key; for tunnels with `listener: portward`.
    pub(super) connect_wait: Field<Period>,
    /// See the tunnel's key; for tunnels with `listener: portward` that it fits.
    pub(super) on_demand: Field<Period>,
    /// See the tunnel's key; for tunnels with `listener: portward`.
    pub(super) allow_users: Field<Vec<Field<String>>>,
    /// See the tunnel's key; for tunnels without `command`.
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
    /// See the tunnel's key; for -R.
    pub(super) remote_port_recovery: Field<RemotePortRecovery>,
    /// See the tunnel's key; for tunnels without `command`.
    pub(super) standby: Field<bool>,
    /// See the tunnel's key; for tunnels without `command`.
    pub(super) share: Field<bool>,
    /// See the tunnel's key.
    pub(super) on_change: Field<Vec<Field<String>>>,
}

/// How ssh is started.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Ssh {
    /// The ssh program. Default: `ssh`, looked up in PATH.
    pub(super) program: Field<String>,
    /// ssh -F: the file to read instead of ~/.ssh/config, or `none`.
    pub(super) config_file: Field<String>,
    /// ssh -i: the private key.
    pub(super) identity_file: Field<String>,
    /// ssh -o: options of ssh_config by name, for example `ProxyJump: bastion`.
    pub(super) options: Field<Options>,
    /// ConnectTimeout of ssh, in whole seconds. ssh has twice this time plus 5s to connect and log in. Default: 10s.
    pub(super) connect_timeout: Field<Period>,
}

/// Delays between retries. The first retry is made immediately; then the delay doubles.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Restart {
    /// Delay before the second retry. Default: 250ms.
    pub(super) min_delay: Field<Period>,
    /// Longest delay. Default: 60s.
    pub(super) max_delay: Field<Period>,
    /// After a tunnel was up for this time, the next retry is a first one again. Default: 60s.
    pub(super) reset_after: Field<Period>,
    /// After a restart, how long the old connection may go on carrying the connections of its clients. It is ended as soon as the
    /// last of these has ended. Not with `command`. Default: 0s, the old connection is ended immediately.
    pub(super) drain: Field<Period>,
}

/// A check of the tunnel: exactly one of `connect`, `http` and `command`.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["connect"] }, { "required": ["http"] }, { "required": ["command"] }]))]
pub(super) struct Health {
    /// A connection through the tunnel is accepted, and not closed at once. For `dynamic`: the SOCKS proxy answers.
    pub(super) connect: Field<Yes>,
    /// `GET` of this path through the tunnel is answered with a status from 200 to 399.
    pub(super) http: Field<String>,
    /// This program ends with status 0; PORTWARD_LISTEN is where the tunnel listens. No shell is involved.
    pub(super) command: Field<Vec<Field<String>>>,
    /// From the start of one check to that of the next, at least 1s. Default: 30s.
    pub(super) every: Field<Period>,
    /// Time that a check may take, at least 100ms and not longer than `every`. Default: 5s.
    pub(super) timeout: Field<Period>,
    /// So many failed checks in a row mean that the tunnel is failing. Default: 3.
    pub(super) failures: Field<Count>,
    /// What to do about a failing tunnel. Default: `restart`.
    pub(super) action: Field<Remedy>,
}

/// The key that may be without a value, as files of autossh-tunnel have it: then there are no tunnels.
pub(super) const MAY_BE_NULL: &str = "tunnels";

/// The one word that may stand for a [`Health`], and the key that it stands for.
pub(super) const HEALTH_WORD: (&str, &str) = ("Health", "connect");

fn health_or_word(generator: &mut SchemaGenerator) -> Schema {
    let mapping = generator.subschema_for::<Health>();
    json_schema!({ "anyOf": [{ "const": HEALTH_WORD.1 }, mapping] })
}

/// Where the API listens.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("dependentRequired" = { "listen": ["token_file"], "token_file": ["listen"] }))]
pub(super) struct Api {
    /// Path of the unix socket. Default: `portward.sock` in the runtime directory.
    pub(super) socket: Field<String>,
    /// TCP address and port, for example `127.0.0.1:8080`. Requires `token_file`. Default: no TCP.
    pub(super) listen: Field<String>,
    /// File with the bearer token that TCP clients must send, or with several, one a line.
    pub(super) token_file: Field<String>,
    /// Names by which TCP clients may call this machine, beside its addresses and `localhost`. Default: none.
    pub(super) hosts: Field<Vec<Field<String>>>,
    /// Origins of web pages that may call the API over TCP from a browser, for example `http://panel.example:5000`. Default: none.
    pub(super) cors_origins: Field<Vec<Field<String>>>,
}

/// Which side listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Direction {
    /// This machine listens, and connections go to the server's side: ssh -L (-R with `direction_mode: ssh-standard`).
    RemoteToLocal,
    /// The server listens, and connections come to this side: ssh -R (-L with `direction_mode: ssh-standard`).
    LocalToRemote,
    /// This machine listens as a SOCKS proxy: ssh -D.
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

/// Who listens on the `local_port` of a -L.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Listener {
    /// ssh: without a connection to the server, clients are refused.
    Ssh,
    /// portward: without a connection to the server, clients wait.
    Portward,
}

/// What the values of `direction` mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum DirectionMode {
    /// `remote_to_local` is -L, `local_to_remote` is -R.
    #[default]
    Default,
    /// `local_to_remote` is -L, `remote_to_local` is -R.
    SshStandard,
}

/// Protocol of the `local_port` of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Protocol {
    /// TCP.
    Tcp,
    /// UDP: a bound socket counts as a listener.
    Udp,
}

/// What to do when another process holds the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnConflict {
    /// Wait until the kernel reports that it is unbound.
    Wait,
    /// End the processes that hold it: all of them, or none if one of them may not be ended.
    Kill,
}

/// What to do when the server's end of an earlier connection of a -R still holds the port there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RemotePortRecovery {
    /// End exactly that process of the server, over the new connection, and take the port. A command is run there to find it.
    Auto,
    /// Try again until the server has noticed that the connection is gone. No command is run there.
    Off,
}

/// What to do about a tunnel whose health check fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Remedy {
    /// Make a new connection; restarts that do not help come after waits that double, as retries do.
    Restart,
    /// Only show it, in the status and in the log.
    Mark,
}

/// Every key that may occur in the file, at any place.
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
