//! What a text is by the place where it stands: a message, none, or either.
//!
//! It is a message as the first argument of `Refusal::new`, in `#[error]`, in a warning of the log, or as the value of what is called
//! `message`. It is none in a line of the log at level info, as what is searched for in another text, or as the step that is printed
//! beside a message.

/// What a text is by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A message, also if it is short.
    Message,
    /// A message if it is a sentence.
    Unknown,
    /// None.
    Other,
}

/// Methods whose text is searched for, or cut off from another one.
const SEARCHING: [&str; 13] = [
    "contains",
    "starts_with",
    "ends_with",
    "strip_prefix",
    "strip_suffix",
    "split_once",
    "rsplit_once",
    "split",
    "trim_start_matches",
    "trim_end_matches",
    "find",
    "replace",
    "matches",
];

/// Other methods whose texts nobody reads as a message: proofs, metrics and arguments of programs.
const SILENT: [&str; 6] = ["expect", "expect_err", "register", "arg", "args", "route"];

/// Macros whose texts nobody reads as a message: lines of the log that say that all is well, and proofs.
pub(crate) const QUIET: [&str; 14] = [
    "info",
    "debug",
    "trace",
    "panic",
    "unreachable",
    "assert",
    "assert_eq",
    "assert_ne",
    "debug_assert",
    "debug_assert_eq",
    "env",
    "include_str",
    "json_schema",
    "matches",
];

/// Macros with a text in which something is put.
pub(crate) const FORMATTING: [&str; 8] =
    ["format", "write", "writeln", "format_args", "print", "println", "eprintln", "concat"];

/// Macros of the log.
pub(crate) const LOGGING: [&str; 3] = ["log", "warn", "error"];

/// What the argument of a function is whose parameters cannot be seen here, or have other names.
pub(crate) fn role_of_argument(callee: &str, index: usize) -> Option<Role> {
    let role = match (callee, index) {
        (
            "Refusal::new"
            | "Refusal::bad_request"
            | "Refusal::unavailable"
            | "EditError::layout"
            | "EditError::refused",
            _,
        )
        | ("Finding::error" | "Finding::warning", 0)
        | ("Failure::new" | "CheckError::new", 1) => Role::Message,
        ("Finding::error" | "Finding::warning" | "Finding::ok", _) | ("check" | "command", 1) => Role::Other,
        _ => return None,
    };
    Some(role)
}

/// What a text is that has this name.
pub(crate) fn role_of_name(name: &str, file: &str) -> Option<Role> {
    let is_of_doctor = file.starts_with("doctor/") || file == "cli/doctor.rs";
    match name {
        "hint" => Some(Role::Other),
        "why" | "fix" | "line" | "change" | "consequence" if is_of_doctor => Some(Role::Other),
        // A command.
        "line" if file == "port/advice.rs" => Some(Role::Other),
        "what" | "why" | "message" | "reason" | "error" => Some(Role::Message),
        _ => None,
    }
}

/// Whether the text behind this name is no message.
pub(crate) fn is_other(name: &str) -> bool {
    SEARCHING.contains(&name) || SILENT.contains(&name) || name == "hint"
}
