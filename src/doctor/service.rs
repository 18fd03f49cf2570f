//! The service that reads a configuration: the file means what it means to that service, whose `~/` is another.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};
use tokio::task::spawn_blocking;

use super::ask::Asker;
use super::machine::Machine;
use super::systemd::Unit;
use super::unit::Units;
use crate::paths;

/// The PATH of systemd's services.
const PATH_OF_SERVICES: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment of a process.
type Variables = BTreeMap<OsString, OsString>;

/// A system service that reads a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runner {
    /// The unit and its user, for a message.
    pub name: String,
    /// What it takes `~/` for, if it has a home directory.
    pub home: Option<PathBuf>,
}

/// The system service that reads the file `config`, if there is one.
pub async fn runner_of(config: &Path) -> Option<Runner> {
    let config = config.to_owned();
    let found = spawn_blocking(move || {
        let machine = Machine::this();
        let units = Units::find(&machine, Asker { deadline: None });
        units.of_system().find_map(|unit| runner(&machine, unit, &config))
    });
    found.await.ok().flatten()
}

/// `unit`, if it reads `config`.
fn runner(machine: &Machine, unit: &Unit, config: &Path) -> Option<Runner> {
    let user = user_of(unit)?;
    let variables = environment(machine, unit, &user);
    let uid = user.uid.as_raw();
    let read = config_of(&unit.arguments(), &variables, uid)?;
    is_same_file(&read, config).then(|| Runner {
        name: format!("{} (user {})", unit.name, user.name),
        home: home_of(&variables, uid),
    })
}

/// Whether two paths lead to the same file.
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// The user of a system unit.
fn user_of(unit: &Unit) -> Option<User> {
    let user = match unit.property("User") {
        "" => User::from_uid(Uid::from_raw(0)),
        name => match name.parse() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)),
            Err(_) => User::from_name(name),
        },
    };
    user.ok().flatten()
}

/// The environment of a system service: what systemd sets, then `Environment=`, then `EnvironmentFile=`.
fn environment(machine: &Machine, unit: &Unit, user: &User) -> Variables {
    let mut variables = Variables::from([("PATH".into(), PATH_OF_SERVICES.into())]);
    if !unit.property("User").is_empty() {
        let (name, shell) = (OsString::from(&user.name), user.shell.clone().into_os_string());
        variables.insert(paths::HOME.into(), user.dir.clone().into_os_string());
        variables.extend([("USER".into(), name.clone()), ("LOGNAME".into(), name), ("SHELL".into(), shell)]);
    }
    variables.extend(words(unit.property("Environment")).iter().filter_map(|word| assignment(word)));
    for line in unit.property("EnvironmentFiles").lines() {
        let path = line.rsplit_once(" (").map_or(line, |(path, _)| path);
        if let Some(text) = machine.text(path) {
            variables.extend(in_file(&text));
        }
    }
    variables
}

/// What `~/` in the configuration means with these variables, for the user `uid`.
fn home_of(variables: &Variables, uid: u32) -> Option<PathBuf> {
    let set = variables.get(OsStr::new(paths::HOME)).map(PathBuf::from).filter(|home| home.is_absolute());
    set.or_else(|| paths::home_of(uid))
}

/// The configuration that `portward run` reads with these arguments and variables, as the user `uid`.
fn config_of(arguments: &[&str], variables: &Variables, uid: u32) -> Option<PathBuf> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if *argument == "--config" {
            return rest.next().map(PathBuf::from);
        }
        if let Some(path) = argument.strip_prefix("--config=") {
            return Some(PathBuf::from(path));
        }
    }
    let variable = |name: &str| variables.get(OsStr::new(name)).filter(|value| !value.is_empty());
    if let Some(path) = variable("PORTWARD_CONFIG") {
        return Some(PathBuf::from(path));
    }
    paths::config_of(uid, variable("XDG_CONFIG_HOME").map(OsString::as_os_str), || home_of(variables, uid))
}

fn assignment(word: &str) -> Option<(OsString, OsString)> {
    let (name, value) = word.split_once('=')?;
    Some((name.into(), value.into()))
}

/// The words of a list that `systemctl show` prints, which quotes some of them.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(letters.next()),
            (letter, Some(end)) if letter == end => quote = None,
            ('"' | '\'', None) => {
                word.get_or_insert_default();
                quote = Some(letter);
            }
            (letter, None) if letter.is_ascii_whitespace() => words.extend(word.take()),
            (letter, _) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// The assignments in a file of `EnvironmentFile=`, one on each line; a value may be quoted, `#` and `;` begin a comment.
fn in_file(text: &str) -> Vec<(OsString, OsString)> {
    let text = text.replace("\\\n", "");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    let pairs = lines.filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        let value = value.trim();
        let is_quoted = value.starts_with(['"', '\'']);
        let value = if is_quoted { words(value).swap_remove(0) } else { value.replace('\\', "") };
        Some((name.trim().into(), value.into()))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::machine;
    use super::super::systemd::Manager;
    use super::super::systemd::tests::unit;
    use super::*;

    fn root() -> User {
        User::from_uid(nix::unistd::Uid::from_raw(0)).unwrap().unwrap()
    }

    #[test]
    fn the_unit_that_reads_the_file_is_found_with_its_home() {
        let (_root, machine) = machine(&[]);
        let run = "ExecStart={ path=/usr/local/bin/portward ; argv[]=/usr/local/bin/portward run ; ignore_errors=no }";
        let shipped = unit(Manager::System, &[run]);
        let found = runner(&machine, &shipped, Path::new("/etc/portward/config.yaml")).unwrap();
        assert_eq!((found.name.as_str(), found.home), ("portward.service (user root)", Some("/root".into())));
        assert_eq!(runner(&machine, &shipped, Path::new("/etc/other.yaml")), None);
        let elsewhere =
            unit(Manager::System, &[run, "Environment=HOME=/srv/h PORTWARD_CONFIG=/etc/other.yaml"]);
        let found = runner(&machine, &elsewhere, Path::new("/etc/other.yaml")).unwrap();
        assert_eq!(found.home, Some("/srv/h".into()));
        assert!(user_of(&unit(Manager::System, &["User=no-such-user-here"])).is_none());
    }

    #[test]
    fn a_system_service_has_no_home_unless_it_has_a_user() {
        let (_root, machine) = machine(&[]);
        let variables = environment(&machine, &unit(Manager::System, &[]), &root());
        assert_eq!(variables.keys().collect::<Vec<_>>(), ["PATH"]);
        assert_eq!(home_of(&variables, 0).as_deref(), Some(Path::new("/root")), "from the passwd entry");
        let variables = environment(&machine, &unit(Manager::System, &["User=root"]), &root());
        assert_eq!(variables[OsStr::new("HOME")], "/root");
    }

    #[test]
    fn environment_files_come_after_what_the_unit_sets() {
        let (_root, machine) = machine(&[(
            "/etc/default/portward",
            "# of portward\nHOME=\"/srv/the home\"\n PATH = /opt/bin\nbad line\n; more\nLONG=a\\\nb\n",
        )]);
        let lines = [
            r#"Environment=HOME=/srv/one "TWO=a b" THREE=c"#,
            "EnvironmentFiles=/etc/default/missing (ignore_errors=yes)",
            "EnvironmentFiles=/etc/default/portward (ignore_errors=no)",
        ];
        let variables = environment(&machine, &unit(Manager::System, &lines), &root());
        let value = |name: &str| variables.get(OsStr::new(name)).and_then(|value| value.to_str());
        assert_eq!(
            (value("HOME"), value("TWO"), value("THREE")),
            (Some("/srv/the home"), Some("a b"), Some("c"))
        );
        assert_eq!((value("PATH"), value("LONG")), (Some("/opt/bin"), Some("ab")));
        assert_eq!(home_of(&variables, 0).as_deref(), Some(Path::new("/srv/the home")));
    }

    #[test]
    fn arguments_come_before_variables_and_variables_before_the_users_own_file() {
        let variables = |pairs: &[(&str, &str)]| -> Variables {
            pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
        };
        let none = variables(&[]);
        let path = |arguments: &[&str], variables: &Variables, uid| {
            config_of(arguments, variables, uid).unwrap().display().to_string()
        };
        assert_eq!(path(&["portward", "run"], &none, 0), "/etc/portward/config.yaml");
        assert_eq!(path(&["portward", "run", "--config", "/a"], &none, 0), "/a");
        assert_eq!(path(&["portward", "run", "--config=/b"], &none, 0), "/b");
        assert_eq!(path(&["portward", "run"], &variables(&[("PORTWARD_CONFIG", "/c")]), 0), "/c");
        let home = variables(&[("HOME", "/home/alice")]);
        assert_eq!(path(&["portward", "run"], &home, 1000), "/home/alice/.config/portward/config.yaml");
    }
}
