//! What the documents show as input works.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use clap::error::ErrorKind;
use integration_tests::read;
use portward::config::desired::{Ssh, SshTunnel, Tunnel, Work};
use tempfile::tempdir;

use crate::pages::{self, Block, Page};

#[test]
fn every_config_in_the_documents_is_valid() {
    let mut count = 0;
    for page in pages::all() {
        for block in page.blocks().into_iter().filter(|block| block.info == "yaml") {
            count += 1;
            configuration(&page, &block);
        }
    }
    assert!(count >= 20, "configurations are blocks of `yaml`; there are {count}");
}

/// The tunnels of a configuration. A block may show `defaults` alone; a file must say which tunnels there are.
fn configuration(page: &Page, block: &Block) -> Vec<Tunnel> {
    let is_whole = block.text.contains("tunnels:");
    let file = if is_whole { block.text.clone() } else { format!("{}tunnels: []\n", block.text) };
    match portward::config::parse(&file, Path::new(&page.path)) {
        Ok(desired) => desired.tunnels,
        Err(mistakes) => panic!("{}, line {}: {}", page.path, block.line, mistakes.render(false)),
    }
}

#[test]
fn every_command_line_in_the_documents_is_accepted() {
    let (mut refused, mut count) = (Vec::new(), 0);
    for page in pages::all() {
        let typed = page.blocks().iter().flat_map(lines).map(|line| (line, &TYPED[..])).collect::<Vec<_>>();
        let rules = if page.path == MESSAGES { &OF_MESSAGES[..] } else { &MENTIONED };
        let mentioned = page.codes().into_iter().map(|code| (code, rules));
        for (line, rules) in typed.into_iter().chain(mentioned) {
            let Some(line) = of_portward(&line) else { continue };
            count += 1;
            if let Err(error) = accept(&line, rules) {
                refused.push(format!("{}: {line}\n{error}", page.path));
            }
        }
    }
    assert!(count > 100, "only {count} command lines");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// Errors that do not count: of what a person types,
const TYPED: [ErrorKind; 2] = [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion];

/// of what the prose mentions, maybe without arguments,
const MENTIONED: [ErrorKind; 4] = [
    ErrorKind::DisplayHelp,
    ErrorKind::DisplayVersion,
    ErrorKind::MissingRequiredArgument,
    ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
];

/// and of a page where messages begin with the name as well.
const OF_MESSAGES: [ErrorKind; 5] = [
    ErrorKind::DisplayHelp,
    ErrorKind::DisplayVersion,
    ErrorKind::MissingRequiredArgument,
    ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
    ErrorKind::InvalidSubcommand,
];

const MESSAGES: &str = "docs/troubleshooting.md";

/// What a person types: the lines of a script, and those behind the prompts of a terminal.
fn lines(block: &Block) -> Vec<String> {
    let lines = block.text.lines();
    match block.info.as_str() {
        "sh" => lines.map(str::to_owned).collect(),
        "console" => lines.filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// The command of portward on a line, without what a shell does with it.
fn of_portward(line: &str) -> Option<String> {
    let line = line.strip_prefix("sudo ").unwrap_or(line);
    let line = line.strip_prefix("-u ").and_then(|rest| Some(rest.split_once(' ')?.1)).unwrap_or(line);
    let ends = [" #", " |", " &&", " >", ";"];
    let end = ends.iter().filter_map(|end| line.find(end)).min().unwrap_or(line.len());
    line.starts_with("portward ").then(|| line[..end].trim_end().to_owned())
}

fn accept(line: &str, uncounted: &[ErrorKind]) -> Result<(), String> {
    let words = line.split_whitespace().map(|word| match word.trim_matches(['\'', '"']) {
        "PORT" | "…" | "..." => "1",
        "FILE" => "/FILE",
        word => word,
    });
    match portward::cli::definition().try_get_matches_from(words) {
        Err(error) if !uncounted.contains(&error.kind()) => Err(error.to_string()),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// As far as systemd can tell on a machine that may not have their programs.
#[test]
fn systemd_finds_nothing_wrong_with_the_units_in_the_documents() {
    let mut count = 0;
    for page in pages::all() {
        for block in page.blocks().into_iter().filter(|block| block.info == "ini") {
            count += 1;
            let said = verified(&block.text);
            assert!(said.is_empty(), "{}, line {}: {said}", page.path, block.line);
        }
    }
    assert!(count >= 4, "units are blocks of `ini`; there are {count}");
}

/// What systemd says of a unit, or of a drop-in, whose first line says for which unit it is.
fn verified(text: &str) -> String {
    let directory = tempdir().unwrap();
    let edited = text.lines().next().unwrap().strip_prefix("# systemctl edit ");
    let unit = directory.path().join(format!("{}.service", edited.unwrap_or("tunnel")));
    if edited.is_some() {
        let drop_in = directory.path().join(format!("{}.d", unit.file_name().unwrap().to_str().unwrap()));
        fs::create_dir(&drop_in).unwrap();
        fs::write(drop_in.join("override.conf"), text).unwrap();
    }
    let whole = match edited {
        None => text.to_owned(),
        Some("portward") => read("config/systemd/portward.service"),
        Some(_) => "[Service]\nExecStart=/bin/true\n".to_owned(),
    };
    fs::write(&unit, whole).unwrap();
    let output = Command::new("systemd-analyze").arg("verify").arg(&unit).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let is_news = |line: &&str| !line.ends_with("is not executable: No such file or directory");
    said.lines().filter(is_news).collect::<Vec<_>>().join("\n")
}

/// What ssh prints of its settings that must be the same.
const SETTINGS: [&str; 6] =
    ["hostname", "user", "port", "proxyjump", "serveraliveinterval", "serveralivecountmax"];

const FORWARDS: [&str; 3] = ["localforward", "remoteforward", "dynamicforward"];

/// The unit of a page, and the configuration that takes its place.
#[test]
fn the_configurations_that_replace_units_ask_ssh_for_the_same() {
    for path in ["docs/migrating/autossh.md", "docs/migrating/systemd-unit.md"] {
        let page = Page::read(path);
        let blocks = page.blocks();
        let first = |info: &str| blocks.iter().find(|block| block.info == info).expect("the example");
        let line = first("ini").text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let arguments: Vec<&str> = line.split_whitespace().skip(1).collect();
        let arguments = arguments.strip_prefix(&["-M", "0"]).unwrap_or(&arguments);
        let mut before = Command::new("ssh");
        before.args(["-G", "-F", "none"]).args(arguments);
        let before = printed(before, &[&SETTINGS[..], &FORWARDS].concat());

        let tunnels = configuration(&page, first("yaml"));
        let after = tunnels.iter().flat_map(asked_for).collect();
        assert_eq!(before, after, "{path}");
        assert!(before.len() > SETTINGS.len() - 1, "{before:?}");
    }
}

/// What portward asks ssh for: the settings of a tunnel, and its forward.
fn asked_for(tunnel: &Tunnel) -> BTreeSet<String> {
    let Work::Ssh(SshTunnel { ssh, .. }) = &tunnel.work else { panic!("{} is a command", tunnel.name) };
    let isolated = Ssh { config_file: Some("none".into()), ..ssh.clone() };
    let settings = printed(portward::ssh::question(&isolated), &SETTINGS);
    let written = &tunnel.written;
    let with_host =
        |port: &str| if port.contains(':') { port.to_owned() } else { format!("localhost:{port}") };
    let (local, remote) = (&written.local_port, &written.remote_port);
    let [option, forward] = match written.direction.as_str() {
        "dynamic" => ["-D".to_owned(), local.clone()],
        "local_to_remote" => ["-R".to_owned(), format!("{remote}:{}", with_host(local))],
        _ => ["-L".to_owned(), format!("{local}:{}", with_host(remote))],
    };
    let mut forwarding = Command::new("ssh");
    forwarding.args(["-G", "-F", "none", &option, &forward, "host"]);
    settings.union(&printed(forwarding, &FORWARDS)).cloned().collect()
}

/// The lines of these settings in what `ssh -G` prints.
fn printed(mut command: Command, names: &[&str]) -> BTreeSet<String> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let is_asked = |line: &&str| names.iter().any(|name| line.split(' ').next() == Some(name));
    lines.lines().filter(is_asked).map(str::to_owned).collect()
}

/// It explains each line that the README shows, and that a test runs.
#[test]
fn the_quick_start_installs_as_the_readme_does() {
    let readme = Page::read("README.md");
    let (_, section) = readme.text.split_once("\n## Install\n").unwrap();
    let section = Page { path: readme.path.clone(), text: section.to_owned() };
    let quick_start = read("docs/quick-start.md");
    for line in section.blocks()[0].text.lines() {
        assert!(quick_start.lines().any(|known| known == line), "docs/quick-start.md lacks: {line}");
    }
}
