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
    /// What the values of `direction` mean. Default: `default`.
    pub(super) direction_mode: Field<DirectionMode>,
    /// Where the API listens.
    pub(super) api: Field<Api>,
}

/// A tunnel: a forward over ssh (`remote_host`), or a program that binds `local_port` itself (`command`).
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["local_port"]))]
pub(super) struct Tunnel {
    /// Unique name, 1 to 128 printable characters, not beginning with `-`. A change of it restarts nothing. Default: derived from
    /// host and port, such as `db-server-13306`.
    pub(super) name: Field<String>,
    /// Destination for ssh: `user@host`, `ssh://user@host:port` or a Host alias of ssh_config. Required, here or in `defaults`,
    /// unless there is a `command`.
    pub(super) remote_host: Field<String>,
    /// -L: what the server connects to, `port` of the server itself or `host:port` as seen from it. -R: where the server listens,
    /// `port` or `bind:port`. Required for both; not with `dynamic` and `command`.
    ///
    /// A range (`8000-8010`) is as long as that of `local_port`. In place of a port, the path of a unix socket of the server.
    pub(super) remote_port: Field<Port>,
    /// -L, -D and command: where to listen, `port` or `address:port`. Without an address, ssh listens on 127.0.0.1 and ::1, and a
    /// command may listen on any address; `localhost:` is both loopback addresses, and `*:` every address. -R: the service here,
    /// `port` (on localhost) or `host:port`.
    ///
    /// For -L and -R it may be a range (`8000-8010`, at most 256 ports), of which all ports are up or none is, or the path of a
    /// unix socket.
    pub(super) local_port: Field<Port>,
    /// Mode of the unix socket that a -L listens on, as an octal string from 0600 to 0777. To connect takes the permission to
    /// write. Default: `"0600"`.
    pub(super) socket_mode: Field<SocketMode>,
    /// Which side listens. Default: `remote_to_local`, ssh -L.
    pub(super) direction: Field<Direction>,
    /// Who listens on `local_port` of a -L. Default: `ssh`.
    pub(super) listener: Field<Listener>,
    /// With `listener: portward`: how long a client waits for a connection to the server before it is closed. A change of it
    /// restarts nothing. Default: 30s.
    pub(super) connect_wait: Field<Period>,
    /// With `listener: portward`: start ssh when a client comes, and end it when there has been no client for this time, at least
    /// 1s. Clients wait for the login. Not with `standby: true`, `interactive: true` or a `command` of `health`. A change of it
    /// restarts nothing. Default: ssh runs all the time.
    pub(super) on_demand: Field<Period>,
    /// With `listener: portward`: the users of this machine that may connect, by name or uid, and groups as `@name`. Clients on
    /// other machines, or in another network namespace, are then never allowed. A change of it restarts nothing. Default:
    /// everybody may.
    pub(super) allow_users: Field<Vec<Field<String>>>,
    /// A person must log in, with `portward auth`: the tunnel waits in `needs_auth` until then, and again when the connection is
    /// lost. A restart is refused. Not with `command`, `standby`, `on_demand`, `fallback_hosts` or a `health` that restarts.
    /// Default: false.
    pub(super) interactive: Field<bool>,
    /// `false` keeps the tunnel stopped. Default: true.
    pub(super) enabled: Field<bool>,
    /// Program and arguments, instead of `remote_host`: a program that binds `local_port` itself. No shell is involved.
    pub(super) command: Field<Vec<Field<String>>>,
    /// Working directory of the command; a relative path begins at the directory of the configuration file. Default: that of
    /// portward, which is `/` for a service.
    pub(super) working_directory: Field<String>,
    /// Environment variables for the command, or for ssh, in addition to portward's own. Values are taken as they are written:
    /// nothing is expanded. NOTIFY_SOCKET, `WATCHDOG_*` and `LISTEN_*` cannot be set. Default: none.
    pub(super) env: Field<Variables>,
    /// Protocol of the `local_port` of a command. Default: `tcp`.
    pub(super) protocol: Field<Protocol>,
    /// Time that a command has to listen on its port. Default: 30s.
    pub(super) start_timeout: Field<Period>,
    /// How ssh is started. Not with `command`.
    pub(super) ssh: Field<Ssh>,
    /// Delays between retries.
    pub(super) restart: Field<Restart>,
    /// Time between SIGTERM and SIGKILL for the processes of the tunnel, and how long its process may be suspended (SIGSTOP)
    /// before it is replaced. Default: 5s.
    pub(super) stop_grace: Field<Period>,
    /// What to do when another process holds the port. Only `wait` for a unix socket of this machine. Default: `wait`.
    pub(super) on_conflict: Field<OnConflict>,
    /// -R: what to do when the server's end of an earlier connection of this tunnel still holds the port there. Default: `auto`.
    pub(super) remote_port_recovery: Field<RemotePortRecovery>,
    /// Other destinations with the same services, tried in order when `remote_host` is not reached (unknown name, connection
    /// refused, no answer, no route). The next restart tries `remote_host` first again. Not with `command`. Default: none.
    pub(super) fallback_hosts: Field<Vec<Field<String>>>,
    /// Keep a second connection logged in, which takes over as soon as the first one is lost. Not with `command`. Default: false.
    pub(super) standby: Field<bool>,
    /// Use one connection with all tunnels that have this key and the same `remote_host`, `fallback_hosts`, `env` and `ssh`, but
    /// for `connect_timeout`. Each keeps its own state: a restart moves one tunnel, and the others stay. Not with `command`.
    /// Default: false.
    pub(super) share: Field<bool>,
    /// A check that is repeated while the tunnel is up. `connect` is short for `{connect: true}`. A change of it restarts
    /// nothing. Default: none.
    #[schemars(schema_with = "health_or_word")]
    pub(super) health: Field<Health>,
    /// Program and arguments to run when the state has changed to `up`, `awaiting_port` (while somebody holds the port),
    /// `backoff`, `failed`, `stopped` or `needs_auth`. No shell is involved. One runs at a time for each tunnel, at most one is
    /// started a second, and it is killed after 30s. A change of it restarts nothing. Default: none.
    ///
    /// In its environment: PORTWARD_TUNNEL, PORTWARD_HASH, PORTWARD_STATE, PORTWARD_LOCAL_PORT, and if there is one
    /// PORTWARD_PREVIOUS_STATE, PORTWARD_LISTEN (`address:port`), PORTWARD_REMOTE_HOST, PORTWARD_REMOTE_PORT,
    /// PORTWARD_ERROR_KIND, PORTWARD_ERROR and PORTWARD_HOLDER_PID.
    pub(super) on_change: Field<Vec<Field<String>>>,
}

/// Defaults for all tunnels. Keys that do not apply to a tunnel are ignored for it.
///
/// A tunnel's own `standby: true` or `command` of `health` excludes `on_demand` of the defaults, and its own `on_demand` excludes
/// `standby` of the defaults.
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
    /// The ssh program; a name without a slash is looked up in PATH. Default: `ssh`.
    pub(super) program: Field<String>,
    /// ssh -F: the file to read instead of ~/.ssh/config and /etc/ssh/ssh_config; with `none`, ssh reads neither. Default: ssh
    /// reads both.
    pub(super) config_file: Field<String>,
    /// ssh -i: the private key. It has no passphrase, or is in an agent. Default: as ssh_config says.
    pub(super) identity_file: Field<String>,
    /// ssh -o: options of ssh_config by name, for example `ProxyJump: bastion`. Those that portward sets itself are refused.
    /// Default: none.
    ///
    /// Unless they are named here, portward sets ServerAliveInterval to 15, ServerAliveCountMax to 3, ForwardAgent, ForwardX11
    /// and AddKeysToAgent to no, and LogLevel to INFO if ssh_config suppresses the error messages of ssh. With AddressFamily, a
    /// `local_port` without an address is the loopback address of that family only.
    pub(super) options: Field<Options>,
    /// ConnectTimeout of ssh, in whole seconds. ssh has twice this time plus 5s to connect and log in. Default: 10s.
    pub(super) connect_timeout: Field<Period>,
}

/// Delays between retries. The first retry is made immediately; then the delay doubles, with some jitter, from `min_delay` to
/// `max_delay`.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Restart {
    /// Delay before the second retry, at least 10ms and not longer than `max_delay`. Default: 250ms.
    pub(super) min_delay: Field<Period>,
    /// Longest delay. Default: 60s.
    pub(super) max_delay: Field<Period>,
    /// After a tunnel was up for this time, the next retry is a first one again. Default: 60s.
    pub(super) reset_after: Field<Period>,
    /// After a restart, how long the old connection may go on carrying the connections of its clients. It no longer listens, and
    /// is ended as soon as the last of these has ended; with `local_to_remote` and `listener: portward`, whose clients are not
    /// seen on the port, it is kept for the whole time. Not with `command`. Default: 0s, the old connection is ended immediately.
    pub(super) drain: Field<Period>,
}

/// A check of the tunnel: exactly one of `connect`, `http` and `command`.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["connect"] }, { "required": ["http"] }, { "required": ["command"] }]))]
pub(super) struct Health {
    /// A connection through the tunnel is accepted, and not closed without a byte within 1s. For `dynamic`: the SOCKS proxy
    /// answers. Not with `local_to_remote`, a unix socket or UDP.
    pub(super) connect: Field<Yes>,
    /// `GET` of this path through the tunnel is answered with a status from 200 to 399. The Host that is asked for is that of
    /// `remote_port`. There is no TLS. Not with `local_to_remote`, `dynamic`, a unix socket or UDP.
    pub(super) http: Field<String>,
    /// This program ends with status 0. No shell is involved. PORTWARD_TUNNEL is the name of the tunnel, and PORTWARD_LISTEN
    /// where it listens. What it leaves running is killed.
    pub(super) command: Field<Vec<Field<String>>>,
    /// From the start of one check to that of the next, at least 1s. Default: 30s.
    pub(super) every: Field<Period>,
    /// Time that a check may take, at least 100ms and not longer than `every`. Default: 5s, or `every` if that is shorter.
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
    /// Path of the unix socket, at most 107 bytes. It always exists, for the user of portward and root. Default: portward.sock in
    /// the runtime directory, which is $RUNTIME_DIRECTORY, /run/portward for root, $XDG_RUNTIME_DIR/portward, or /tmp/portward-UID.
    pub(super) socket: Field<String>,
    /// TCP address and port, for example `127.0.0.1:8080`. Requires `token_file`. Default: no TCP.
    pub(super) listen: Field<String>,
    /// File with the bearer token that TCP clients must send, or with several, one a line. Only portward's user may read it.
    /// Required with `listen`.
    pub(super) token_file: Field<String>,
    /// Names by which TCP clients may call this machine, beside its addresses and `localhost`. Requires `listen`. Default: none.
    pub(super) hosts: Field<Vec<Field<String>>>,
    /// Origins of web pages that may call the API over TCP from a browser, for example `http://panel.example:5000`. Requires
    /// `listen`. Default: none.
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
    /// ssh. Without a connection to the server, clients are refused.
    Ssh,
    /// portward, which passes each client on to ssh. Without a connection to the server, clients wait.
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
