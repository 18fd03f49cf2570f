//! What is posted to `/config`: tunnels as the clients of autossh-tunnel send them.
//!
//! Ports are texts or numbers, and what a client does not say is left as it is. A key that is not one of the seven is an error: it
//! would be lost.

use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::config::edit::Fields;

/// The query of `POST /config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct ReplaceQuery {
    /// What the client has made sure of.
    pub confirm: Option<Confirmed>,
}

/// What a client has made sure of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Confirmed {
    /// That an empty list is meant.
    Empty,
}

// The types of bodies are only for the description of the API: `posted` reads them, and says what is wrong better than serde.

/// What is to be changed of a tunnel. What is left out stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only described")]
pub struct PostedChange {
    /// A new name.
    name: Option<String>,
    /// The destination, as `user@host`.
    remote_host: Option<String>,
    /// As in the configuration.
    remote_port: Option<PostedPort>,
    /// As in the configuration.
    local_port: Option<PostedPort>,
    /// `remote_to_local` (ssh -L) or `local_to_remote` (ssh -R).
    direction: Option<String>,
    /// Whether a person must log in.
    interactive: Option<bool>,
    /// The hash that the client was told.
    hash: Option<String>,
}

/// A whole tunnel.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only described")]
pub struct PostedTunnel {
    /// Its name.
    name: String,
    /// The destination, as `user@host`.
    remote_host: String,
    /// As in the configuration.
    remote_port: PostedPort,
    /// As in the configuration.
    local_port: PostedPort,
    /// `remote_to_local` (ssh -L) or `local_to_remote` (ssh -R), as in the configuration: the default is that of the file.
    direction: Option<String>,
    /// Whether a person must log in.
    interactive: Option<bool>,
    /// In a list: which tunnel is meant, if its name is another one by now.
    hash: Option<String>,
}

/// A port as it is posted.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only described")]
enum PostedPort {
    /// The number alone.
    Number(u16),
    /// The same as in the configuration, such as `127.0.0.1:3306`.
    Text(String),
}

/// The body of a request that replaces all tunnels.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only described")]
pub struct PostedList {
    /// Those that there are to be.
    tunnels: Vec<PostedTunnel>,
}

/// Why a body is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// There is none; in the words of autossh-tunnel.
    #[error("Request body required")]
    None,
    /// It is no JSON.
    #[error("the body is not JSON ({0})")]
    NotJson(String),
    /// It is not the value that is needed.
    #[error("{place}: expected {expected}, found {found}")]
    Wrong {
        /// Where.
        place: String,
        /// What was to be there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A key without meaning here.
    #[error("{place}: unknown key `{key}`: {known}")]
    Unknown {
        /// Where.
        place: String,
        /// The key.
        key: String,
        /// Those that have one.
        known: String,
    },
}

/// The keys of a posted tunnel.
const KEYS: [&str; 7] =
    ["name", "remote_host", "remote_port", "local_port", "direction", "interactive", "hash"];

/// Reads one tunnel.
///
/// # Errors
/// The body is something else.
pub fn posted(body: &[u8]) -> Result<Fields, BodyError> {
    fields("the tunnel", &json(body)?)
}

/// Reads `{"tunnels": [...]}`.
///
/// # Errors
/// The body is something else.
pub fn posted_list(body: &[u8]) -> Result<Vec<Fields>, BodyError> {
    let value = json(body)?;
    let whole = mapping("the body", &value)?;
    if let Some(key) = whole.keys().find(|key| *key != "tunnels") {
        return Err(unknown("the body", key, "it has `tunnels` alone"));
    }
    let tunnels = whole.get("tunnels").unwrap_or(&Value::Null);
    let Value::Array(tunnels) = tunnels else { return Err(wrong("`tunnels`", "a list", tunnels)) };
    (1..)
        .zip(tunnels)
        .map(|(number, tunnel)| fields(&format!("tunnel {number} of the list"), tunnel))
        .collect()
}

fn json(body: &[u8]) -> Result<Value, BodyError> {
    if body.is_empty() {
        return Err(BodyError::None);
    }
    serde_json::from_slice(body).map_err(|error| BodyError::NotJson(error.to_string()))
}

fn fields(place: &str, value: &Value) -> Result<Fields, BodyError> {
    let tunnel = mapping(place, value)?;
    if let Some(key) = tunnel.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let keys = KEYS.map(|key| format!("`{key}`")).join(", ");
        let known = format!(
            "a tunnel has {keys} here; the other keys are changed in the file, or with `portward config set`"
        );
        return Err(unknown(place, key, &known));
    }
    let of = |key: &str| (format!("{place}: `{key}`"), tunnel.get(key).unwrap_or(&Value::Null));
    let text = |key: &str| match of(key) {
        (_, Value::Null) => Ok(None),
        (_, Value::String(text)) => Ok(Some(text.clone())),
        (place, other) => Err(wrong(&place, "a text", other)),
    };
    let port = |key: &str| match of(key) {
        (_, Value::Number(number)) if number.as_u64().is_some() => Ok(Some(number.to_string())),
        (place, other @ (Value::Number(_) | Value::Bool(_) | Value::Array(_) | Value::Object(_))) => {
            Err(wrong(&place, "a port", other))
        }
        (_, Value::Null | Value::String(_)) => text(key),
    };
    let interactive = match of("interactive") {
        (_, Value::Null) => None,
        (_, Value::Bool(flag)) => Some(*flag),
        (_, Value::String(word)) if word == "true" => Some(true),
        (_, Value::String(word)) if word == "false" => Some(false),
        (place, other) => return Err(wrong(&place, "true or false", other)),
    };
    Ok(Fields {
        hash: text("hash")?,
        name: text("name")?,
        remote_host: text("remote_host")?,
        remote_port: port("remote_port")?,
        local_port: port("local_port")?,
        // The panel of autossh-tunnel has nothing to choose in a row that is not complete.
        direction: text("direction")?.filter(|word| !word.is_empty()),
        interactive,
    })
}

fn mapping<'v>(place: &str, value: &'v Value) -> Result<&'v Map<String, Value>, BodyError> {
    value.as_object().ok_or_else(|| wrong(place, "an object", value))
}

fn unknown(place: &str, key: &str, known: &str) -> BodyError {
    BodyError::Unknown { place: place.to_owned(), key: key.to_owned(), known: known.to_owned() }
}

fn wrong(place: &str, expected: &'static str, found: &Value) -> BodyError {
    let found = match found {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(number) => &format!("the number {number}"),
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    BodyError::Wrong { place: place.to_owned(), expected, found: found.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use utoipa::PartialSchema as _;

    use super::*;

    #[test]
    fn what_the_panel_and_scripts_send_is_read() {
        let panel = br#"{"name":"db","remote_host":"u@h","remote_port":"3306","local_port":"127.0.0.1:1","interactive":false,"direction":"remote_to_local"}"#;
        let fields = posted(panel).unwrap();
        assert_eq!((fields.name.as_deref(), fields.remote_port.as_deref()), (Some("db"), Some("3306")));
        assert_eq!((fields.interactive, fields.hash), (Some(false), None));
        let script =
            br#"{"tunnels":[{"local_port":8080,"interactive":"true","direction":"","hash":"ab"},{}]}"#;
        let list = posted_list(script).unwrap();
        assert_eq!((list[0].local_port.as_deref(), list[0].interactive), (Some("8080"), Some(true)));
        assert_eq!((list[0].direction.as_deref(), list[0].hash.as_deref()), (None, Some("ab")));
        assert_eq!(list[1], Fields::default());
    }

    #[test]
    fn what_is_something_else_is_refused_with_its_place() {
        let one = |body: &str| posted(body.as_bytes()).unwrap_err().to_string();
        assert_eq!(one(""), "Request body required");
        assert_eq!(one("[]"), "the tunnel: expected an object, found a list");
        assert_eq!(
            one(r#"{"local_port": true}"#),
            "the tunnel: `local_port`: expected a port, found true or false"
        );
        assert_eq!(
            one(r#"{"local_port": 1.5}"#),
            "the tunnel: `local_port`: expected a port, found the number 1.5"
        );
        assert_eq!(one(r#"{"name": 1}"#), "the tunnel: `name`: expected a text, found the number 1");
        assert_eq!(
            one(r#"{"interactive": "yes"}"#),
            "the tunnel: `interactive`: expected true or false, found a text"
        );
        assert!(one(r#"{"command": ["x"]}"#).starts_with("the tunnel: unknown key `command`"));
        let list = |body: &str| posted_list(body.as_bytes()).unwrap_err().to_string();
        assert_eq!(list("{}"), "`tunnels`: expected a list, found nothing");
        assert!(list(r#"{"tunnels": [], "api": {}}"#).starts_with("the body: unknown key `api`"));
        assert_eq!(
            list(r#"{"tunnels": [{}, 1]}"#),
            "tunnel 2 of the list: expected an object, found the number 1"
        );
        assert!(list("{").starts_with("the body is not JSON"));
    }

    #[test]
    fn the_description_has_the_keys_that_are_read() {
        for schema in [PostedChange::schema(), PostedTunnel::schema()] {
            let described = serde_json::to_value(schema).unwrap();
            let described: BTreeSet<&str> =
                described["properties"].as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(described, BTreeSet::from(KEYS));
        }
    }
}
