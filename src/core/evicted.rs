//! Whether holders of a port that `on_conflict: kill` has ended come back, as they do under a supervisor that starts them again.
//!
//! Ending such a program again and again is a fight that nobody wins. So each return in a row is answered after a longer wait.

use super::{Failure, FailureKind};
use crate::clock::Moment;
use crate::port::{Holder, Occupant};

/// The holders that were ended last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Evicted {
    pids: Vec<u32>,
    /// The programs that these ran, without their directories.
    programs: Vec<String>,
    /// When they were told to end.
    at: Moment,
    /// Whether the port has been unbound since.
    pub(super) has_left: bool,
    /// How often in a row they had come back by then.
    pub(super) returns: u32,
}

impl Evicted {
    /// `holders` are told to end at `at`, after so many returns.
    pub(super) fn new(holders: &[Occupant], at: Moment, returns: u32) -> Self {
        let programs = known(holders).filter_map(program).map(str::to_owned).collect();
        Self { pids: pids(holders).collect(), programs, at, has_left: false, returns }
    }

    /// Whether `holders` are what is left of these: some of them have ended, others not yet.
    pub(super) fn is_left(&self, holders: &[Occupant]) -> bool {
        !self.has_left && pids(holders).any(|pid| self.pids.contains(&pid))
    }

    /// Whether one of `holders` runs the program of one of these.
    pub(super) fn is_like(&self, holders: &[Occupant]) -> bool {
        known(holders).filter_map(program).any(|program| self.programs.iter().any(|known| known == program))
    }

    /// When they were told to end.
    pub(super) fn at(&self) -> Moment {
        self.at
    }
}

fn known(holders: &[Occupant]) -> impl Iterator<Item = &Holder> {
    holders.iter().filter_map(|occupant| occupant.holder.as_ref())
}

fn pids(holders: &[Occupant]) -> impl Iterator<Item = u32> {
    known(holders).flat_map(Holder::pids)
}

/// The first word of the command line, without directories.
fn program(holder: &Holder) -> Option<&str> {
    holder.command.as_deref()?.split(' ').next()?.rsplit('/').next()
}

/// Why the port is still held: `holders` have come back so often in a row.
pub(super) fn came_back(holders: &[Occupant], returns: u32) -> Failure {
    let holder = known(holders).next();
    let name = holder.and_then(program).unwrap_or("the holder");
    let again = holder.map(|holder| format!(", now as {holder}")).unwrap_or_default();
    let times = if returns == 1 { "once".to_owned() } else { format!("{returns} times") };
    Failure::new(
        FailureKind::LocalPortHeld,
        format!(
            "{name} has come back {times} after `on_conflict: kill`{again}: its supervisor starts it again; stop that{}, or \
             use `on_conflict: wait`; until then it is ended again after waits that grow up to `restart.max_delay`",
            holder.map(stop).unwrap_or_default()
        ),
    )
}

/// The line that stops the supervisor of `holder`, if its unit or container is known and a shell takes the name as it is.
fn stop(holder: &Holder) -> String {
    let is_plain =
        |unit: &str| unit.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"@._:-".contains(&byte));
    let is_of_user = holder.cgroup.as_deref().is_some_and(|path| path.contains("/user@"));
    match (&holder.container, holder.unit.as_deref()) {
        (Some(_), _) => ", which runs its container".to_owned(),
        (None, Some(unit)) if unit.ends_with(".service") && is_plain(unit) => {
            format!(" (`systemctl{} stop {unit}`)", if is_of_user { " --user" } else { "" })
        }
        (None, Some(_) | None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::properties::occupant;
    use super::*;

    fn running(pid: u32, command: &str, unit: Option<&str>) -> Vec<Occupant> {
        let mut found = occupant(Some(pid));
        let holder = found.holder.as_mut().unwrap();
        (holder.command, holder.unit) = (Some(command.to_owned()), unit.map(str::to_owned));
        vec![found]
    }

    #[test]
    fn a_program_is_known_by_its_name_and_what_is_left_by_its_pid() {
        let evicted =
            Evicted::new(&running(7, "/usr/bin/python3 -m http.server", None), Moment::default(), 0);
        assert!(evicted.is_like(&running(8, "python3 other.py", None)));
        assert!(!evicted.is_like(&running(8, "nginx", None)) && !evicted.is_like(&[occupant(None)]));
        assert!(
            evicted.is_left(&running(7, "python3", None)) && !evicted.is_left(&running(8, "python3", None))
        );
        let gone = Evicted { has_left: true, ..evicted };
        assert!(!gone.is_left(&running(7, "python3", None)), "it has opened the port again");
    }

    #[test]
    fn who_comes_back_is_named_with_the_supervisor_to_stop() {
        let message = |holders: &[Occupant], returns| came_back(holders, returns).message;
        let mut web = running(812, "/usr/sbin/nginx -g daemon", Some("web.service"));
        insta::assert_snapshot!(message(&web, 1), @"nginx has come back once after `on_conflict: kill`, now as pid 812 (/usr/sbin/nginx -g daemon) of uid 0 in web.service: its supervisor starts it again; stop that (`systemctl stop web.service`), or use `on_conflict: wait`; until then it is ended again after waits that grow up to `restart.max_delay`");
        web[0].holder.as_mut().unwrap().cgroup = Some("/user.slice/user@1000.service/web.service".to_owned());
        assert!(message(&web, 2).contains("`systemctl --user stop web.service`"));
        let quoted = running(812, "nginx", Some("a\\x2db.service"));
        assert!(!message(&quoted, 2).contains("systemctl"), "a shell would take out the backslash");
        insta::assert_snapshot!(message(&running(812, "python3 x.py", Some("session-3.scope")), 3), @"python3 has come back 3 times after `on_conflict: kill`, now as pid 812 (python3 x.py) of uid 0 in session-3.scope: its supervisor starts it again; stop that, or use `on_conflict: wait`; until then it is ended again after waits that grow up to `restart.max_delay`");
    }
}
