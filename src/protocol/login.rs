//! Logins by a person: the WebSocket `/ws/auth/{hash}`, and the questions of ssh that `POST /askpass` passes on.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The last message of the WebSocket, as text, in autossh-tunnel's words. What comes before it are bytes for a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "status")]
pub struct LoginEnd {
    /// How it ended.
    pub code: LoginCode,
    /// For a person, one line.
    pub message: String,
    /// With `error` only: the status that ssh ends with if it does not connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// How a login ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginCode {
    /// The tunnel is up.
    Success,
    /// It is not, and nobody logs in any more.
    Error,
    /// The same, because nothing was typed for too long, or it took too long in all.
    Timeout,
}

/// A question of ssh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskpassQuery {
    /// By which the daemon knows the login.
    pub token: String,
    /// What kind of a question it is.
    pub kind: QuestionKind,
    /// What ssh asks; the server may have written it.
    pub question: String,
}

/// What kind of a question ssh asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionKind {
    /// For a text, which may be secret.
    Text,
    /// For yes or no.
    Confirm,
    /// For nothing: a notice, such as that a security key is to be touched.
    Notice,
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskpassAnswer {
    /// What the person typed.
    pub answer: Secret,
}

/// What a person typed, which is shown nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_has_the_shape_that_the_panel_of_autossh_tunnel_reads() {
        let end = LoginEnd { code: LoginCode::Error, message: "no".to_owned(), exit_code: Some(255) };
        let text = r#"{"type":"status","code":"error","message":"no","exit_code":255}"#;
        assert_eq!(serde_json::to_string(&end).unwrap(), text);
        assert_eq!(serde_json::from_str::<LoginEnd>(text).unwrap(), end);
        let end = LoginEnd { code: LoginCode::Success, message: "up".to_owned(), exit_code: None };
        assert_eq!(
            serde_json::to_string(&end).unwrap(),
            r#"{"type":"status","code":"success","message":"up"}"#
        );
    }

    #[test]
    fn what_was_typed_is_not_in_debug_output() {
        assert!(!format!("{:?}", AskpassAnswer { answer: Secret("s3cret".to_owned()) }).contains("s3cret"));
    }
}
