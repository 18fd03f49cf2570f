//! A port that systemd holds for a socket unit.

use std::fs;

use portward::protocol::doctor::{Finding, Level};

use crate::journal::Follower;
use crate::machine::{attempt, on_a_machine, run, text};
use crate::site::{self, CONFIG};

const UNIT: &str = "portward.service";
const PORT: u16 = 9443;

/// Listens on the port for a service that starts when somebody connects.
fn listen_for_a_service() {
    fs::write("/etc/systemd/system/web.socket", format!("[Socket]\nListenStream=127.0.0.1:{PORT}\n"))
        .unwrap();
    fs::write("/etc/systemd/system/web.service", "[Service]\nExecStart=/bin/sleep infinity\n").unwrap();
    run("systemctl", &["start", "web.socket"]);
}

fn held_ports() -> (Finding, Option<i32>) {
    let output = attempt("portward", &["doctor", "--json"]);
    let findings: Vec<Finding> =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    let finding = findings.into_iter().find(|finding| finding.check == "held_ports");
    (finding.unwrap(), output.status.code())
}

/// Names the unit, and nothing that would cost the machine.
fn is_safe(said: &str) {
    for wrong in ["kill 1 ", "kill 1`", "stop init.scope", "init.scope`", "stop portward"] {
        assert!(!said.contains(wrong), "{wrong} in {said}");
    }
    let finds = said.contains("systemctl list-sockets --all --no-pager | grep ':9443 '");
    assert!(said.contains("web.socket") || finds, "{said}");
}

#[test]
fn a_socket_unit_is_named_and_never_the_service_manager() {
    on_a_machine("sockets::a_socket_unit_is_named_and_never_the_service_manager", || {
        site::build();
        site::configure(CONFIG, &[("web", PORT)]);
        listen_for_a_service();
        let (finding, code) = held_ports();
        assert_eq!((finding.level, code), (Level::Error, Some(1)), "{finding:#?}");
        is_safe(finding.fix.as_ref().unwrap());

        let mut journal = Follower::of(UNIT);
        run("systemctl", &["start", UNIT]);
        let line = journal.wait(|entry| entry.has("EVENT", "held"));
        is_safe(line.field("MESSAGE").unwrap());
        let status = run("portward", &["status"]);
        is_safe(&status);
        println!("{status}{}\n{finding:#?}", line.field("MESSAGE").unwrap());
        is_safe(&run("portward", &["who", &PORT.to_string()]));
        is_safe(&text(&attempt("portward", &["wait", &PORT.to_string(), "--timeout", "10ms"])));

        // With the service running, two have the socket. What doctor prints finds or stops the unit.
        run("systemctl", &["start", "web.service"]);
        is_safe(&run("portward", &["status"]));
        let said = run("sh", &["-c", finding.fix.as_ref().unwrap()]);
        if !finding.fix.as_ref().unwrap().contains("stop web.socket") {
            assert!(said.contains("web.socket"), "{said}");
            run("systemctl", &["stop", "web.socket"]);
        }
        run("systemctl", &["stop", "web.service"]);
        journal.wait_up("web");
    });
}

#[test]
fn doctor_calls_an_error_what_on_conflict_kill_would_spare() {
    on_a_machine("sockets::doctor_calls_an_error_what_on_conflict_kill_would_spare", || {
        site::build();
        site::configure(CONFIG, &[("web", PORT)]);
        let text = fs::read_to_string(CONFIG).unwrap();
        fs::write(CONFIG, format!("{text}    on_conflict: kill\n")).unwrap();
        listen_for_a_service();
        let (finding, code) = held_ports();
        assert_eq!((finding.level, code), (Level::Error, Some(1)), "{finding:#?}");
        assert!(finding.why.as_ref().unwrap().contains("ends nobody here"), "{finding:#?}");
        is_safe(finding.fix.as_ref().unwrap());
    });
}
