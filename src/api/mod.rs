//! The HTTP API: it reads snapshots and sends commands, and touches no tunnel itself. `configure` alone changes something: the
//! configuration's file.
//!
//! One path is a WebSocket: `/ws/auth/{hash}` (`auth`, `login`, `line`), whose ssh asks by `/askpass` (`askpass`).
//!
//! On the unix socket for our own user and root (`peer`), on TCP for whoever has a bearer token (`token`)
//! and asks for an address or a name of ours (`host`); pages of other origins need to be named (`cors`). Every answer but a
//! stream is JSON (`json`); every refusal is `{"error": "..."}` and names the next step (`refusal`); each handler says what it takes and
//! answers, from which `/openapi.json` is made (`description`). Nothing in here waits for a
//! client without a deadline (`serve`, `body`, `deadline`), and whoever asks for little gets in, however many are there that ask
//! for much or for nothing (`guests`).

mod act;
mod askpass;
mod auth;
mod body;
mod configure;
mod context;
mod cors;
mod deadline;
mod description;
mod doctor;
mod events;
mod examine;
mod guests;
mod host;
mod json;
mod line;
mod listen;
mod login;
mod logs;
mod metrics;
mod peer;
mod ports;
mod read;
mod refusal;
mod reload;
mod router;
mod serve;
mod stream;
#[cfg(test)]
mod tests;
mod token;
mod version;

pub use examine::Examine;
pub use listen::{ApiError, Listeners};
pub use serve::serve;
