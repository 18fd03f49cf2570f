//! `portward doctor` where systemd runs portward.

use std::fs;

use portward::doctor::{Check, Finding, Level};

use crate::journal::Follower;
use crate::machine::{attempt, on_a_machine, run, text};
use crate::site::{self, CONFIG, DATABASE};

const UNIT: &str = "portward.service";

/// What doctor finds, and its exit code.
fn examine() -> (Vec<Finding>, Option<i32>) {
    let output = attempt("portward", &["doctor", "--json"]);
    let findings = serde_json::from_slice(&output.stdout);
    (findings.unwrap_or_else(|error| panic!("{error}: {}", text(&output))), output.status.code())
}

fn of(findings: &[Finding], check: Check) -> Vec<&Finding> {
    findings.iter().filter(|finding| finding.check == check).collect()
}

/// Panics unless all that is told of a check is well; returns it.
fn expect_ok(findings: &[Finding], check: Check) -> String {
    let told = of(findings, check);
    assert!(!told.is_empty() && told.iter().all(|finding| finding.level == Level::Ok), "{told:#?}");
    told[0].what.clone()
}

/// Runs all lines that mend a finding.
fn mend(finding: &Finding) {
    run("sh", &["-e", "-c", finding.mend.as_ref().unwrap()]);
}

#[test]
fn the_service_of_the_readme_is_well() {
    on_a_machine("doctor::the_service_of_the_readme_is_well", || {
        site::build();
        let (findings, _) = examine();
        let not_enabled = of(&findings, Check::Unit);
        assert_eq!((not_enabled.len(), not_enabled[0].level), (1, Level::Warning), "{not_enabled:#?}");
        let mut journal = Follower::of(UNIT);
        mend(not_enabled[0]);
        journal.wait_up("database");

        let (findings, code) = examine();
        assert_eq!(code, Some(0), "{findings:#?}");
        assert!(expect_ok(&findings, Check::Unit).contains("is installed and enabled (active)"));
        assert!(expect_ok(&findings, Check::Journal).contains("takes log lines"));
        assert!(expect_ok(&findings, Check::Cgroup).contains("/system.slice/portward.service"));
        expect_ok(&findings, Check::HeldPorts);
        expect_ok(&findings, Check::HostKeys);
        let privileges = of(&findings, Check::Privileges)[0];
        assert!(privileges.what.contains("the daemon (pid "), "{privileges:?}");
    });
}

#[test]
fn a_low_port_takes_a_capability_that_the_line_gives_to_the_unit() {
    on_a_machine("doctor::a_low_port_takes_a_capability_that_the_line_gives_to_the_unit", || {
        site::build();
        site::configure(CONFIG, &[("web", 80), ("database", DATABASE)]);
        let (findings, code) = examine();
        let error = of(&findings, Check::PrivilegedPorts)[0].clone();
        assert_eq!((code, error.level, &error.ports[..]), (Some(1), Level::Error, &[80][..]), "{error:?}");
        assert!(error.what.contains("portward.service (not running, user root)"), "{error:?}");

        // The daemon that runs has no more than that.
        let mut journal = Follower::of(UNIT);
        run("systemctl", &["start", UNIT]);
        journal.wait_up("database");
        let (findings, _) = examine();
        let error = of(&findings, Check::PrivilegedPorts)[0].clone();
        assert!(error.what.contains("the daemon (pid "), "{error:?}");

        mend(&error);
        journal.wait_up("web");
        site::expect_greeting(80);
        let (findings, code) = examine();
        assert_eq!(code, Some(0), "{findings:#?}");
        expect_ok(&findings, Check::PrivilegedPorts);
        run("systemctl", &["stop", UNIT]);
        let (findings, _) = examine();
        assert!(expect_ok(&findings, Check::PrivilegedPorts).contains("portward.service (not running"));
    });
}

#[test]
fn a_key_that_root_may_not_read_without_capabilities_is_an_error() {
    on_a_machine("doctor::a_key_that_root_may_not_read_without_capabilities_is_an_error", || {
        site::build();
        run("useradd", &["--create-home", "alice"]);
        run("chown", &["alice", "/root/.ssh/id_ed25519"]);
        let (findings, code) = examine();
        let error = of(&findings, Check::Keys)[0].clone();
        assert_eq!((code, error.level), (Some(1), Level::Error), "{findings:#?}");
        assert!(error.what.contains("cannot read the key /root/.ssh/id_ed25519"), "{error:?}");
        mend(&error);
        let (findings, code) = examine();
        assert_eq!(code, Some(0), "{findings:#?}");
        expect_ok(&findings, Check::Keys);
    });
}

#[test]
fn a_unit_without_its_program_is_an_error() {
    on_a_machine("doctor::a_unit_without_its_program_is_an_error", || {
        site::build();
        fs::rename("/usr/local/bin/portward", "/usr/bin/portward").unwrap();
        let (findings, code) = examine();
        let error = of(&findings, Check::Unit)[0].clone();
        assert_eq!((code, error.level), (Some(1), Level::Error), "{findings:#?}");
        mend(&error);
        let mut journal = Follower::of(UNIT);
        run("systemctl", &["start", UNIT]);
        journal.wait_up("database");
    });
}
