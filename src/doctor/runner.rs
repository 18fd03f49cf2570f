//! Who runs a configuration: a file that a service reads means what it means to that service.

use std::path::{Path, PathBuf};

use super::environment;
use super::judged::user_of;
use super::machine::Machine;
use super::systemd::Unit;
use super::unit::Units;

/// A service of the system that reads a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runner {
    /// The unit and its user, in words.
    pub name: String,
    /// What `~/` is to it, if it has a home directory.
    pub home: Option<PathBuf>,
    /// Its user.
    pub uid: u32,
}

/// The service of the system that reads the file `config`, as far as systemd runs this machine and has such a unit.
pub async fn runner_of(config: &Path) -> Option<Runner> {
    let machine = Machine::this();
    let units = Units::find(&machine).await;
    units.of_system().find_map(|unit| runner(&machine, unit, config))
}

/// `unit`, if that is who reads `config`.
pub(super) fn runner(machine: &Machine, unit: &Unit, config: &Path) -> Option<Runner> {
    let user = user_of(unit)?;
    let variables = environment::of_unit(machine, unit, &user);
    let uid = user.uid.as_raw();
    let read = environment::config(&unit.arguments(), &variables, uid)?;
    environment::is_same(&read, config).then(|| Runner {
        name: format!("{} (user {})", unit.name, user.name),
        home: environment::home(&variables, uid),
        uid,
    })
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::machine;
    use super::super::systemd::Manager;
    use super::super::systemd::tests::unit;
    use super::*;

    #[test]
    fn the_unit_that_reads_the_file_is_told_with_its_home() {
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
    }
}
