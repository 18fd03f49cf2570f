//! The environment of a service, as systemd.exec(5) makes it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::unistd::User;

use super::machine::Machine;
use super::systemd::Unit;
use crate::paths;

/// Where systemd's own services look for programs.
const PATH_OF_SERVICES: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables by name.
pub(super) type Variables = BTreeMap<OsString, OsString>;

/// What a system service finds in its environment: what systemd sets, then `Environment=`, then `EnvironmentFile=`.
pub(super) fn of_unit(machine: &Machine, unit: &Unit, user: &User) -> Variables {
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

/// Those of a process, as /proc shows them.
pub(super) fn of_process(environ: &[u8]) -> Variables {
    let variables = environ.split(|byte| *byte == 0).filter_map(|variable| {
        let at = variable.iter().position(|byte| *byte == b'=')?;
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        Some((text(&variable[..at]), text(&variable[at + 1..])))
    });
    variables.collect()
}

/// What `~/` in the configuration is with these variables, for the user `uid`.
pub(super) fn home(variables: &Variables, uid: u32) -> Option<PathBuf> {
    let set = variables.get(OsStr::new(paths::HOME)).map(PathBuf::from).filter(|home| home.is_absolute());
    set.or_else(|| paths::home_of(uid))
}

/// The configuration that `portward run` takes with these arguments and variables, as the user `uid`.
pub(super) fn config(arguments: &[&str], variables: &Variables, uid: u32) -> Option<PathBuf> {
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
    paths::config_of(uid, variable("XDG_CONFIG_HOME").map(OsString::as_os_str), || home(variables, uid))
}

/// Whether two paths lead to the same file.
pub(super) fn is_same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

fn assignment(word: &str) -> Option<(OsString, OsString)> {
    let (name, value) = word.split_once('=')?;
    Some((name.into(), value.into()))
}

/// Words as `systemctl show` prints a list of them: those with a blank or another sign of a shell are quoted.
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

/// The assignments in a file of `EnvironmentFile=`: one a line, a value may be quoted, `#` and `;` begin a comment.
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
    fn a_system_service_has_no_home_unless_it_has_a_user() {
        let (_root, machine) = machine(&[]);
        let variables = of_unit(&machine, &unit(Manager::System, &[]), &root());
        assert_eq!(variables.keys().collect::<Vec<_>>(), ["PATH"]);
        assert_eq!(home(&variables, 0).as_deref(), Some(Path::new("/root")), "from the passwd entry");
        let variables = of_unit(&machine, &unit(Manager::System, &["User=root"]), &root());
        assert_eq!(variables[OsStr::new("HOME")], "/root");
    }

    #[test]
    fn what_the_unit_sets_comes_last_and_files_after_it() {
        let (_root, machine) = machine(&[(
            "/etc/default/portward",
            "# of portward\nHOME=\"/srv/the home\"\n PATH = /opt/bin\nbad line\n; more\nLONG=a\\\nb\n",
        )]);
        let lines = [
            r#"Environment=HOME=/srv/one "TWO=a b" THREE=c"#,
            "EnvironmentFiles=/etc/default/missing (ignore_errors=yes)",
            "EnvironmentFiles=/etc/default/portward (ignore_errors=no)",
        ];
        let variables = of_unit(&machine, &unit(Manager::System, &lines), &root());
        let value = |name: &str| variables.get(OsStr::new(name)).and_then(|value| value.to_str());
        assert_eq!(
            (value("HOME"), value("TWO"), value("THREE")),
            (Some("/srv/the home"), Some("a b"), Some("c"))
        );
        assert_eq!((value("PATH"), value("LONG")), (Some("/opt/bin"), Some("ab")));
        assert_eq!(home(&variables, 0).as_deref(), Some(Path::new("/srv/the home")));
    }

    #[test]
    fn the_configuration_is_that_of_the_arguments_the_variables_or_the_user() {
        let variables = |pairs: &[(&str, &str)]| -> Variables {
            pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
        };
        let none = variables(&[]);
        let path = |arguments: &[&str], variables: &Variables, uid| {
            config(arguments, variables, uid).unwrap().display().to_string()
        };
        assert_eq!(path(&["portward", "run"], &none, 0), "/etc/portward/config.yaml");
        assert_eq!(path(&["portward", "run", "--config", "/a"], &none, 0), "/a");
        assert_eq!(path(&["portward", "run", "--config=/b"], &none, 0), "/b");
        assert_eq!(path(&["portward", "run"], &variables(&[("PORTWARD_CONFIG", "/c")]), 0), "/c");
        let home = variables(&[("HOME", "/home/alice")]);
        assert_eq!(path(&["portward", "run"], &home, 1000), "/home/alice/.config/portward/config.yaml");
    }
}
