//! The configuration is written through the API, in the paths and shapes of autossh-tunnel: what was asked for is in force when the
//! answer comes, and everything else in the file is what it was.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use integration_tests::{
    Answer, Daemon, ECHO_PORT, Lab, NumberedStream, Sshd, request, request_with, run, send_over_tcp,
    serve_echo,
};
use nix::fcntl::{Flock, FlockArg};
use portward::protocol::StateName;
use serde_json::{Value, json};

/// A file with what the clients of autossh-tunnel do not know.
const TUNNELS: &str = "
  # The database.
  - name: database   # MySQL
    remote_host: server
    remote_port: \"3306\"
    local_port: 13306
    enabled: false
    stop_grace: 1s

  # It has no name.
  - remote_host: server
    remote_port: 80
    local_port: '127.0.0.1:8080'
    enabled: false
  - name: proxy
    remote_host: server
    local_port: 1080
    direction: dynamic
    enabled: false
  - name: program
    command: [socat, 'TCP-LISTEN:9443', 'TCP:x:1']
    local_port: 9443
    enabled: false
  # The end of the list.
";

fn text(lab: &Lab) -> String {
    fs::read_to_string(lab.config_path()).unwrap()
}

async fn send(daemon: &Daemon<'_>, method: &str, path: &str, body: &Value) -> Answer {
    request(daemon.socket(), method, path, &body.to_string()).await
}

fn etag(answer: &Answer) -> String {
    let line = answer.head.lines().find(|line| line.to_lowercase().starts_with("etag:"));
    line.unwrap_or_else(|| panic!("no ETag: {answer:?}")).split_once(':').unwrap().1.trim().to_owned()
}

/// The tunnels as `GET /config` shows them.
async fn tunnels(daemon: &Daemon<'_>) -> Vec<Value> {
    daemon.get("/config").await.json()["tunnels"].as_array().unwrap().clone()
}

#[tokio::test]
async fn every_path_of_autossh_tunnel_changes_what_it_says_and_nothing_else() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, TUNNELS).await;
    let before = text(&lab);

    // A new one, sent as curl sends it by default.
    let new = json!({"name": "yes", "remote_host": "server", "remote_port": "81", "local_port": 8081});
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let added = request_with(daemon.socket(), "POST", "/config/new", form, &new.to_string()).await;
    assert_eq!(added.status, 201, "{added:?}");
    let shape = json!({"name": "yes", "remote_host": "server", "remote_port": "81", "local_port": "8081",
        "direction": "remote_to_local", "interactive": false, "hash": added.json()["hash"]});
    assert_eq!(added.json(), shape);
    assert_eq!(tunnels(&daemon).await[4], shape, "it is in force");
    let entry = "  - name: yes\n    remote_host: server\n    remote_port: 81\n    local_port: 8081\n";
    let with_new = before.replace("  # The end", &format!("{entry}  # The end"));
    assert_eq!(text(&lab), with_new);
    assert_eq!(etag(&added), etag(&daemon.get("/config").await));

    // A change, by a prefix of the hash, by PUT and by POST.
    let hash = added.json()["hash"].as_str().unwrap().to_owned();
    let change = json!({"name": "yes", "remote_host": "server", "remote_port": "81", "local_port": "8082",
        "interactive": false, "direction": "remote_to_local"});
    let changed = send(&daemon, "PUT", &format!("/config/{}", &hash[..8]), &change).await;
    assert_eq!((changed.status, &changed.json()["local_port"]), (200, &json!("8082")), "{changed:?}");
    assert_ne!(changed.json()["hash"], json!(hash));
    let back = send(&daemon, "POST", "/config/yes", &json!({"local_port": "8081"})).await;
    assert_eq!(back.json(), shape, "what is not said stays");
    assert_eq!(text(&lab), with_new);

    // All of them, as the panel sends them: those that it does not know are left out, and the name that was derived is there.
    let all: Vec<Value> = tunnels(&daemon)
        .await
        .into_iter()
        .filter(|tunnel| tunnel["remote_port"] != json!(""))
        .map(|mut tunnel| {
            tunnel.as_object_mut().unwrap().remove("hash");
            tunnel
        })
        .collect();
    let hashes: Vec<Value> = tunnels(&daemon).await.iter().map(|tunnel| tunnel["hash"].clone()).collect();
    for method in ["POST", "PUT"] {
        let saved = send(&daemon, method, "/config", &json!({"tunnels": all})).await;
        let success = json!({"status": "success", "message": "Configuration saved"});
        assert_eq!((saved.status, saved.json()), (200, success), "{saved:?}");
    }
    assert_eq!(text(&lab), with_new);
    let now: Vec<Value> = tunnels(&daemon).await.iter().map(|tunnel| tunnel["hash"].clone()).collect();
    assert_eq!(now, hashes, "the name that was derived is not written, so all hashes are what they were");

    // One is deleted, either way.
    let deleted = request(daemon.socket(), "DELETE", "/config/yes", "").await;
    let success = json!({"status": "success", "message": "Tunnel deleted"});
    assert_eq!((deleted.status, deleted.json()), (200, success.clone()), "{deleted:?}");
    assert_eq!(text(&lab), before);
    let deleted = request(daemon.socket(), "POST", "/config/database/delete", "").await;
    assert_eq!((deleted.status, deleted.json()), (200, success));
    assert_eq!(tunnels(&daemon).await.len(), 3);
    assert!(text(&lab).contains("  # The database.\n"));
    // Those that are not in a list are removed, but for those that no client of autossh-tunnel can know.
    let saved = send(&daemon, "POST", "/config", &json!({"tunnels": [new]})).await;
    assert_eq!(saved.status, 200, "{saved:?}");
    let names: Vec<Value> = tunnels(&daemon).await.iter().map(|tunnel| tunnel["name"].clone()).collect();
    assert_eq!(names, ["proxy", "program", "yes"]);
}

/// The daemon keeps its tunnels then, and what is put into the file would replace them.
#[tokio::test]
async fn a_file_that_was_emptied_is_not_changed_while_there_are_tunnels() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, TUNNELS).await;
    let before = tunnels(&daemon).await;
    let new = json!({"name": "n", "remote_host": "h", "remote_port": "1", "local_port": "2"});
    for emptied in ["", "# nothing\n"] {
        fs::write(lab.config_path(), emptied).unwrap();
        for (path, body) in [
            ("/config/new", new.clone()),
            ("/config", json!({"tunnels": []})),
            ("/config?confirm=empty", json!({"tunnels": []})),
            ("/config", json!({"tunnels": [new]})),
        ] {
            let refused = send(&daemon, "POST", path, &body).await;
            assert_eq!(refused.status, 409, "{path}: {refused:?}");
            assert!(refused.body.contains("is empty: write `tunnels: []`"), "{refused:?}");
            assert_eq!((text(&lab).as_str(), tunnels(&daemon).await), (emptied, before.clone()));
        }
    }
}

#[tokio::test]
async fn what_is_refused_changes_nothing_and_says_why() {
    let lab = Lab::new();
    lab.configure_tcp(TUNNELS);
    let daemon = Daemon::start_as_configured(&lab).await;
    let before = (text(&lab), fs::metadata(lab.config_path()).unwrap().ino());
    let missing = "Missing required fields: name, remote_host, remote_port, local_port";
    let complete = |key: &str, value: Value| {
        let mut tunnel = json!({"name": "n", "remote_host": "h", "remote_port": "1", "local_port": "2"});
        tunnel[key] = value;
        tunnel
    };
    let requests: Vec<(&str, &str, Value, u16, &str)> = vec![
        ("POST", "/config/new", json!({"name": "n"}), 400, missing),
        ("POST", "/config/new", complete("name", json!("")), 400, missing),
        ("POST", "/config/new", json!([1]), 400, "expected an object, found a list"),
        ("POST", "/config/new", complete("local_port", json!({})), 400, "`local_port`: expected a port"),
        ("POST", "/config/new", complete("interactive", json!("maybe")), 400, "`interactive`"),
        ("POST", "/config/new", complete("direction", json!("sideways")), 400, "sideways"),
        ("POST", "/config/new", complete("name", json!("database")), 400, "duplicate name"),
        ("POST", "/config/new", complete("local_port", json!("13306")), 400, "13306"),
        ("PUT", "/config/database", json!({"remote_port": "99999"}), 400, "99999"),
        ("PUT", "/config/nothing", json!({"remote_port": "9"}), 404, "no tunnel is called `nothing`"),
        ("DELETE", "/config/nothing", json!({}), 404, "no tunnel is called `nothing`"),
        ("POST", "/config/nothing/delete", json!({}), 404, "no tunnel is called `nothing`"),
        ("POST", "/config", json!({"tunnels": []}), 409, "?confirm=empty"),
        ("POST", "/config", json!({"tunnels": {}}), 400, "`tunnels`: expected a list"),
        ("POST", "/config", json!({"tunnels": [{"name": "x"}]}), 400, "(tunnel 1 of the list)"),
        ("POST", "/config", json!({"tunnels": [], "api": {}}), 400, "unknown key `api`"),
        ("POST", "/config?confirm=yes", json!({"tunnels": []}), 400, "confirm"),
        ("DELETE", "/config", json!({}), 405, "DELETE does not go with /config"),
        ("GET", "/config/new", json!({}), 405, "GET does not go with"),
        // Whoever has the token may not run programs, nor write what ssh would take for an option.
        ("POST", "/config/new", complete("command", json!(["id"])), 400, "unknown key `command`"),
        ("POST", "/config/new", complete("ssh", json!({"program": "/x"})), 400, "unknown key `ssh`"),
        ("PUT", "/config/database", json!({"env": {"LD_PRELOAD": "x"}}), 400, "unknown key `env`"),
        ("POST", "/config/new", complete("remote_host", json!("-oProxyCommand=id")), 400, "-oProxyCommand"),
        (
            "POST",
            "/config/new",
            complete("remote_host", json!("h\n    command: [id]")),
            400,
            "cannot be seen",
        ),
        ("POST", "/config/new", complete("remote_host", json!("h -oProxyCommand=id")), 400, "remote_host"),
        ("POST", "/config/new", complete("remote_host", json!("$(id)")), 400, "remote_host"),
        ("POST", "/config/new", complete("name", json!("x\u{1b}[2J")), 400, "cannot be seen"),
        ("POST", "/config/new", complete("name", json!("x\", command: [id], y: \"")), 400, "duplicate"),
    ];
    for (method, path, body, status, reason) in requests {
        // A text that YAML could take for more than a text is written as that text.
        if body["name"].as_str().is_some_and(|name| name.contains("command: [id]")) {
            let added = send_over_tcp(method, path, &body.to_string()).await;
            assert_eq!((added.status, &added.json()["name"]), (201, &body["name"]), "{added:?}");
            assert!(!daemon.log().all().iter().any(|line| line.raw.contains("\"id\"")));
            let removed =
                send_over_tcp("DELETE", &format!("/config/{}", added.json()["hash"].as_str().unwrap()), "")
                    .await;
            assert_eq!(removed.status, 200, "{removed:?}");
            assert_eq!(text(&lab), before.0);
            continue;
        }
        let answer = send_over_tcp(method, path, &body.to_string()).await;
        let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(answer.status == status && error.contains(reason), "{method} {path} {body}: {answer:?}");
        assert!(error.lines().count() == 1, "{error}");
        let now = (text(&lab), fs::metadata(lab.config_path()).unwrap().ino());
        assert_eq!(now, before, "{method} {path} {body}");
    }
    for path in ["/config/new", "/config", "/config/database"] {
        let answer = send_over_tcp("POST", path, "").await;
        assert_eq!(
            (answer.status, answer.json()),
            (400, json!({"error": "Request body required"})),
            "{path}"
        );
        let answer = send_over_tcp("POST", path, "name=x&remote_host=y").await;
        assert!(answer.status == 400 && answer.body.contains("not JSON"), "{answer:?}");
    }
    let answer = send_over_tcp("POST", "/config?confirm=empty", "{\"tunnels\": []}").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(tunnels(&daemon).await.len(), 2, "the proxy and the program");
}

#[tokio::test]
async fn an_edit_restarts_its_own_tunnel_alone_and_is_read_once() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_echo(("127.0.0.1", ECHO_PORT)).await;
    let tunnel = |name: &str, port: u16| {
        format!(
            "\n  - name: {name}\n    remote_host: server\n    remote_port: 127.0.0.1:7000\n    local_port: {port}\n"
        )
    };
    let daemon = Daemon::start(&lab, &(tunnel("kept", 9443) + &tunnel("edited", 9444))).await;
    let kept = daemon.wait_state("kept", StateName::Up).await.pid.unwrap();
    daemon.wait_state("edited", StateName::Up).await;
    let stream = NumberedStream::open(9443).await;
    let mark = daemon.log().mark();
    let answer = send(&daemon, "POST", "/config/edited", &json!({"local_port": "9445"})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // It was in force when the answer came.
    assert_eq!(daemon.status("edited").await.local_port, "9445");
    daemon.wait_state("edited", StateName::Up).await;
    assert_eq!(daemon.tunnel_pid("kept").await, kept);
    stream.next_bytes().await;
    let renamed = send(&daemon, "POST", "/config/kept", &json!({"name": "called"})).await;
    assert_eq!(renamed.status, 200, "{renamed:?}");
    assert_eq!(daemon.tunnel_pid("called").await, kept);
    assert_eq!(lab.ssh_starts().len(), 3, "one for each tunnel, and one for the edit");
    // What inotify reports of a write is no further reload. The next one that is somebody else's comes after all of that.
    fs::write(lab.config_path(), text(&lab) + "# by hand\n").unwrap();
    let is_reload = |line: &integration_tests::LogLine| line.has("event", "reload");
    let reloads = async |count: usize| {
        let mut seen = 0;
        let is_that = |line: &integration_tests::LogLine| {
            seen += usize::from(is_reload(line));
            seen == count
        };
        daemon.wait_log(mark, &format!("about reload {count}"), is_that).await;
    };
    reloads(3).await;
    let deleted = request(daemon.socket(), "DELETE", "/config/edited", "").await;
    assert_eq!(deleted.status, 200, "{deleted:?}");
    reloads(4).await;
    assert_eq!(daemon.log().since(mark).iter().filter(|line| is_reload(line)).count(), 4);
    assert!(stream.finish().await > 0);
}

#[tokio::test]
async fn a_client_that_names_the_version_it_has_seen_overwrites_nothing_newer() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, TUNNELS).await;
    let seen = etag(&daemon.get("/config/database").await);
    assert_eq!(seen, etag(&daemon.get("/config").await));
    let header = |tag: &str| format!("If-Match: {tag}\r\n");
    let change = |port: &str| json!({"local_port": port}).to_string();
    let socket = daemon.socket();
    let first = request_with(socket, "PUT", "/config/database", &header(&seen), &change("1")).await;
    assert_eq!(first.status, 200, "{first:?}");
    for (method, path, body) in [
        ("PUT", "/config/database", change("2")),
        ("DELETE", "/config/database", String::new()),
        ("POST", "/config/database/delete", String::new()),
        ("POST", "/config", json!({"tunnels": []}).to_string()),
        (
            "POST",
            "/config/new",
            json!({"name": "n", "remote_host": "h", "remote_port": "1", "local_port": "2"}).to_string(),
        ),
    ] {
        let late = request_with(socket, method, path, &header(&seen), &body).await;
        assert!(
            late.status == 409 && late.body.contains("has changed meanwhile"),
            "{method} {path}: {late:?}"
        );
    }
    let next = request_with(socket, "PUT", "/config/database", &header(&etag(&first)), &change("2")).await;
    assert_eq!(next.status, 200, "{next:?}");
    // Saved by hand, and not valid: what the client has seen is still in force, and yet not what is in the file.
    let seen = etag(&next);
    let valid = text(&lab);
    fs::write(lab.config_path(), valid.replace("stop_grace: 1s", "stop_grase: 1s")).unwrap();
    let late = request_with(socket, "PUT", "/config/database", &header(&seen), &change("3")).await;
    assert!(late.status == 409 && late.body.contains("has changed meanwhile"), "{late:?}");
    let broken = text(&lab);
    let late = send(&daemon, "PUT", "/config/database", &json!({"local_port": 3})).await;
    assert!(late.status == 409 && late.body.contains("stop_grase"), "{late:?}");
    assert_eq!(text(&lab), broken);
}

#[tokio::test]
async fn no_change_of_many_clients_is_lost() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, TUNNELS).await;
    let socket = daemon.socket().to_owned();
    let clients: Vec<_> = (0..24)
        .map(|number| {
            let body = json!({"name": format!("n{number}"), "remote_host": "h", "remote_port": 1, "local_port": 2000 + number});
            let socket = socket.clone();
            tokio::spawn(async move { request(&socket, "POST", "/config/new", &body.to_string()).await })
        })
        .collect();
    for client in clients {
        let answer = client.await.unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    assert_eq!(tunnels(&daemon).await.len(), 4 + 24);
    // The newest twenty of twenty-four copies.
    let copies = fs::read_dir(lab.path("etc/backups")).unwrap().count();
    assert_eq!(copies, 20);
}

#[tokio::test]
async fn a_change_that_was_given_up_is_not_made_later() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, TUNNELS).await;
    let before = text(&lab);
    let copies = lab.path("etc/backups");
    fs::create_dir(&copies).unwrap();
    let other = Flock::lock(File::open(&copies).unwrap(), FlockArg::LockExclusive).unwrap();
    let answer = send(&daemon, "PUT", "/config/database", &json!({"local_port": "1"})).await;
    assert!(answer.status == 503 && answer.body.contains("by somebody else"), "{answer:?}");
    assert!(answer.head.to_lowercase().contains("retry-after:"), "{answer:?}");
    drop(other);
    // The next one comes after it.
    let answer = send(&daemon, "PUT", "/config/database", &json!({"remote_port": "1"})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(text(&lab), before.replace("\"3306\"", "1"));
}

#[tokio::test]
async fn links_modes_and_owners_stay_and_copies_are_no_wider() {
    let lab = Lab::new();
    let config = lab.config_path();
    let real = lab.path("real/config.yaml");
    fs::create_dir(lab.path("real")).unwrap();
    fs::write(&real, lab.config(TUNNELS)).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&real, Some(0), Some(4321)).unwrap();
    symlink("../real/config.yaml", &config).unwrap();
    let daemon = Daemon::start_as_configured(&lab).await;
    let before = text(&lab);
    let answer = send(&daemon, "PUT", "/config/database", &json!({"local_port": "1"})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(fs::symlink_metadata(&config).unwrap().is_symlink());
    let seen = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
    };
    let backups = lab.path("real/backups");
    let copy = fs::read_dir(&backups).unwrap().next().unwrap().unwrap().path();
    assert_eq!(
        (seen(&real), seen(&backups), seen(&copy)),
        ((0o640, 0, 4321), (0o700, 0, 4321), (0o600, 0, 4321))
    );
    assert_eq!(fs::read_to_string(&copy).unwrap(), before);
    assert!(!lab.path("etc/backups").exists());
}

#[tokio::test]
async fn where_the_file_cannot_be_replaced_the_answer_says_what_to_do() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, TUNNELS).await;
    let etc = lab.path("etc");
    let (config, etc) = (lab.config_path().display().to_string(), etc.display().to_string());
    let refused = async |words: &str| {
        let before = text(&lab);
        let answer = send(&daemon, "PUT", "/config/database", &json!({"local_port": "1"})).await;
        assert!(answer.status == 500 && answer.body.contains(words), "{answer:?}");
        assert_eq!(text(&lab), before);
        let left: Vec<_> = fs::read_dir(lab.path("etc"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "config.yaml" && name != "backups")
            .collect();
        assert!(left.is_empty(), "{left:?}");
    };
    let outside = lab.path("outside.yaml");
    fs::copy(&config, &outside).unwrap();
    let mount = async |arguments: &[&str]| drop(run(lab.command("mount").args(arguments), 0).await);
    let unmount = async |path: &str| drop(run(lab.command("umount").arg(path), 0).await);
    mount(&["--bind", &outside.display().to_string(), &config]).await;
    refused("mount its directory instead").await;
    assert_eq!(
        fs::read_dir(lab.path("etc/backups")).unwrap().count(),
        0,
        "there is no copy of what was not written"
    );
    unmount(&config).await;
    mount(&["--bind", &etc, &etc]).await;
    mount(&["-o", "remount,bind,ro", &etc]).await;
    refused(&format!("ReadWritePaths={etc}")).await;
    unmount(&etc).await;
    let answer = send(&daemon, "PUT", "/config/database", &json!({"local_port": "1"})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// The command line, with the daemon and without.
mod command_line {
    use super::*;

    async fn config(lab: &Lab, arguments: &[&str], code: i32) -> String {
        let mut command = lab.portward(&["config", "--config", &lab.config_path().display().to_string()]);
        run(command.args(arguments), code).await
    }

    #[tokio::test]
    async fn config_does_the_same_from_a_terminal_and_the_daemon_follows() {
        let lab = Lab::new();
        let daemon = Daemon::start(&lab, TUNNELS).await;
        let before = text(&lab);
        let shown = config(&lab, &["get", "database"], 0).await;
        let lines = "name=database\nremote_host=server\nremote_port=3306\nlocal_port=13306\n\
                     direction=remote_to_local\ninteractive=false\nenabled=false\n";
        assert_eq!(shown, lines);
        let json: Value = serde_json::from_str(&config(&lab, &["get", "--json"], 0).await).unwrap();
        assert_eq!(json, daemon.get("/config").await.json());

        let mark = daemon.mark();
        config(&lab, &["set", "database", "local_port=13307", "stop_grace=2s"], 0).await;
        assert_eq!(text(&lab), before.replace("13306", "13307").replace("stop_grace: 1s", "stop_grace: 2s"));
        daemon.wait_status(mark, "database", "on its new port", |status| status.local_port == "13307").await;
        config(
            &lab,
            &["add", "name=new", "remote_host=server", "remote_port=1", "local_port=2", "enabled=false"],
            0,
        )
        .await;
        daemon.wait_state("new", StateName::Stopped).await;
        for tunnel in tunnels(&daemon).await {
            let hash = tunnel["hash"].as_str().unwrap();
            let shown = config(&lab, &["get", hash], 0).await;
            let same: Vec<&str> = ["set", hash].into_iter().chain(shown.lines()).collect();
            let unchanged = config(&lab, &same, 0).await;
            assert!(unchanged.contains("nothing differs"), "{unchanged}");
        }
        let unchanged = config(&lab, &["set", "new", "remote_port=1"], 0).await;
        assert!(unchanged.contains("nothing differs"), "{unchanged}");
        config(&lab, &["remove", "new"], 0).await;

        let copies = config(&lab, &["restore"], 0).await;
        let copies: Vec<_> = copies.lines().collect();
        assert_eq!(copies.len(), 3, "{copies:?}");
        let mark = daemon.mark();
        config(&lab, &["restore", copies[0]], 0).await;
        assert_eq!(text(&lab), before);
        daemon.wait_status(mark, "database", "on its old port", |status| status.local_port == "13306").await;
        assert_eq!(config(&lab, &["restore"], 0).await.lines().count(), 4, "what was replaced is kept, too");
    }

    #[tokio::test]
    async fn what_is_not_done_exits_1_and_wrong_usage_2() {
        let lab = Lab::new();
        lab.write_config(TUNNELS);
        let before = text(&lab);
        for (arguments, code, reason) in [
            (&["get", "nothing"][..], 1, "no tunnel is called `nothing`"),
            (&["set", "nothing", "local_port=1"], 1, "no tunnel is called `nothing`"),
            (&["set", "database", "local_port=http"], 1, "http"),
            (&["set", "database", "local_prot=1"], 1, "local_port"),
            (&["set", "database", "remote_host=-oProxyCommand=id"], 1, "-oProxyCommand"),
            (&["add", "name=x"], 1, "local_port"),
            (&["restore"], 1, "there is no copy"),
            (&["restore", "../config.yaml"], 1, "there is no copy"),
            (&["set", "", "local_port=1"], 2, "TUNNEL"),
            (&["set", "database"], 2, "KEY=VALUE"),
            (&["set", "database", "local_port"], 2, "KEY=VALUE"),
            (&["put"], 2, "put"),
        ] {
            let said = config(&lab, arguments, code).await;
            assert!(said.contains(reason), "{arguments:?}: {said}");
            assert_eq!(text(&lab), before);
        }
        // A copy that is not valid is not put back.
        config(&lab, &["set", "database", "local_port=1"], 0).await;
        let copy = config(&lab, &["restore"], 0).await.trim().to_owned();
        fs::write(lab.path("etc/backups").join(&copy), "tunnels:\n  - remote_prot: 1\n").unwrap();
        let said = config(&lab, &["restore", &copy], 1).await;
        assert!(said.contains("remote_prot") && said.contains(&format!("{copy}:2:5")), "{said}");
        assert_eq!(text(&lab), before.replace("13306", "1"));
    }

    #[tokio::test]
    async fn no_change_of_the_command_line_and_the_api_is_lost() {
        let lab = Lab::new();
        let daemon = Daemon::start(&lab, TUNNELS).await;
        let names: Vec<String> = (0..6).map(|number| format!("c{number}")).collect();
        let by_hand = async {
            for (number, name) in names.iter().enumerate() {
                let port = format!("local_port={}", 3000 + number);
                let name = format!("name={name}");
                config(&lab, &["add", &name, "remote_host=h", "remote_port=1", &port, "enabled=false"], 0)
                    .await;
            }
        };
        let over_the_api = async {
            for number in 0..12 {
                let body = json!({"name": format!("n{number}"), "remote_host": "h", "remote_port": 1,
                    "local_port": 2000 + number});
                assert_eq!(send(&daemon, "POST", "/config/new", &body).await.status, 201);
            }
        };
        tokio::join!(by_hand, over_the_api);
        assert_eq!(text(&lab).matches("  - name: c").count(), 6);
        assert_eq!(text(&lab).matches("  - name: n").count(), 12);
    }
}
