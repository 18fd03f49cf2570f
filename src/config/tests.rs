use std::fs;
use std::path::{Path, PathBuf};

use super::*;

mod mangled;
mod meaning;
mod partly;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// config/config.yaml and the samples under examples/.
fn samples() -> Vec<PathBuf> {
    let examples = fs::read_dir(repository().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let mut samples: Vec<PathBuf> =
        examples.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect();
    samples.push(repository().join("config/config.yaml"));
    samples
}

fn valid(source: &str) -> Desired {
    parse(source, Path::new("/etc/portward/config.yaml"))
        .unwrap_or_else(|error| panic!("{}", error.render(false)))
}

/// The reference with every key switched on.
fn whole_reference() -> String {
    let reference = fs::read_to_string(repository().join("config/config.yaml")).unwrap();
    let lines = reference.replace("tunnels: []", "tunnels:");
    let is_text = |line: &str| line.starts_with("##") || line.starts_with("# yaml-language-server");
    let switched_on =
        lines.lines().map(|line| if is_text(line) { line } else { line.strip_prefix('#').unwrap_or(line) });
    switched_on.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_sample_configurations_are_valid() {
    for sample in samples() {
        if let Err(error) = load(&sample) {
            panic!("{}: {error}", sample.display());
        }
    }
}

#[test]
fn the_reference_shows_every_key_with_a_valid_value() {
    let reference = whole_reference();
    let desired = valid(&reference);
    assert_eq!(desired.tunnels.len(), 4, "{reference}");
    for key in raw::known_keys() {
        assert!(reference.contains(&format!("{key}:")), "`{key}` is not in config/config.yaml");
    }
}

/// By the kernel's own rule, which the verdict follows as well.
#[test]
fn an_ipv4_address_written_as_ipv6_is_the_same_address() {
    for (first, second, clash) in [
        ("127.0.0.1:9000", "[::ffff:127.0.0.1]:9000", true),
        ("[::ffff:127.0.0.1]:9000", "9000", true),
        ("[::ffff:127.0.0.1]:9000", "127.0.0.2:9000", false),
        ("[::ffff:127.0.0.1]:9000", "[::1]:9000", false),
    ] {
        let tunnel = |port: &str| format!("  - {{command: [serve], local_port: '{port}'}}\n");
        let source = format!("tunnels:\n{}{}", tunnel(first), tunnel(second));
        match parse(&source, Path::new("config.yaml")) {
            Ok(_) => assert!(!clash, "{first} and {second}"),
            Err(error) => {
                let text = error.render(false);
                assert!(clash && text.contains("would listen where"), "{first} and {second}: {text}");
            }
        }
    }
}

/// `UPDATE_SCHEMA=1 cargo test --lib the_committed_schema` updates it.
#[test]
fn the_committed_schema_is_current() {
    let file = repository().join("config/portward.schema.json");
    let current = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&file, &current).unwrap();
    }
    assert!(
        fs::read_to_string(&file).unwrap_or_default() == current,
        "run `UPDATE_SCHEMA=1 cargo test --lib the_committed_schema` and commit {}",
        file.display()
    );
}
