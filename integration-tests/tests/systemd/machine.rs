//! A machine that is booted for one test.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use integration_tests::SEED;

/// Set on the machine.
const MARK: &str = "PORTWARD_TEST_MACHINE";

/// How many times a test does each thing, if not as often as it does by itself. A longer one needs MACHINE_SECONDS as well.
pub(crate) const TIMES: &str = "PORTWARD_TEST_TIMES";

/// What both the machine and this one see, as the machine sees it: portward, its units, and this program.
pub(crate) const SHARED: &str = "/run/shared";

/// Runs `scenario` on a machine of its own. `test` is the name of the calling test.
///
/// What the machine runs is this program again, with that test only: it comes by here a second time, on the machine.
pub(crate) fn on_a_machine(test: &str, scenario: impl FnOnce()) {
    on_a_prepared_machine(test, |_| {}, scenario);
}

/// The same, on a machine that sees as [`SHARED`] what `prepare` has put into the directory that it is given.
pub(crate) fn on_a_prepared_machine(test: &str, prepare: impl FnOnce(&Path), scenario: impl FnOnce()) {
    if env::var_os(MARK).is_some() {
        return scenario();
    }
    let shared = tempfile::tempdir().unwrap();
    // The machine's ordinary users may look in.
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::copy(env!("CARGO_BIN_EXE_portward-under-test"), shared.path().join("portward")).unwrap();
    fs::copy(env::current_exe().unwrap(), shared.path().join("tests")).unwrap();
    run(
        "cp",
        &[
            "-r",
            &package.join("../config/systemd").display().to_string(),
            &shared.path().display().to_string(),
        ],
    );
    prepare(shared.path());

    let output = Command::new(package.join("systemd-in-namespace"))
        .arg(shared.path())
        .args(["env", &format!("{MARK}=yes")])
        .args([SEED, TIMES].into_iter().filter_map(|name| Some(format!("{name}={}", env::var(name).ok()?))))
        .arg(format!("{SHARED}/tests"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .output()
        .expect("starting systemd-in-namespace");
    let said = text(&output);
    assert!(output.status.success(), "on the machine: {}\n{said}", output.status);
    assert!(said.contains("test result: ok. 1 passed"), "there is no test {test}\n{said}");
    // Seen with --nocapture.
    println!("{said}");
}

/// Runs a program and returns what it says.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = attempt(program, arguments);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{}", output.status, text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program, whether it succeeds or not.
pub(crate) fn attempt(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("starting {program}: {error}"))
}

/// All that a program said.
pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
