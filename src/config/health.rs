//! The health check that a tunnel's entry asks for.

use std::time::Duration;

use hyper::http::uri::PathAndQuery;

use super::desired::{Check, Forward, Health, SshTunnel, Work};
use super::diagnose::{Place, Refusal, quote};
use super::entry::Context;
use super::hint::{write, yaml};
use super::located::{Field, Located};
use super::raw;
use super::values::{Count, Period};
use crate::core::{HealthPolicy, Remedy};
use crate::port::Protocol;

const EVERY: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(5);
const FAILURES: u32 = 3;

/// Minimum of `every`: checks are connections to a service, and no load test.
const SHORTEST_EVERY: Duration = Duration::from_secs(1);

/// Minimum of `timeout`: a shorter one measures the load of the machine.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);

/// Maximum length of a path, in bytes.
const LONGEST_PATH: usize = 2048;

/// The ways to check, for hints.
const WAYS: &str = "write one of `connect: true`, `http: /PATH` and `command: [PROGRAM, ARGUMENT, ...]`";

impl Context<'_> {
    /// The health check of a tunnel that runs `work`. The outer `None`: it is wrong, which is reported; the inner one: there is none.
    #[expect(clippy::option_option, reason = "wrong and absent are two things")]
    pub(super) fn health(&self, raw: &raw::Tunnel, work: Option<&Work>) -> Option<Option<Health>> {
        let Located { place, value: health } = match &raw.health {
            Field::Absent => return Some(None),
            Field::Wrong => return None,
            Field::Right(health) => health,
        };
        let check = self.way(*place, health);
        let times = self.times(health);
        let failures = self.optional(&health.failures, "failures", |Count(failures)| Ok(*failures));
        let remedy = self.optional(&health.action, "action", |action| {
            Ok(match action {
                raw::Remedy::Restart => Remedy::Restart,
                raw::Remedy::Mark => Remedy::Mark,
            })
        });
        let (check, (every, timeout)) = (check?, times?);
        if let Some(refusal) = work.and_then(|work| unfit(&check.value, work)) {
            self.report(check.place, refusal.of("health"));
            return None;
        }
        let policy = HealthPolicy {
            every,
            failures: failures?.unwrap_or(FAILURES),
            remedy: remedy?.unwrap_or(Remedy::Restart),
        };
        Some(Some(Health { check: check.value, timeout, policy }))
    }

    /// The one way to check, and its place.
    fn way(&self, place: Place, health: &raw::Health) -> Option<Located<Check>> {
        let raw::Health { connect, http, command, .. } = health;
        let connect = match connect {
            Field::Absent => None,
            Field::Wrong => return None,
            Field::Right(connect) if connect.value.0 => Some(Some(connect.with(Check::Connect))),
            Field::Right(connect) => {
                let refusal = Refusal::new("`connect`: false is no way to check");
                self.report(connect.place, refusal.hint("remove `health:` if there is to be no check"));
                return None;
            }
        };
        let http = (!http.is_absent()).then(|| {
            let path = self.optional(http, "http", |text| path(text))??;
            Some(http.get()?.with(Check::Http(path)))
        });
        let command = (!command.is_absent())
            .then(|| Some(command.get()?.with(Check::Command(self.argv(command, "command")?))));
        let mut ways = [connect, http, command].into_iter().flatten();
        match (ways.next(), ways.next()) {
            (None, _) => {
                self.report(place, Refusal::new("`health`: does not say what to check").hint(WAYS));
                None
            }
            (Some(way), None) => way,
            (Some(_), Some(_)) => {
                let refusal = Refusal::new("`health`: more than one of `connect`, `http` and `command`");
                self.report(place, refusal.hint("a tunnel has one health check: keep one of them"));
                None
            }
        }
    }

    /// `every` and `timeout`.
    fn times(&self, health: &raw::Health) -> Option<(Duration, Duration)> {
        let period = |field: &Field<Period>, key: &str, shortest: Duration, least: &str| {
            self.optional(field, key, |Period(period)| {
                if *period < shortest {
                    return Err(Refusal::new("is too short").hint(format!("{least} is the least")));
                }
                Ok(*period)
            })
        };
        let every = period(&health.every, "every", SHORTEST_EVERY, "1s");
        let timeout = period(&health.timeout, "timeout", SHORTEST_TIMEOUT, "100ms");
        let every = every?.unwrap_or(EVERY);
        let timeout = timeout?.unwrap_or_else(|| TIMEOUT.min(every));
        if timeout > every {
            // It is written: the default is never longer.
            let place = health.timeout.get()?.place;
            let refusal = Refusal::new(format!("`timeout` ({timeout:?}) is longer than `every` ({every:?})"));
            self.report(place, refusal.hint("a check ends before the next one begins"));
            return None;
        }
        Some((every, timeout))
    }
}

/// The path of a request, as it is sent.
fn path(text: &str) -> Result<String, Refusal> {
    if let Some((_, rest)) = text.split_once("://") {
        let path = rest.find('/').map_or("/", |begin| &rest[begin..]);
        return Err(Refusal::new(format!("{} is a URL, not a path", quote(text))).hint(format!(
            "{}: the check goes through the tunnel",
            write(&format!("http: {}", yaml(path)))
        )));
    }
    if !text.starts_with('/') {
        let path = format!("/{text}");
        return Err(Refusal::new(format!("{} does not begin with `/`", quote(text)))
            .hint(write(&format!("http: {}", yaml(&path)))));
    }
    if text.len() > LONGEST_PATH {
        return Err(Refusal::new(format!("the path is longer than {LONGEST_PATH} bytes")));
    }
    let is_whole = |path: PathAndQuery| path.as_str() == text;
    if !text.is_ascii() || !text.parse().is_ok_and(is_whole) {
        return Err(Refusal::new(format!("{} is not the path of a URL", quote(text)))
            .hint("write other characters as `%` and two digits, as in `/a%20b`"));
    }
    Ok(text.to_owned())
}

/// Why a tunnel that runs `work` cannot be checked so.
fn unfit(check: &Check, work: &Work) -> Option<Refusal> {
    let by_command = |what: &str| format!("write `command:` with a program that {what}");
    match (check, work) {
        (Check::Connect | Check::Http(_), Work::Ssh(SshTunnel { forward: Forward::Remote { .. }, .. })) => Some(
            Refusal::new("the server listens, and portward cannot connect from there")
                .hint(by_command("asks the service over the server, and ends with status 0 if it answers")),
        ),
        (Check::Connect | Check::Http(_), Work::Ssh(SshTunnel { forward: Forward::Socket { .. }, .. })) => Some(
            Refusal::new("the tunnel listens on a unix socket, and this check needs a port")
                .hint(by_command("connects to the socket, and ends with status 0 if it is answered")),
        ),
        (Check::Http(_), Work::Ssh(SshTunnel { forward: Forward::Dynamic { .. }, .. })) => Some(
            Refusal::new("a SOCKS proxy has no page of its own").hint(
                "write `connect: true`, or ask a page through it: `command: [sh, -c, 'curl -fsSo /dev/null -x \
                 socks5h://$PORTWARD_LISTEN http://HOST/']`",
            ),
        ),
        (Check::Connect | Check::Http(_), Work::Command(command))
            if command.listen.iter().any(|endpoint| endpoint.protocol == Protocol::Udp) =>
        {
            Some(
                Refusal::new("there are no connections over UDP")
                    .hint(by_command("asks the service at $PORTWARD_LISTEN, and ends with status 0 if it answers")),
            )
        }
        (Check::Command(_), Work::Ssh(_) | Work::Command(_))
        | (Check::Connect | Check::Http(_), Work::Command(_))
        | (
            Check::Connect,
            Work::Ssh(SshTunnel { forward: Forward::Local { .. } | Forward::Dynamic { .. }, .. }),
        )
        | (Check::Http(_), Work::Ssh(SshTunnel { forward: Forward::Local { .. }, .. })) => None,
    }
}
