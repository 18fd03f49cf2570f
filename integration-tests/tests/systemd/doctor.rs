//! `portward doctor` where systemd runs portward.

use std::fs;

use portward::protocol::doctor::{Finding, Level};

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

fn of<'a>(findings: &'a [Finding], check: &str) -> Vec<&'a Finding> {
    findings.iter().filter(|finding| finding.check == check).collect()
}

/// Panics unless all that is told of a check is well; returns it.
fn expect_ok(findings: &[Finding], check: &str) -> String {
    let told = of(findings, check);
    assert!(!told.is_empty() && told.iter().all(|finding| finding.level == Level::Ok), "{told:#?}");
    told[0].what.clone()
}

/// Runs all lines of the fix of a finding.
fn fix(finding: &Finding) {
    run("sh", &["-e", "-c", finding.fix.as_ref().unwrap()]);
}

/// Starts the service, and waits until the tunnel `up` is.
fn start(up: &str) -> Follower {
    let mut journal = Follower::of(UNIT);
    run("systemctl", &["start", UNIT]);
    journal.wait_up(up);
    journal
}

#[test]
fn the_service_of_the_readme_is_well() {
    on_a_machine("doctor::the_service_of_the_readme_is_well", || {
        site::build();
        let (findings, _) = examine();
        let not_enabled = of(&findings, "unit");
        assert_eq!((not_enabled.len(), not_enabled[0].level), (1, Level::Warning), "{not_enabled:#?}");
        let mut journal = Follower::of(UNIT);
        fix(not_enabled[0]);
        journal.wait_up("database");

        let (findings, code) = examine();
        assert_eq!(code, Some(0), "{findings:#?}");
        assert!(expect_ok(&findings, "unit").contains("is installed and enabled (active)"));
        for check in
            ["daemon", "file_events", "multiplexing", "held_ports", "host_keys", "keys", "privileges"]
        {
            expect_ok(&findings, check);
        }
        assert!(text(&attempt("portward", &["doctor"])).starts_with("Examined: the running daemon, pid "));
    });
}

#[test]
fn a_service_that_is_not_running_is_a_warning() {
    on_a_machine("doctor::a_service_that_is_not_running_is_a_warning", || {
        site::build();
        run("systemctl", &["enable", UNIT]);
        let (findings, _) = examine();
        let stopped = of(&findings, "unit")[0].clone();
        assert!(stopped.level == Level::Warning && stopped.what.contains("not running"), "{stopped:?}");
        fix(&stopped);
        let (findings, _) = examine();
        expect_ok(&findings, "unit");
    });
}

#[test]
fn a_low_port_requires_a_capability_that_the_fix_gives_to_the_unit() {
    on_a_machine("doctor::a_low_port_requires_a_capability_that_the_fix_gives_to_the_unit", || {
        site::build();
        site::configure(CONFIG, &[("web", 80), ("database", DATABASE)]);
        let mut journal = start("database");
        let (findings, code) = examine();
        let error = of(&findings, "privileged_ports")[0].clone();
        assert_eq!((code, error.level, &error.ports[..]), (Some(1), Level::Error, &[80][..]), "{error:?}");

        fix(&error);
        journal.wait_up("web");
        site::expect_greeting(80);
        let (findings, code) = examine();
        assert_eq!(code, Some(0), "{findings:#?}");
        expect_ok(&findings, "privileged_ports");
    });
}

#[test]
fn a_key_that_root_may_not_read_without_capabilities_is_an_error() {
    on_a_machine("doctor::a_key_that_root_may_not_read_without_capabilities_is_an_error", || {
        site::build();
        run("useradd", &["--create-home", "alice"]);
        run("chown", &["alice", "/root/.ssh/id_ed25519"]);
        run("systemctl", &["start", UNIT]);
        let (findings, code) = examine();
        let error = of(&findings, "keys")[0].clone();
        assert_eq!((code, error.level), (Some(1), Level::Error), "{findings:#?}");
        assert!(error.what.contains("user root cannot read the key /root/.ssh/id_ed25519"), "{error:?}");
        fix(&error);
        let (findings, code) = examine();
        assert_eq!(code, Some(0), "{findings:#?}");
        expect_ok(&findings, "keys");
    });
}

#[test]
fn a_key_in_the_private_tmp_of_the_unit_is_shown_by_the_fix() {
    on_a_machine("doctor::a_key_in_the_private_tmp_of_the_unit_is_shown_by_the_fix", || {
        site::build();
        run("cp", &["/root/.ssh/id_ed25519", "/tmp/key"]);
        let configured = fs::read_to_string(CONFIG).unwrap();
        fs::write(CONFIG, format!("{configured}    ssh: {{identity_file: /tmp/key}}\n")).unwrap();
        let mut journal = start("database");
        let (findings, code) = examine();
        let error = of(&findings, "unit")[0].clone();
        assert_eq!(
            (code, error.level, &error.tunnels[..]),
            (Some(1), Level::Error, &["database".to_owned()][..]),
            "{findings:#?}"
        );
        assert!(error.what.contains("has PrivateTmp=yes, and hides /tmp/key"), "{error:?}");
        fix(&error);
        journal.wait_up("database");
        let (findings, code) = examine();
        assert_eq!(code, Some(0), "{findings:#?}");
    });
}

#[test]
fn a_unit_without_its_program_is_an_error() {
    on_a_machine("doctor::a_unit_without_its_program_is_an_error", || {
        site::build();
        fs::rename("/usr/local/bin/portward", "/usr/bin/portward").unwrap();
        let (findings, code) = examine();
        let error = of(&findings, "unit")[0].clone();
        assert_eq!((code, error.level), (Some(1), Level::Error), "{findings:#?}");
        fix(&error);
        let mut journal = Follower::of(UNIT);
        run("systemctl", &["start", UNIT]);
        journal.wait_up("database");
    });
}
