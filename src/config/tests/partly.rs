//! Files of which some tunnels are valid.

use super::*;

const PATH: &str = "/etc/portward/config.yaml";

/// Names of the tunnels that run, and of the entries that do not, each with what is said of it.
fn accepted(source: &str) -> (Vec<String>, Vec<(String, String)>) {
    let accepted = accept(source, Path::new(PATH)).unwrap_or_else(|error| panic!("{}", error.render(false)));
    assert_eq!(accepted.problems.is_some(), !accepted.desired.broken.is_empty());
    assert_eq!(parse(source, Path::new(PATH)).is_ok(), accepted.problems.is_none());
    let Desired { tunnels, broken, .. } = accepted.desired;
    let mut hashes: Vec<&String> = tunnels.iter().map(|tunnel| &tunnel.hash).collect();
    hashes.extend(broken.iter().map(|broken| &broken.hash));
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), tunnels.len() + broken.len(), "{source}");
    let runs = tunnels.into_iter().map(|tunnel| tunnel.name).collect();
    (runs, broken.into_iter().map(|broken| (broken.name, broken.error)).collect())
}

/// Names of the tunnels that run, and of the entries that do not.
fn names(source: &str) -> (Vec<String>, Vec<String>) {
    let (runs, broken) = accepted(source);
    (runs, broken.into_iter().map(|(name, _)| name).collect())
}

fn tunnel(name: &str, port: u16) -> String {
    format!("  - name: {name}\n    remote_host: h\n    remote_port: 80\n    local_port: {port}\n")
}

#[test]
fn an_error_in_an_entry_is_of_that_tunnel_alone() {
    let (a, b, c) = (tunnel("a", 1001), tunnel("b", 1002), tunnel("c", 1003));
    for wrong in
        ["    prot: 1\n", "    enabled: perhaps\n", "    name: twice\n", "    ssh: {options: {-x: 1}}\n"]
    {
        for behind in ["", "defaults:\n  stop_grace: 1s\n"] {
            let source = format!("tunnels:\n{a}{b}{wrong}{c}{behind}");
            assert_eq!(names(&source), (vec!["a".into(), "c".into()], vec!["b".into()]), "{source}");
            let source = format!("tunnels:\n{a}{c}{b}{wrong}{behind}");
            assert_eq!(names(&source), (vec!["a".into(), "c".into()], vec!["b".into()]), "{source}");
            let source = format!("{behind}tunnels:\n{b}{wrong}{a}{c}");
            assert_eq!(names(&source), (vec!["a".into(), "c".into()], vec!["b".into()]), "{source}");
        }
    }
}

#[test]
fn the_error_has_its_place_and_its_hint() {
    let source =
        format!("tunnels:\n{}{}    remote_prot: 1\n    x: 2\n", tunnel("a", 1001), tunnel("b", 1002));
    let (_, broken) = accepted(&source);
    let error =
        "/etc/portward/config.yaml:10:5: unknown key `remote_prot` (and 1 more): did you mean `remote_port`?";
    assert_eq!(broken, [("b".to_owned(), error.to_owned())]);
}

#[test]
fn of_two_that_exclude_each_other_the_first_runs() {
    let clash = format!("tunnels:\n{}{}{}", tunnel("a", 1001), tunnel("b", 1001), tunnel("c", 1002));
    assert_eq!(names(&clash), (vec!["a".into(), "c".into()], vec!["b".into()]));
    let named = format!("tunnels:\n{}{}", tunnel("a", 1001), tunnel("a", 1002));
    assert_eq!(names(&named), (vec!["a".into()], vec!["a (line 6)".into()]));
    let copied = format!("tunnels:\n{0}{0}{0}", tunnel("a", 1001));
    assert_eq!(names(&copied), (vec!["a".into()], vec!["a (line 6)".into(), "a (line 10)".into()]));
}

#[test]
fn what_cannot_be_read_has_a_name_all_the_same() {
    let source = format!(
        "tunnels:\n  - 1\n  - name: \"-x\"\n    remote_host: u@h\n    local_port: 5\n{}",
        tunnel("a", 1001)
    );
    assert_eq!(names(&source), (vec!["a".into()], vec!["tunnel".into(), "h-5".into()]));
}

#[test]
fn a_wrong_value_that_an_alias_stands_for_is_wrong_everywhere() {
    let source = format!(
        "tunnels:\n{}    ssh: &ssh {{identity: x}}\n{}    ssh: *ssh\n{}",
        tunnel("a", 1001),
        tunnel("b", 1002),
        tunnel("c", 1003)
    );
    assert_eq!(names(&source), (vec!["c".into()], vec!["a".into(), "b".into()]));
}

#[test]
fn in_one_line_as_well() {
    let one = |name: &str, rest: &str| {
        let port = u32::from(name.as_bytes()[0]);
        format!("{{name: {name}, remote_host: h, remote_port: 80, local_port: {port}{rest}}}")
    };
    let source = format!("tunnels: [{}, {}, {}]", one("a", ""), one("b", ", prot: 1"), one("c", ""));
    assert_eq!(names(&source), (vec!["a".into(), "c".into()], vec!["b".into()]));
}

#[test]
fn an_error_of_the_file_as_a_whole_or_of_all_tunnels_refuses_it() {
    let a = tunnel("a", 1001);
    for source in [
        format!("tunnels:\n{a}defaults: {{stop_grase: 1s}}\n"),
        format!("tunnels:\n{a}    prot: 1\n"),
        format!("tunnels:\n{a}api: {{listen: x}}\n"),
        format!("tunnels:\n{a}wrong: 1\n"),
        format!("tunnels:\n{a}  - name: [b\n"),
        format!("defaults: {{ssh: &ssh {{x: 1}}}}\ntunnels:\n{a}{}    ssh: *ssh\n", tunnel("b", 1002)),
        "tunnels: {}".to_owned(),
        "defaults: {}".to_owned(),
    ] {
        assert!(accept(&source, Path::new(PATH)).is_err(), "{source}");
    }
}

#[test]
fn more_errors_than_are_kept_refuse_the_file() {
    let wrong = (0..1200).map(|key| format!("    k{key}: 1\n")).collect::<Vec<_>>().concat();
    let source = format!("tunnels:\n{}{}{wrong}", tunnel("a", 1001), tunnel("b", 1002));
    assert!(accept(&source, Path::new(PATH)).is_err());
}

#[test]
fn a_file_that_names_no_tunnels_has_none() {
    for (source, says_nothing) in [
        ("", true),
        ("# nothing\n\n", true),
        ("---\n", true),
        ("~", true),
        ("tunnels:", false),
        ("tunnels:\n# none\n", false),
        ("tunnels: ~\ndefaults: {}\n", false),
        ("tunnels: []", false),
    ] {
        let accepted = accept(source, Path::new(PATH)).unwrap();
        assert_eq!(accepted.says_nothing, says_nothing, "{source:?}");
        assert_eq!(valid(source).tunnels, [], "{source:?}");
    }
}

/// A value stands for itself: a file cut anywhere runs no tunnel that the whole file does not have.
#[test]
fn no_tunnel_is_made_up() {
    let source =
        format!("tunnels:\n{}{}    prot: 1\n{}", tunnel("a", 1001), tunnel("b", 1002), tunnel("c", 1003));
    let whole = accept(&source, Path::new(PATH)).unwrap().desired.tunnels;
    assert_eq!(whole.len(), 2);
    for lines in 0..source.lines().count() {
        let part = source.lines().take(lines).map(|line| format!("{line}\n")).collect::<Vec<_>>().concat();
        let Ok(accepted) = accept(&part, Path::new(PATH)) else { continue };
        for tunnel in accepted.desired.tunnels {
            assert!(whole.contains(&tunnel) || tunnel.name == "b", "{tunnel:?}");
        }
    }
}
