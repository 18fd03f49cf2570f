//! One tunnel's entry, checked.

use std::path::Path;
use std::time::Duration;

use super::desired::{AllowedUsers, Clients, RemotePortRecovery, Tunnel, Work, Written};
use super::diagnose::{Place, Problems, Refusal, quote};
use super::located::{Field, Located};
use super::paths::Base;
use super::raw::{self, Direction, DirectionMode, OnConflict};
use super::values::{Period, Port};
use super::{identity, meant};
use crate::core::{self, Kind, LONGEST_LOGIN, Policy};
use crate::text::{self, is_unsafe};

const MIN_DELAY: Duration = Duration::from_millis(250);
const MAX_DELAY: Duration = Duration::from_secs(60);
const RESET_AFTER: Duration = Duration::from_secs(60);
const STOP_GRACE: Duration = Duration::from_secs(5);
const CONNECT_WAIT: Duration = Duration::from_secs(30);

/// Minimum of `min_delay`: with a shorter one, a tunnel that cannot start would be a load for both sides.
const SHORTEST_DELAY: Duration = Duration::from_millis(10);

/// Minimum of `on_demand`: with a shorter one, clients that come one after the other would wait for a login each.
const SHORTEST_ON_DEMAND: Duration = Duration::from_secs(1);

/// Whoever waits for a person gives up after [`LONGEST_LOGIN`]; its ssh is given up this much later if nobody does.
const LOGIN_MARGIN: Duration = Duration::from_secs(30);

/// What the entries of a file have in common.
pub(super) struct Context<'c> {
    /// What the paths in the file are taken from.
    pub(super) directory: Base<'c>,
    pub(super) mode: DirectionMode,
    pub(super) problems: &'c Problems,
}

/// A tunnel whose own entry is valid; it may still conflict with others.
pub(super) struct Checked {
    /// The place of the port that it listens on.
    pub(super) port: Place,
    /// The place of the name; `None`: it is derived, and not yet unique.
    pub(super) name: Option<Place>,
    pub(super) tunnel: Tunnel,
}

/// Checks `entry`, which is merged with the defaults already, and reports what is wrong.
pub(super) fn check(entry: &Located<raw::Tunnel>, context: &Context<'_>) -> Option<Checked> {
    let raw = &entry.value;
    let name = context.optional(&raw.name, "name", |name| check_name(name).map(|()| name.clone()));
    let work = if raw.command.is_absent() { context.ssh(entry) } else { context.command(entry) };
    let health = context.health(raw, work.as_ref().map(|(work, ..)| work));
    let timing = context.timing(raw);
    let fallback_hosts = context.fallback_hosts(raw);
    let clients = context.clients(raw);
    let on_demand = context.on_demand(raw);
    let on_change = context.on_change(raw);
    let by_hand = context.by_hand(raw);
    let (name, (work, timeout, port), health, timing) = (name?, work?, health?, timing?);
    let (fallback_hosts, clients, on_demand, on_change) = (fallback_hosts?, clients?, on_demand?, on_change?);
    by_hand?;

    let interactive = raw.interactive.value().copied().unwrap_or(false);
    let written = written(raw);
    let hash = identity::hash(name.as_deref(), &written, interactive);
    let name =
        name.unwrap_or_else(|| identity::derived_name(&runner(&work), &local_name(&written.local_port)));
    let log_id = identity::log_id(&written);
    let enabled = raw.enabled.value().copied().unwrap_or(true);
    let policy = Policy {
        standby: raw.standby.value().copied().unwrap_or(false),
        on_demand,
        destinations: 1 + fallback_hosts.len(),
        ..policy(&work, timeout, timing, raw.on_conflict.value())
    };
    // A person is waited for, and whoever waits ends the login.
    let ready_timeout = if interactive { LONGEST_LOGIN + LOGIN_MARGIN } else { policy.ready_timeout };
    let policy = Policy { ready_timeout, ..policy };
    let tunnel = Tunnel {
        name,
        hash,
        log_id,
        written,
        enabled,
        interactive,
        work,
        fallback_hosts,
        share: raw.share.value().copied().unwrap_or(false),
        timeout,
        policy,
        health,
        on_change,
        clients,
        remote_port_recovery: match raw.remote_port_recovery.value() {
            None | Some(raw::RemotePortRecovery::Auto) => RemotePortRecovery::Auto,
            Some(raw::RemotePortRecovery::Off) => RemotePortRecovery::Off,
        },
    };
    Some(Checked { port, name: raw.name.get().map(|name| name.place), tunnel })
}

fn written(raw: &raw::Tunnel) -> Written {
    let text = |field: &Field<String>| field.value().cloned().unwrap_or_default();
    let port_text = |field: &Field<Port>| field.value().map(|port| port.0.clone()).unwrap_or_default();
    Written {
        remote_host: text(&raw.remote_host),
        remote_port: port_text(&raw.remote_port),
        local_port: port_text(&raw.local_port),
        direction: direction(raw).as_str().to_owned(),
    }
}

/// What an entry calls itself, valid or not.
pub(super) struct Sketch {
    /// As written, or derived as far as the entry can be read.
    pub(super) name: String,
    pub(super) hash: String,
    pub(super) log_id: String,
    pub(super) written: Written,
    pub(super) interactive: bool,
}

impl Sketch {
    /// `None`: it is no mapping.
    pub(super) fn of(raw: Option<&raw::Tunnel>) -> Self {
        let raw = &raw.cloned().unwrap_or_default();
        let written = written(raw);
        let interactive = raw.interactive.value().copied().unwrap_or(false);
        // A name that is not valid may not be safe to show.
        let name = raw.name.value().filter(|name| check_name(name).is_ok());
        let runner = if written.remote_host.is_empty() { "tunnel" } else { &written.remote_host };
        let derived = || match local_name(&written.local_port).as_str() {
            "" => runner.to_owned(),
            port => identity::derived_name(runner, port),
        };
        Self {
            name: name.cloned().unwrap_or_else(|| text::line(&derived()).into_owned()),
            hash: identity::hash(raw.name.value().map(String::as_str), &written, interactive),
            log_id: identity::log_id(&written),
            written,
            interactive,
        }
    }
}

/// Whether nothing in an entry contradicts `on_demand`.
pub(super) fn may_sleep(raw: &raw::Tunnel) -> bool {
    let standby = raw.standby.value().copied().unwrap_or(false);
    !standby && raw.health.value().is_none_or(|health| health.command.is_absent())
}

pub(super) fn direction(raw: &raw::Tunnel) -> Direction {
    raw.direction.value().copied().unwrap_or(Direction::RemoteToLocal)
}

/// What a derived name begins with.
fn runner(work: &Work) -> String {
    match work {
        Work::Ssh(tunnel) => tunnel.ssh.destination.clone(),
        Work::Command(command) => {
            let program = command.argv.first().map(Path::new).and_then(Path::file_name);
            program
                .map_or_else(|| "command".to_owned(), |name| text::line(&name.to_string_lossy()).into_owned())
        }
    }
}

/// What a derived name ends with: the port, or the name of a unix socket's file.
fn local_name(local_port: &str) -> String {
    let name = local_port.rsplit('/').next().unwrap_or(local_port);
    text::line(name).into_owned()
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let seen: String = name.chars().filter(|letter| !is_unsafe(*letter)).collect();
    let refusal = if name.is_empty() {
        Refusal::new("is empty").hint("remove the line to have a name derived")
    } else if seen.trim().is_empty() {
        Refusal::new("shows nothing")
            .hint("write letters or digits, or remove the line to have a name derived")
    } else if name.starts_with('-') {
        Refusal::new(format!(
            "{} begins with `-`, so the command line would take it for an option",
            quote(name)
        ))
    } else if name.chars().count() > identity::LONGEST_NAME {
        Refusal::new(format!("longer than {} characters", identity::LONGEST_NAME))
    } else if name.chars().any(char::is_control) {
        Refusal::new(format!("{} holds a control character", quote(name)))
    } else if let Some(letter) = name.chars().find(|letter| is_unsafe(*letter)) {
        Refusal::new(format!("{} holds a character that cannot be seen", quote(name))).hint(format!(
            "take out {}: write {}",
            letter.escape_unicode(),
            quote(seen.trim())
        ))
    } else {
        return meant::name(name);
    };
    Err(refusal)
}

/// An element of `allow_users`.
enum UserOrGroup {
    User(String),
    Group(String),
}

/// Whether there is such a user is asked when a client comes: accounts may be added later.
fn check_user(text: &str) -> Result<UserOrGroup, Refusal> {
    meant::filled_in(text)?;
    let (name, convert): (_, fn(String) -> UserOrGroup) = match text.strip_prefix('@') {
        Some(group) => (group, UserOrGroup::Group),
        None => (text, UserOrGroup::User),
    };
    let is_strange = |letter: char| letter.is_whitespace() || is_unsafe(letter) || ":,@".contains(letter);
    if name.is_empty() || name.contains(is_strange) {
        return Err(Refusal::new(format!("{} is no user or group", quote(text)))
            .hint("write each user as an element of the list, and a group as \"@name\""));
    }
    Ok(convert(name.to_owned()))
}

/// The durations of `restart` and `stop_grace`.
#[derive(Clone, Copy)]
struct Timing {
    min_delay: Duration,
    max_delay: Duration,
    reset_after: Duration,
    drain: Duration,
    stop_grace: Duration,
}

fn policy(work: &Work, timeout: Duration, timing: Timing, on_conflict: Option<&OnConflict>) -> Policy {
    let (kind, ready_timeout) = match work {
        // The connect timeout for the handshake, the same for the login, and a margin for a slow machine.
        Work::Ssh(_) => (Kind::Ssh, timeout * 2 + Duration::from_secs(5)),
        Work::Command(_) => (Kind::Command, timeout),
    };
    let on_conflict = match on_conflict {
        None | Some(OnConflict::Wait) => core::OnConflict::Wait,
        Some(OnConflict::Kill) => core::OnConflict::Kill,
    };
    let Timing { min_delay, max_delay, reset_after, drain, stop_grace } = timing;
    Policy {
        kind,
        min_delay,
        max_delay,
        reset_after,
        ready_timeout,
        stop_grace,
        on_conflict,
        standby: false,
        drain,
        on_demand: None,
        destinations: 1,
    }
}

impl Context<'_> {
    pub(super) fn report(&self, place: Place, refusal: Refusal) {
        self.problems.report(place, refusal);
    }

    /// The value of a key that may be left out. The outer `None`: it is wrong, which is reported.
    #[expect(clippy::option_option, reason = "wrong and absent are two things")]
    pub(super) fn optional<T, U>(
        &self,
        field: &Field<T>,
        key: &str,
        convert: impl FnOnce(&T) -> Result<U, Refusal>,
    ) -> Option<Option<U>> {
        match field {
            Field::Absent => Some(None),
            Field::Wrong => None,
            Field::Right(Located { place, value }) => match convert(value) {
                Ok(value) => Some(Some(value)),
                Err(refusal) => {
                    self.report(*place, refusal.of(key));
                    None
                }
            },
        }
    }

    /// The right ones of a list.
    pub(super) fn list(
        &self,
        field: &Field<Vec<Field<String>>>,
        key: &str,
        check: impl Fn(&String) -> Result<(), Refusal>,
    ) -> Vec<String> {
        let right = |entry| self.optional(entry, key, |text| check(text).map(|()| text.clone())).flatten();
        field.value().into_iter().flatten().filter_map(right).collect()
    }

    /// The value of a key that `entry` must have. `None`: it has not, or it is wrong, which is reported.
    pub(super) fn required<T, U>(
        &self,
        entry: &Located<raw::Tunnel>,
        field: &Field<T>,
        key: &str,
        hint: &str,
        convert: impl FnOnce(&T) -> Result<U, Refusal>,
    ) -> Option<U> {
        if field.is_absent() {
            let of = entry.value.name.value().map_or_else(String::new, |name| format!(" of {}", quote(name)));
            self.report(entry.place, Refusal::new(format!("missing key `{key}`{of}")).hint(hint));
        }
        self.optional(field, key, convert)?
    }

    /// Reports a key that has no meaning for this kind of tunnel.
    pub(super) fn forbid<T>(&self, field: &Field<T>, key: &str, why: &str, hint: &str) -> Option<()> {
        let Some(Located { place, .. }) = field.get() else { return Some(()) };
        self.report(*place, Refusal::new(format!("`{key}` {why}")).hint(hint));
        None
    }

    fn clients(&self, raw: &raw::Tunnel) -> Option<Clients> {
        let connect_wait = self.optional(&raw.connect_wait, "connect_wait", |Period(wait)| {
            if wait.is_zero() {
                return Err(Refusal::new("leaves clients no time")
                    .hint("write 1s or more, or `listener: ssh` to have clients refused at once"));
            }
            Ok(*wait)
        });
        let allow_users = self.allow_users(raw);
        Some(Clients { connect_wait: connect_wait?.unwrap_or(CONNECT_WAIT), allow_users: allow_users.ok()? })
    }

    /// How long a connection is kept without clients. The outer `None`: it is wrong, which is reported.
    #[expect(clippy::option_option, reason = "wrong and absent are two things")]
    fn on_demand(&self, raw: &raw::Tunnel) -> Option<Option<Duration>> {
        let on_demand = self.optional(&raw.on_demand, "on_demand", |Period(period)| {
            if *period < SHORTEST_ON_DEMAND {
                return Err(Refusal::new("is too short")
                    .hint("1s is the least: clients that come later wait for a login"));
            }
            Ok(*period)
        })?;
        if on_demand.is_none() || may_sleep(raw) {
            return Some(on_demand);
        }
        if raw.standby.value() == Some(&true) {
            let why = "and `standby` exclude each other";
            let hint = "keep one of them: the one ends the connection, the other keeps a second one";
            self.forbid(&raw.on_demand, "on_demand", why, hint);
        }
        let command = raw.health.value().map(|health| health.command.clone()).unwrap_or_default();
        let why = "cannot be `health` of a tunnel with `on_demand`";
        let hint = "write `connect` or `http`: the connections of a program count as clients, and no tunnel would sleep";
        self.forbid(&command, "command", why, hint);
        None
    }

    /// The program to run when the state has changed. The outer `None`: it is wrong, which is reported.
    #[expect(clippy::option_option, reason = "wrong and absent are two things")]
    fn on_change(&self, raw: &raw::Tunnel) -> Option<Option<Vec<String>>> {
        if raw.on_change.is_absent() {
            return Some(None);
        }
        self.argv(&raw.on_change, "on_change").map(Some)
    }

    /// Reports what makes no sense where a person logs in. `None`: there is such a thing.
    fn by_hand(&self, raw: &raw::Tunnel) -> Option<()> {
        if raw.interactive.value() != Some(&true) {
            return Some(());
        }
        let why = "and `interactive` exclude each other";
        let standby = if raw.standby.value() == Some(&true) { &raw.standby } else { &Field::Absent };
        let restarts = |health: &raw::Health| health.action.value() != Some(&raw::Remedy::Mark);
        let health = match &raw.health {
            Field::Right(health) if restarts(&health.value) => {
                let refusal = Refusal::new("`health`: of a tunnel with `interactive` it can restart nothing");
                let hint = "add `action: mark`: only a person can make a new connection";
                self.report(health.place, refusal.hint(hint));
                None
            }
            Field::Absent | Field::Wrong | Field::Right(_) => Some(()),
        };
        let hint = "remove one of the two: `enabled: false` keeps a command stopped until `portward start`";
        let command = self.forbid(&raw.command, "command", why, hint);
        let hint = "remove one of the two: a second connection would need a second login";
        let standby = self.forbid(standby, "standby", why, hint);
        let hint = "remove one of the two: nobody is there to log in when a client comes";
        let on_demand = self.forbid(&raw.on_demand, "on_demand", why, hint);
        let hint = "remove one of the two: a person logs in to one host";
        let fallback_hosts = self.forbid(&raw.fallback_hosts, "fallback_hosts", why, hint);
        [health, command, standby, on_demand, fallback_hosts].into_iter().collect()
    }

    /// `Err`: it is wrong, which is reported.
    fn allow_users(&self, raw: &raw::Tunnel) -> Result<Option<AllowedUsers>, ()> {
        let Located { place, value: entries } = match &raw.allow_users {
            Field::Absent => return Ok(None),
            Field::Wrong => return Err(()),
            Field::Right(entries) => entries,
        };
        if entries.is_empty() {
            let refusal = Refusal::new("`allow_users`: is an empty list, which nobody is in");
            self.report(
                *place,
                refusal.hint("name users and @groups, or remove it to let everybody connect"),
            );
            return Err(());
        }
        let names: Vec<_> = entries
            .iter()
            .map(|entry| self.optional(entry, "allow_users", |name| check_user(name)))
            .collect();
        let mut allowed = AllowedUsers { users: Vec::new(), groups: Vec::new() };
        for name in names {
            match name.flatten().ok_or(())? {
                UserOrGroup::User(name) => allowed.users.push(name),
                UserOrGroup::Group(name) => allowed.groups.push(name),
            }
        }
        Ok(Some(allowed))
    }

    fn timing(&self, raw: &raw::Tunnel) -> Option<Timing> {
        let absent = raw::Restart::default();
        let restart = match &raw.restart {
            Field::Absent => &absent,
            Field::Wrong => return None,
            Field::Right(restart) => &restart.value,
        };
        let period = |field: &Field<Period>, key: &str, shortest: Duration, default: Duration| {
            let checked = self.optional(field, key, |Period(period)| {
                if *period < shortest {
                    return Err(
                        Refusal::new("is too short").hint(format!("{}ms is the least", shortest.as_millis()))
                    );
                }
                Ok(*period)
            });
            checked.map(|period| period.unwrap_or(default))
        };
        let min_delay = period(&restart.min_delay, "min_delay", SHORTEST_DELAY, MIN_DELAY);
        let max_delay = period(&restart.max_delay, "max_delay", SHORTEST_DELAY, MAX_DELAY);
        let reset_after = period(&restart.reset_after, "reset_after", Duration::ZERO, RESET_AFTER);
        let drain = period(&restart.drain, "drain", Duration::ZERO, Duration::ZERO);
        let stop_grace = period(&raw.stop_grace, "stop_grace", Duration::ZERO, STOP_GRACE);
        let (min_delay, max_delay) = (min_delay?, max_delay?);
        if min_delay > max_delay {
            // One of the two is written: the defaults are in order.
            let place = restart.min_delay.get().or(restart.max_delay.get())?.place;
            let refusal = Refusal::new(format!(
                "`min_delay` ({min_delay:?}) is longer than `max_delay` ({max_delay:?})"
            ));
            self.report(place, refusal.hint("the wait grows from `min_delay` to `max_delay`"));
            return None;
        }
        Some(Timing {
            min_delay,
            max_delay,
            reset_after: reset_after?,
            drain: drain?,
            stop_grace: stop_grace?,
        })
    }
}
