//! The description of the API is true: schemathesis makes requests from it, right ones and wrong ones, and looks at each answer of the
//! live daemon.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::path::Path;

use integration_tests::{API_PORT, API_TOKEN, Daemon, ECHO_PORT, Lab, Sshd, serve_echo, tool};
use portward::protocol::StateName;

/// One tunnel of each kind that can be asked for, and one that waits for a person.
const TUNNELS: &str = "
  - {name: database, remote_host: server, remote_port: '127.0.0.1:7000', local_port: 9001}
  - {name: held, remote_host: server, remote_port: '127.0.0.1:7000', local_port: 9002, listener: portward}
  - {name: program, command: [socat, 'TCP-LISTEN:9003,fork,reuseaddr', 'TCP:127.0.0.1:7000'], local_port: 9003}
  - {name: person, remote_host: server, remote_port: 22, local_port: 9004, interactive: true}
";

#[tokio::test]
async fn schemathesis_finds_nothing() {
    assert_eq!(ECHO_PORT, 7000);
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    lab.configure_tcp(TUNNELS);
    let daemon = Daemon::start_as_configured(&lab).await;
    for name in ["database", "held", "program"] {
        daemon.wait_state(name, StateName::Up).await;
    }
    // What changes the configuration comes last, and makes an end of the tunnels.
    for choice in ["--exclude-path-regex", "--include-path-regex"] {
        try_out(&lab, [choice, "^/config"]).await;
        assert_eq!(daemon.get("/health").await.status, 200, "the daemon is well afterwards");
    }
    daemon.stop().await;
}

async fn try_out(lab: &Lab, choice: [&str; 2]) {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api_description/schemathesis.toml");
    let output = lab
        .command(tool("schemathesis"))
        .arg("--config-file")
        .arg(rules)
        .args(["run", &format!("http://127.0.0.1:{API_PORT}/openapi.json")])
        .args(["--header", &format!("Authorization: Bearer {API_TOKEN}")])
        .args(choice)
        .output()
        .await
        .expect("running schemathesis");
    let [said, complaints] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{said}\n{complaints}");
}
