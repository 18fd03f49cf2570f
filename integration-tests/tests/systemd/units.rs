//! The unit files as systemd judges them.

use std::path::Path;

use crate::machine::{on_a_machine, run};
use crate::site;

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    on_a_machine("units::systemd_finds_nothing_wrong_with_the_units", || {
        site::install();
        let units = "/etc/systemd/system";
        let said = run(
            "systemd-analyze",
            &["verify", &format!("{units}/portward.service"), &format!("{units}/portward@.service")],
        );
        assert_eq!(said, "");
    });
}

/// 3.0 of 10, where 10 is a service that may do everything.
#[test]
fn services_of_the_system_are_exposed_to_less_than_three() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/systemd");
    for unit in ["portward.service", "portward@.service"] {
        let unit = units.join(unit).display().to_string();
        run("systemd-analyze", &["security", "--no-pager", "--offline=true", "--threshold=29", &unit]);
    }
}
