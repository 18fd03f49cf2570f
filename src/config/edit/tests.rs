//! Edits of configurations in the layouts that people use.

use std::path::Path;

use super::*;

const PATH: &str = "/etc/portward/config.yaml";

fn open(text: &str) -> Document<'static> {
    Document::open(text, Path::new(PATH)).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn refused(text: &str) -> EditError {
    Document::open(text, Path::new(PATH)).unwrap_err()
}

fn fields(name: &str, remote_port: &str, local_port: &str) -> Fields {
    Fields {
        name: Some(name.to_owned()),
        remote_host: Some("user@host".to_owned()),
        remote_port: Some(remote_port.to_owned()),
        local_port: Some(local_port.to_owned()),
        ..Fields::default()
    }
}

fn port(local_port: &str) -> Fields {
    Fields { local_port: Some(local_port.to_owned()), ..Fields::default() }
}

const TWO: &str = "\
# The tunnels of this machine.
api:
  socket: /run/p.sock   # here

tunnels:
  # The database.
  - name: db    # MySQL
    remote_host: user@host
    remote_port: \"3306\"  # there
    local_port: 13306
    ssh:
      connect_timeout: 5s

  # The web server.
  - remote_host: user@host
    remote_port: 80
    local_port: '127.0.0.1:8080'
    enabled: false
  # The last comment of the list.

# Below all tunnels.
defaults:
  on_conflict: wait
";

#[test]
fn a_value_is_replaced_and_all_else_stays() {
    let edited = open(TWO).change(0, &port("13307")).unwrap();
    assert_eq!(edited.text, TWO.replace("local_port: 13306", "local_port: 13307"));
    assert_eq!(edited.desired.tunnels[0].written.local_port, "13307");
    let edited = open(TWO).change(1, &port("[::1]:80")).unwrap();
    assert_eq!(edited.text, TWO.replace("'127.0.0.1:8080'", "'[::1]:80'"));
}

#[test]
fn what_is_the_same_is_not_written() {
    let document = open(TWO);
    for (index, fields) in [
        (0, Fields { name: Some("db".to_owned()), ..port("13306") }),
        // A derived name, and autossh-tunnel's word for none.
        (1, Fields { name: Some("host-127.0.0.1:8080".to_owned()), ..port("127.0.0.1:8080") }),
        (1, Fields { name: Some("unnamed".to_owned()), interactive: Some(false), ..Fields::default() }),
        (1, Fields { remote_port: Some("0080".to_owned()), ..Fields::default() }),
        (1, Fields { direction: Some("remote_to_local".to_owned()), ..Fields::default() }),
    ] {
        let edited = document.change(index, &fields).unwrap();
        assert_eq!(edited.text, TWO, "{fields:?}");
        assert_eq!(edited.desired, document.desired);
    }
}

#[test]
fn a_key_that_is_not_there_is_added_to_its_tunnel() {
    let fields = Fields { name: Some("web".to_owned()), interactive: Some(true), ..Fields::default() };
    let edited = open(TWO).change(1, &fields).unwrap();
    let added = "    enabled: false\n    name: web\n    interactive: true\n";
    assert_eq!(edited.text, TWO.replace("    enabled: false\n", added));
}

#[test]
fn a_new_tunnel_is_behind_the_last_one_and_before_the_comments_that_follow() {
    let edited = open(TWO).add(&fields("new", "443", "[::1]:8443")).unwrap();
    let added = "    enabled: false\n  - name: new\n    remote_host: user@host\n    remote_port: 443\n    local_port: '[::1]:8443'\n";
    assert_eq!(edited.text, TWO.replace("    enabled: false\n", added));
}

#[test]
fn a_tunnel_is_removed_with_its_lines_and_the_comments_around_it_stay() {
    let edited = open(TWO).apply(&[Edit::Remove(0)]).unwrap();
    let (before, rest) = TWO.split_once("  - name: db").unwrap();
    let (_, after) = rest.split_once("connect_timeout: 5s\n").unwrap();
    assert_eq!(edited.text, format!("{before}{after}"));
    assert_eq!(edited.desired.tunnels.len(), 1);
    let edited = open(TWO).apply(&[Edit::Remove(1)]).unwrap();
    assert!(edited.text.contains("  # The web server.\n  # The last comment of the list.\n\n# Below"));
}

#[test]
fn without_any_tunnel_an_empty_list_remains_and_takes_new_ones() {
    let edited = open(TWO).apply(&[Edit::Remove(0), Edit::Remove(1)]).unwrap();
    assert!(edited.text.contains("\ntunnels: []\n  # The database.\n"), "{}", edited.text);
    let again = open(&edited.text).add(&fields("new", "1", "2")).unwrap();
    assert!(again.text.contains("\ntunnels:\n  - name: new\n"), "{}", again.text);
    assert!(again.text.contains("    local_port: 2\n  # The database.\n"), "{}", again.text);
}

/// Layouts with two tunnels `a` (local port 1001) and `b` (1002), without and with what follows.
fn layouts() -> Vec<(&'static str, String)> {
    let at = |dash: &str, key: &str, between: &str| {
        let tunnel = |name: &str, port: u16| {
            format!(
                "{dash}name: {name}\n{key}remote_host: h\n{key}remote_port: 80\n{key}local_port: {port}\n"
            )
        };
        format!("tunnels:\n{}{between}{}", tunnel("a", 1001), tunnel("b", 1002))
    };
    let plain = at("  - ", "    ", "");
    vec![
        ("not indented", at("- ", "  ", "# between\n")),
        ("indented by four", at("    - ", "      ", "\n    # between\n\n")),
        ("dashes apart", at("    -   ", "        ", "")),
        ("dashes on lines of their own", at("  -\n    ", "    ", "  # between\n")),
        ("no end of the last line", plain.trim_end().to_owned()),
        ("carriage returns", plain.replace('\n', "\r\n")),
        ("carriage returns, no end", plain.trim_end().replace('\n', "\r\n")),
        ("followed by a section", format!("{plain}defaults: {{share: true}}\n")),
        (
            "followed by comments and a section",
            format!("{plain}    # x\n  # y\n# z\n\ndefaults:\n  share: true\n"),
        ),
        ("blank lines at the end", format!("{plain}\n\n\n")),
        ("in a document with marks", format!("%YAML 1.2\n---\n{plain}...\n")),
        ("after letters of several bytes", format!("# äöüßéèêñ äöüßéèêñ äöüßéèêñ\n{plain}\n# äöü\n")),
        (
            "quoted keys and values",
            plain.replace("name: ", "\"name\": ").replace("local_port: 1001", "'local_port': \"1001\""),
        ),
        ("a block scalar", plain.replace("local_port: 1001", "local_port: |-\n      1001")),
        ("a folded scalar at the end", plain.replace("local_port: 1002", "local_port: >-\n      1002")),
        ("a value on the next line", plain.replace("local_port: 1001", "local_port:\n      1001")),
        ("space before the colon", plain.replace("local_port: 1001", "local_port :   1001   # c")),
        (
            "lists and mappings at the end",
            format!("{plain}    ssh:\n      options:\n        A: b # c\n    on_change:\n    - x\n    - y\n"),
        ),
        ("flow collections at the end", format!("{plain}    on_change: [x,\n      y]\n")),
        ("trailing spaces", plain.replace("1002\n", "1002  \n")),
    ]
}

#[test]
fn every_layout_takes_every_edit() {
    for (layout, text) in layouts() {
        let document = open(&text);
        let check = |what: &str, edited: Result<Edited, EditError>, ports: &[&str]| {
            let edited = edited.unwrap_or_else(|error| panic!("{layout}, {what}: {error}\n{text}"));
            let found: Vec<_> =
                edited.desired.tunnels.iter().map(|tunnel| tunnel.written.local_port.as_str()).collect();
            assert_eq!(found, ports, "{layout}, {what}:\n{}", edited.text);
            let comments = |text: &str| text.lines().filter(|line| line.trim().starts_with('#')).count();
            assert_eq!(comments(&edited.text), comments(&text), "{layout}, {what}:\n{}", edited.text);
            assert_eq!(edited.text.contains('\r'), text.contains('\r'), "{layout}, {what}");
            assert!(!edited.text.replace("\r\n", "").contains('\r'), "{layout}, {what}: {:?}", edited.text);
        };
        check("change the first", document.change(0, &port("2001")), &["2001", "1002"]);
        check("change the last", document.change(1, &port("[::1]:2002")), &["1001", "[::1]:2002"]);
        let named = Fields { interactive: Some(true), ..Fields::default() };
        check("add a key to the first", document.change(0, &named), &["1001", "1002"]);
        check("add a key to the last", document.change(1, &named), &["1001", "1002"]);
        check("add", document.add(&fields("new", "1", "3003")), &["1001", "1002", "3003"]);
        check("remove the first", document.apply(&[Edit::Remove(0)]), &["1002"]);
        check("remove the last", document.apply(&[Edit::Remove(1)]), &["1001"]);
        check("remove both", document.apply(&[Edit::Remove(0), Edit::Remove(1)]), &[]);
        let all = [fields("new", "1", "3003"), Fields { name: Some("b".to_owned()), ..port("2002") }];
        check("replace all", document.replace_all(&all, false), &["2002", "3003"]);
    }
}

#[test]
fn a_file_without_tunnels_takes_the_first_one() {
    for text in [
        "",
        "# nothing yet\n",
        "tunnels: []\n",
        "tunnels: [] # none\n# below\napi: {}\n",
        "tunnels:\n",
        "# top\ntunnels:\n  # - name: example\n# below\napi: {}\n",
        "tunnels: ~\n",
        "tunnels: [\n]\n",
        "defaults:\n  share: true",
    ] {
        let edited = open(text).add(&fields("new", "1", "2"));
        let edited = edited.unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(edited.desired.tunnels.len(), 1, "{}", edited.text);
        for line in text.lines().filter_map(|line| line.split_once('#')) {
            assert!(edited.text.contains(line.1), "{}", edited.text);
        }
    }
}

#[test]
fn texts_are_quoted_where_yaml_would_read_something_else() {
    for name in [
        "yes", "null", "~", "1e3", "true", "0x10", "a: b", "#x", "x #y", "'q'", "\"d\"", "{x}", "- x?", "&a",
        "*a", "!t", "é", "a,b", " x", "%x", "@x", "`x`", "|", ">",
    ] {
        let edited = open(TWO).change(0, &Fields { name: Some(name.to_owned()), ..Fields::default() });
        match edited {
            Ok(edited) => assert_eq!(edited.desired.tunnels[0].name, name, "{}", edited.text),
            // What is no name at all is refused as such.
            Err(error) => assert!(matches!(error, EditError::Refused(_)), "{name}: {error}"),
        }
    }
    let number = Fields { name: Some("1e3".to_owned()), ..Fields::default() };
    assert!(open(TWO).change(0, &number).unwrap().text.contains("name: '1e3'"));
}

#[test]
fn what_check_would_refuse_is_refused_with_its_reason() {
    let refused = |fields: Fields| match open(TWO).change(0, &fields).unwrap_err() {
        EditError::Refused(reason) => reason,
        error => panic!("{error}"),
    };
    let host = |host: &str| Fields { remote_host: Some(host.to_owned()), ..Fields::default() };
    assert!(refused(host("-oProxyCommand=x")).contains("-oProxyCommand=x"));
    assert!(refused(host("h\n    command: [x]")).contains("cannot be seen"));
    assert!(refused(host("h\u{2028}x")).contains("cannot be seen"));
    assert!(refused(port("http")).contains("http"));
    assert!(refused(port("127.0.0.1:8080")).contains("127.0.0.1:8080"), "the other tunnel listens there");
    let direction = Fields { direction: Some("sideways".to_owned()), ..Fields::default() };
    assert!(refused(direction).contains("sideways"));
    let long = Fields { name: Some("x".repeat(129)), ..Fields::default() };
    assert!(refused(long).contains("128"));
    assert!(matches!(open(TWO).change(0, &host("")), Err(EditError::Missing(_))));
}

#[test]
fn what_cannot_be_changed_alone_is_refused_with_its_place() {
    let anchored = TWO.replace("remote_host: user@host", "remote_host: &h user@host");
    let anchored = anchored.replacen("&h user@host", "*h", 2).replacen("*h", "&h user@host", 1);
    assert!(matches!(refused(&anchored), EditError::Layout { line: Some(8), .. }), "{anchored}");
    let flow = "tunnels:\n  - {name: a, remote_host: h, remote_port: 1, local_port: 2}\n  - {name: b, remote_host: h, remote_port: 1, local_port: 3}\n";
    let document = open(flow);
    assert!(matches!(document.change(1, &port("4")), Err(EditError::Layout { line: Some(3), .. })));
    assert!(matches!(refused("tunnels: []\rapi: {}\r"), EditError::Layout { .. }));
    // Whole lines go and come.
    assert!(document.apply(&[Edit::Remove(0)]).is_ok());
    assert!(document.add(&fields("c", "1", "4")).is_ok());
    let one_line = "tunnels: [{name: a, remote_host: h, remote_port: 1, local_port: 2}]\n";
    for edited in [open(one_line).add(&fields("c", "1", "4")), open(one_line).apply(&[Edit::Remove(0)])] {
        assert!(matches!(edited, Err(EditError::Layout { .. })), "{edited:?}");
    }
    let comment = TWO.replace("local_port: 13306", "local_port: # why\n      13306");
    assert!(matches!(open(&comment).change(0, &port("1")), Err(EditError::Layout { .. })));
    assert!(matches!(refused("tunnels: []\n---\ntunnels: []\n"), EditError::Broken(_)));
    assert!(matches!(refused("tunnels:\n  - {name: a\n"), EditError::Broken(_)));
    let EditError::Broken(error) = refused(&TWO.replace("enabled: false", "enabeld: false")) else {
        panic!()
    };
    assert!(error.contains(":18:") && error.contains("enabeld"), "{error}");
    let EditError::Broken(error) = refused(&format!("{TWO}env: s3cret\n")) else { panic!() };
    assert!(!error.contains("s3cret"), "{error}");
}

const MIXED: &str = "\
tunnels:
  - remote_host: user@host
    remote_port: 80
    local_port: 8080
    ssh: {connect_timeout: 5s}
  # A proxy.
  - name: proxy
    remote_host: user@host
    local_port: 1080
    direction: dynamic
  - name: program
    command: [socat, x]
    local_port: 1081
  - name: off
    remote_host: user@host
    remote_port: 81
    local_port: 8081
    enabled: false
";

#[test]
fn all_tunnels_are_replaced_by_those_that_are_posted() {
    let posted = |name: &str, remote_port: &str, local_port: &str| Fields {
        direction: Some("remote_to_local".to_owned()),
        interactive: Some(false),
        ..fields(name, remote_port, local_port)
    };
    let document = open(MIXED);
    // As they are shown, in any order: nothing changes, and the name that was derived is not written.
    let same = [posted("off", "81", "8081"), posted("host-8080", "80", "8080")];
    assert_eq!(document.replace_all(&same, false).unwrap().text, MIXED);
    // The proxy and the program cannot be said, and stay.
    let one = document.replace_all(&same[1..], false).unwrap();
    assert_eq!(one.text, MIXED.split_once("  - name: off").unwrap().0);
    // By name; and one that is renamed keeps what the client does not know.
    let changed = [posted("off", "81", "9999"), posted("renamed", "80", "8080")];
    let changed = document.replace_all(&changed, false).unwrap();
    let wanted = MIXED
        .replace("8081", "9999")
        .replace("connect_timeout: 5s}\n", "connect_timeout: 5s}\n    name: renamed\n");
    assert_eq!(changed.text, wanted);
    // By the hash that the client was told, whatever else differs.
    let told = Fields { hash: Some(document.tunnels()[3].hash.clone()), ..posted("on", "82", "8082") };
    let told = document.replace_all(&[told, same[1].clone()], false).unwrap();
    assert_eq!(
        told.text,
        MIXED
            .replace("name: off", "name: on")
            .replace("81\n    local_port: 8081", "82\n    local_port: 8082")
    );
}

#[test]
fn an_empty_list_is_refused_unless_it_is_meant() {
    let document = open(MIXED);
    assert_eq!(document.replace_all(&[], false).unwrap_err(), EditError::Empty(2));
    let names =
        |edited: Edited| edited.desired.tunnels.into_iter().map(|tunnel| tunnel.name).collect::<Vec<_>>();
    assert_eq!(names(document.replace_all(&[], true).unwrap()), ["proxy", "program"]);
    assert!(open("tunnels: []\n").replace_all(&[], false).is_ok(), "there is nothing to remove");
}

#[test]
fn a_tunnel_that_lacks_something_is_refused_with_its_number() {
    let lacking = Fields { remote_host: None, ..fields("x", "1", "2") };
    let error = open(TWO).replace_all(&[fields("y", "1", "3"), lacking.clone()], false).unwrap_err();
    let words = "Missing required fields: name, remote_host, remote_port, local_port";
    assert_eq!(error.to_string(), format!("{words} (tunnel 2 of the list)"));
    assert_eq!(open(TWO).add(&lacking).unwrap_err().to_string(), words);
}

#[test]
fn any_key_with_one_value_can_be_set() {
    let set = |key: &str, value: &str| open(TWO).apply(&[Edit::Set(1, vec![Change::new(key, value)?])]);
    assert_eq!(set("enabled", "true").unwrap().text, TWO.replace("enabled: false", "enabled: true"));
    assert!(set("stop_grace", "10s").unwrap().text.contains("    enabled: false\n    stop_grace: 10s\n"));
    assert!(matches!(set("enabled", "yes"), Err(EditError::Refused(_))));
    assert!(
        matches!(set("stop_graec", "1s"), Err(EditError::Refused(reason)) if reason.contains("stop_grace"))
    );
    assert!(matches!(set("ssh", "x"), Err(EditError::Refused(_))));
    assert!(matches!(set("ssh: {program: x}", "y"), Err(EditError::Refused(_))));
    let document = open(TWO);
    let on_a_mapping = document.apply(&[Edit::Set(0, vec![Change::new("ssh", "x").unwrap()])]);
    assert!(matches!(on_a_mapping, Err(EditError::Refused(reason)) if reason.contains("mapping")));
}

#[test]
fn a_text_that_says_something_else_is_not_taken() {
    let document = open(TWO);
    let check = |text: &str| document.check(text.to_owned(), &document.says);
    assert!(check(TWO).is_ok());
    assert!(check(&TWO.replace("user@host", "'user@host'")).is_err(), "quotes may mean something");
    for (from, to) in [("5s", "6s"), ("wait", "kill"), ("    enabled: false\n", ""), ("api:", "defaults2:")] {
        assert!(matches!(check(&TWO.replace(from, to)), Err(EditError::Layout { .. })), "{from}");
    }
    // What yamlpatch takes for a comment here is a part of the value.
    let text = format!(
        "tunnels:{}",
        TWO.split_once("tunnels:")
            .unwrap()
            .1
            .replace("enabled: false\n", "env:\n      A: |\n        x\n        # y\n")
    );
    let named = Fields { name: Some("web".to_owned()), ..Fields::default() };
    assert!(matches!(open(&text).change(1, &named), Err(EditError::Layout { .. })));
}
