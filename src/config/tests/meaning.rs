//! What a valid file comes to mean.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::valid;
use crate::config::desired::{
    Check, CommandTunnel, Forward, Health, HostPorts, ListenedBy, LocalSocket, RemoteListen, SshTunnel,
    Target, Tunnel, Work,
};
use crate::config::environment::Environment;
use crate::core::{HealthPolicy, Kind, OnConflict, Policy, Remedy};
use crate::port::{Endpoint, PortRange};

fn only(source: &str) -> Tunnel {
    let mut tunnels = valid(source).tunnels;
    assert_eq!(tunnels.len(), 1);
    tunnels.remove(0)
}

fn ssh(tunnel: &Tunnel) -> &SshTunnel {
    match &tunnel.work {
        Work::Ssh(ssh) => ssh,
        Work::Command(command) => panic!("{command:?} is not ssh"),
    }
}

fn command(tunnel: &Tunnel) -> &CommandTunnel {
    match &tunnel.work {
        Work::Ssh(ssh) => panic!("{ssh:?} is not a command"),
        Work::Command(command) => command,
    }
}

fn loopback(port: u16) -> Vec<Endpoint> {
    ["127.0.0.1", "::1"].map(|address| Endpoint::new(address.parse().unwrap(), port)).to_vec()
}

fn port(number: u16) -> PortRange {
    PortRange::new(number, number).unwrap()
}

fn host_port(host: &str, number: u16) -> Target {
    Target::Ports(HostPorts { host: host.to_owned(), ports: port(number) })
}

/// The file of autossh-tunnel's README, as far as its keys go.
const AUTOSSH_TUNNEL_FILE: &str = "
tunnels:
  - name: database
    remote_host: user@db-server
    remote_port: 3306
    local_port: 13306
    direction: remote_to_local
    interactive: false
  - remote_host: \"user@web-server\"
    remote_port: \"8080\"
    local_port: 0.0.0.0:18080
    direction: local_to_remote
    interactive: true
";

#[test]
fn a_file_of_autossh_tunnel_means_what_it_meant() {
    let desired = valid(AUTOSSH_TUNNEL_FILE);
    let [database, web] = &desired.tunnels[..] else { panic!("{desired:?}") };
    assert_eq!(database.name, "database");
    assert_eq!(
        ssh(database).forward,
        Forward::Local { listen: loopback(13306), by: ListenedBy::Ssh, target: host_port("localhost", 3306) }
    );
    assert!(database.enabled && !database.interactive);
    assert_eq!(web.name, "web-server-0.0.0.0:18080");
    assert_eq!(
        ssh(web).forward,
        Forward::Remote {
            listen: RemoteListen::Ports { bind: None, ports: port(8080) },
            target: host_port("0.0.0.0", 18080)
        }
    );
    assert!(web.interactive);
    // printf '%s' 'TEXT' | md5sum
    // database|user@db-server|3306|13306|remote_to_local|false
    assert_eq!(database.hash, "96eac3f9b42c27781a491626a5e1c7e9");
    // unnamed|user@web-server|8080|0.0.0.0:18080|local_to_remote|true
    assert_eq!(web.hash, "208d18549189da8aa20e0820af520990");
    // user@web-server:8080:0.0.0.0:18080:local_to_remote
    assert_eq!(web.log_id, "7e9838b4");
}

#[test]
fn the_hash_is_made_of_the_digits_as_written() {
    let number = only("tunnels: [{remote_host: h, remote_port: 3306, local_port: 013306}]");
    assert_eq!(number.written.local_port, "013306");
    assert_eq!(
        ssh(&number).forward,
        Forward::Local { listen: loopback(13306), by: ListenedBy::Ssh, target: host_port("localhost", 3306) }
    );
    let text = only("tunnels: [{remote_host: h, remote_port: '3306', local_port: \"013306\"}]");
    assert_eq!(number, text);
}

#[test]
fn a_range_is_one_tunnel_with_as_many_ports_on_either_side() {
    let local = only("tunnels: [{remote_host: me@db, remote_port: 'web:9000-9002', local_port: 8000-8002}]");
    let ports = |first, last| PortRange::new(first, last).unwrap();
    let listen: Vec<_> = (8000..=8002).flat_map(loopback).collect();
    let target = Target::Ports(HostPorts { host: "web".to_owned(), ports: ports(9000, 9002) });
    assert_eq!(ssh(&local).forward, Forward::Local { listen, by: ListenedBy::Ssh, target });
    assert_eq!(local.name, "db-8000-8002");
    assert_eq!(local.written.local_port, "8000-8002");
    // printf '%s' 'unnamed|me@db|web:9000-9002|8000-8002|remote_to_local|false' | md5sum
    assert_eq!(local.hash, "65b0f5b3715265418418ff28fe78608f");
    // printf '%s' 'me@db:web:9000-9002:8000-8002:remote_to_local' | md5sum
    assert_eq!(local.log_id, "168fa6d5");
    let remote = only(
        "tunnels: [{remote_host: db, remote_port: '*:80-81', local_port: 'h:90-91', direction: local_to_remote}]",
    );
    let target = Target::Ports(HostPorts { host: "h".to_owned(), ports: ports(90, 91) });
    let listen = RemoteListen::Ports { bind: Some("*".to_owned()), ports: ports(80, 81) };
    let forward = Forward::Remote { listen, target };
    assert_eq!(ssh(&remote).forward, forward);
    let one =
        |port: &str| only(&format!("tunnels: [{{remote_host: h, remote_port: 1, local_port: {port}}}]"));
    assert_eq!(ssh(&one("80-80")).forward, ssh(&one("80")).forward);
}

#[test]
fn a_path_is_a_unix_socket_on_either_side_and_what_defaults_say_of_ports_is_left_out() {
    let source = "defaults: {listener: portward, on_conflict: kill}\ntunnels: [{remote_host: db, remote_port: 5432, local_port: \
                  /run/app.sock}, {remote_host: db, remote_port: /run/db.sock, local_port: 1, listener: ssh}, {remote_host: \
                  db, remote_port: /run/there.sock, local_port: /run/here.sock, direction: local_to_remote}]";
    let [here, there, both] = &valid(source).tunnels[..] else { panic!("{source}") };
    let socket = |path: &str| Target::Socket(path.into());
    let listen = LocalSocket { path: "/run/app.sock".into(), mode: 0o600 };
    assert_eq!(ssh(here).forward, Forward::Socket { listen, target: host_port("localhost", 5432) });
    assert_eq!((here.name.as_str(), here.policy.on_conflict), ("db-app.sock", OnConflict::Wait));
    let by = ListenedBy::Ssh;
    let forward = Forward::Local { listen: loopback(1), by, target: socket("/run/db.sock") };
    assert_eq!(ssh(there).forward, forward);
    assert_eq!(there.policy.on_conflict, OnConflict::Kill);
    let listen = RemoteListen::Socket("/run/there.sock".into());
    assert_eq!(ssh(both).forward, Forward::Remote { listen, target: socket("/run/here.sock") });
    for (written, mode) in [("0660", 0o660), ("'660'", 0o660), ("\"0777\"", 0o777)] {
        let source =
            format!("tunnels: [{{remote_host: h, remote_port: 1, local_port: /s, socket_mode: {written}}}]");
        assert_eq!(only(&source).work.socket().map(|socket| socket.mode), Some(mode), "{written}");
    }
}

#[test]
fn what_is_not_said_has_its_default() {
    let tunnel = only("tunnels: [{remote_host: h, remote_port: 1, local_port: 2}]");
    assert_eq!(
        tunnel.policy,
        Policy {
            kind: Kind::Ssh,
            min_delay: Duration::from_millis(250),
            max_delay: Duration::from_secs(60),
            reset_after: Duration::from_secs(60),
            ready_timeout: Duration::from_secs(25),
            stop_grace: Duration::from_secs(5),
            on_conflict: OnConflict::Wait,
            standby: false,
            drain: Duration::ZERO,
            on_demand: None,
            destinations: 1,
        }
    );
    let ssh = ssh(&tunnel);
    assert_eq!(ssh.ssh.program, Path::new("ssh"));
    assert_eq!((&ssh.ssh.config_file, &ssh.ssh.identity_file), (&None, &None));
    assert_eq!(ssh.ssh.options, BTreeMap::new());
    assert_eq!(tunnel.timeout, Duration::from_secs(10));
    assert_eq!(valid("tunnels: []").api, crate::config::desired::Api::default());
}

#[test]
fn a_health_check_has_defaults_and_is_no_work() {
    let tunnel =
        |health: &str| only(&format!("tunnels: [{{remote_host: h, remote_port: 1, local_port: 2{health}}}]"));
    let plain = tunnel("");
    assert_eq!(plain.health, None);
    let seconds = Duration::from_secs;
    let policy = |every, failures, remedy| HealthPolicy { every: seconds(every), failures, remedy };
    let health = |check, timeout, policy| Some(Health { check, timeout, policy });
    let connect = health(Check::Connect, seconds(5), policy(30, 3, Remedy::Restart));
    for text in [", health: connect", ", health: {connect: true}"] {
        assert_eq!(tunnel(text).health, connect, "{text}");
    }
    let http = tunnel(", health: {http: '/healthz?deep=1', every: 1s, failures: 1, action: mark}");
    let expected = Check::Http("/healthz?deep=1".to_owned());
    assert_eq!(
        http.health,
        health(expected, seconds(1), policy(1, 1, Remedy::Mark)),
        "the time-out is no longer"
    );
    let command = tunnel(", health: {command: [./check, -v], every: 1m, timeout: 1m}");
    let expected = Check::Command(vec!["/etc/portward/./check".to_owned(), "-v".to_owned()]);
    assert_eq!(command.health, health(expected, seconds(60), policy(60, 3, Remedy::Restart)));
    for other in [&http, &command] {
        assert_eq!((&other.work, &other.hash), (&plain.work, &plain.hash), "it restarts nothing");
    }
}

#[test]
fn ssh_standard_swaps_the_two_directions() {
    let tunnel = |mode: &str, direction: &str| {
        only(&format!(
            "direction_mode: {mode}\ntunnels: [{{remote_host: h, remote_port: 1, local_port: 2, direction: {direction}}}]"
        ))
    };
    for (mode, local, remote) in [
        ("default", "remote_to_local", "local_to_remote"),
        ("ssh-standard", "local_to_remote", "remote_to_local"),
    ] {
        assert!(matches!(ssh(&tunnel(mode, local)).forward, Forward::Local { .. }), "{mode}");
        assert!(matches!(ssh(&tunnel(mode, remote)).forward, Forward::Remote { .. }), "{mode}");
        assert_eq!(tunnel(mode, local).written.direction, local);
    }
    let dynamic = only("tunnels: [{remote_host: h, local_port: 1080, direction: dynamic}]");
    assert_eq!(ssh(&dynamic).forward, Forward::Dynamic { listen: loopback(1080) });
    assert_eq!(dynamic.written.remote_port, "");
}

#[test]
fn defaults_are_merged_key_by_key() {
    let desired = valid(
        "
defaults:
  remote_host: gateway
  stop_grace: 1s
  restart: {min_delay: 1s, max_delay: 2s}
  ssh:
    program: /opt/ssh
    options: {ProxyJump: bastion, Port: 22}
tunnels:
  - {name: plain, remote_port: 1, local_port: 1}
  - name: own
    remote_host: elsewhere
    remote_port: 2
    local_port: 2
    restart: {max_delay: 10s}
    ssh:
      options: {port: 2222, Compression: yes}
  - {name: command, command: [socat], local_port: 3}
",
    );
    let [plain, own, socat] = &desired.tunnels[..] else { panic!("{desired:?}") };
    assert_eq!(ssh(plain).ssh.destination, "gateway");
    assert_eq!(plain.written.remote_host, "gateway");
    assert_eq!(ssh(own).ssh.destination, "elsewhere");
    assert_eq!(own.policy.min_delay, Duration::from_secs(1));
    assert_eq!(own.policy.max_delay, Duration::from_secs(10));
    assert_eq!(ssh(own).ssh.program, Path::new("/opt/ssh"));
    let options = [("Compression", "yes"), ("ProxyJump", "bastion"), ("port", "2222")];
    assert_eq!(ssh(own).ssh.options, options.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert_eq!(socat.policy.stop_grace, Duration::from_secs(1));
    assert_eq!(socat.written.remote_host, "");
}

#[test]
fn a_command_may_speak_udp_and_shares_the_number_with_tcp() {
    let file = "tunnels:\n\
                - {name: dns, command: [socat], local_port: 5353, protocol: udp}\n\
                - {name: web, command: [socat], local_port: 5353, protocol: tcp}\n";
    let tunnels = valid(file).tunnels;
    let listen: Vec<String> = command(&tunnels[0]).listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["0.0.0.0:5353/udp", "[::]:5353/udp"]);
    let listen: Vec<String> = command(&tunnels[1]).listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["0.0.0.0:5353", "[::]:5353"]);
}

#[test]
fn a_command_listens_on_all_addresses_unless_told() {
    let tunnel = only("tunnels: [{command: [./serve, --port, 80], local_port: 80, start_timeout: 5s}]");
    let command = command(&tunnel);
    assert_eq!(command.argv, ["/etc/portward/./serve", "--port", "80"]);
    let listen: Vec<String> = command.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["0.0.0.0:80", "[::]:80"]);
    assert!(command.listen.iter().all(|endpoint| !endpoint.v6only));
    assert_eq!(tunnel.policy.kind, Kind::Command);
    assert_eq!(tunnel.policy.ready_timeout, Duration::from_secs(5));
    assert_eq!(tunnel.name, "serve-80");
    assert_eq!(tunnel.written.direction, "remote_to_local");
}

#[test]
fn the_environment_is_merged_name_by_name_and_a_directory_is_for_commands() {
    let desired = valid(
        "
defaults:
  env: {SHARED: all, OWN: theirs}
  working_directory: work
tunnels:
  - {name: ssh, remote_host: h, remote_port: 1, local_port: 1}
  - name: command
    command: [bin/serve, in/put]
    local_port: 2
    env: {OWN: mine, COUNT: 0x10, FLAG: yes, EMPTY: ''}
  - {name: other, command: [serve], local_port: 3, working_directory: /srv}
",
    );
    let [over_ssh, first, other] = &desired.tunnels[..] else { panic!("{desired:?}") };
    let variables = |environment: &Environment| {
        environment.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
    };
    assert_eq!(variables(&ssh(over_ssh).ssh.env), ["OWN=theirs", "SHARED=all"]);
    let first = command(first);
    assert_eq!(variables(&first.env), ["COUNT=0x10", "EMPTY=", "FLAG=yes", "OWN=mine", "SHARED=all"]);
    assert_eq!(first.working_directory.as_deref(), Some(Path::new("/etc/portward/work")));
    assert_eq!(first.argv, ["/etc/portward/bin/serve", "in/put"]);
    assert_eq!(command(other).working_directory.as_deref(), Some(Path::new("/srv")));
}

#[test]
fn what_looks_odd_and_is_right_is_taken() {
    // As word processors, Windows and people with unusual names leave it.
    for source in [
        "\u{feff}tunnels:\r\n  - remote_host: h\r\n    remote_port: 1\r\n    local_port: 2\r\n",
        "tunnels: [{name: 'Mätti’s \u{1f426} <prod>', remote_host: h, remote_port: 1, local_port: 2}]",
        "tunnels: [{remote_host: db__prod__eu, remote_port: 1, local_port: 2}]",
        "tunnels: [{remote_host: 'ssh://user@db:2222', remote_port: 'db.internal:1', local_port: '*:2'}]",
        "tunnels: [{command: ['./my program', --format, '{{.Names}}', '$HOME'], local_port: 2}]",
        "tunnels: [{name: deadbeef, remote_host: h, remote_port: 1, local_port: 2}]",
        "tunnels: [{name: DB, remote_host: h, remote_port: 1, local_port: 2}, {name: db, remote_host: h, remote_port: 1, local_port: 3}]",
        "{\"tunnels\": [{\"remote_host\": \"h\", \"remote_port\": 1, \"local_port\": 2,}]}",
    ] {
        assert!(!valid(source).tunnels.is_empty(), "{source}");
    }
}

#[test]
fn servers_that_may_be_two_may_both_listen() {
    let two = valid(
        "
tunnels:
  - {remote_host: h, remote_port: 80, local_port: 1, direction: local_to_remote, ssh: {options: {Port: 22}}}
  - {remote_host: h, remote_port: 80, local_port: 2, direction: local_to_remote, ssh: {options: {port: 2222}}}
  - {remote_host: other, remote_port: 80, local_port: 3, direction: local_to_remote}
",
    );
    assert_eq!(two.tunnels.len(), 3);
}

#[test]
fn paths_are_relative_to_the_file() {
    let desired = valid(
        "
api: {socket: run/api.sock, listen: '[::1]:8080', token_file: token}
tunnels:
  - remote_host: h
    remote_port: 1
    local_port: 2
    ssh: {program: ./ssh, identity_file: keys/id, config_file: none}
",
    );
    let ssh = ssh(&desired.tunnels[0]);
    assert_eq!(ssh.ssh.program, Path::new("/etc/portward/./ssh"));
    assert_eq!(ssh.ssh.identity_file.as_deref(), Some(Path::new("/etc/portward/keys/id")));
    assert_eq!(ssh.ssh.config_file.as_deref(), Some(Path::new("none")));
    assert_eq!(desired.api.socket.as_deref(), Some(Path::new("/etc/portward/run/api.sock")));
    let tcp = desired.api.tcp.as_ref().unwrap();
    assert_eq!(tcp.listen, "[::1]:8080".parse().unwrap());
    assert_eq!(tcp.token_file, Path::new("/etc/portward/token"));
}

#[test]
fn derived_names_are_unique_and_stay_when_the_order_changes() {
    let names = |tunnels: [&str; 3]| {
        let desired = valid(&format!("tunnels:\n{}", tunnels.join("\n")));
        let mut names: Vec<(String, String)> =
            desired.tunnels.into_iter().map(|tunnel| (tunnel.hash, tunnel.name)).collect();
        names.sort();
        names
    };
    let alice = "  - {remote_host: alice@h, remote_port: 1, local_port: 80, direction: local_to_remote}";
    let bob = "  - {remote_host: bob@h, remote_port: 2, local_port: 80, direction: local_to_remote}";
    let carol = "  - {name: h-80, remote_host: h, remote_port: 3, local_port: 81}";
    let one = names([alice, bob, carol]);
    assert_eq!(one, names([carol, bob, alice]));
    let mut unique: Vec<&String> = one.iter().map(|(_, name)| name).collect();
    unique.sort();
    assert_eq!(unique, ["h-80", "h-80-2", "h-80-3"]);
}

#[test]
fn durations_are_written_with_their_unit() {
    for (text, millis) in
        [("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("1h", 3_600_000), ("1m 30s", 90_000)]
    {
        let source =
            format!("tunnels: [{{remote_host: h, remote_port: 1, local_port: 2, stop_grace: {text}}}]");
        assert_eq!(only(&source).policy.stop_grace, Duration::from_millis(millis), "{text}");
    }
}

#[test]
fn anchors_and_quoted_booleans_are_read() {
    let desired = valid(
        "
tunnels:
  - {remote_host: &host user@h, remote_port: 1, local_port: 2, ssh: &ssh {options: {Port: 22}}}
  - {remote_host: *host, remote_port: 1, local_port: 3, ssh: *ssh, interactive: 'true'}
",
    );
    assert_eq!(ssh(&desired.tunnels[1]).ssh.destination, "user@h");
    assert_eq!(ssh(&desired.tunnels[1]).ssh.options["Port"], "22");
    assert!(desired.tunnels[1].interactive);
}

#[test]
fn portward_listens_where_it_is_told_to_and_can() {
    let by = |tunnel: &Tunnel| match &ssh(tunnel).forward {
        Forward::Local { by, .. } => Some(*by),
        Forward::Socket { .. } | Forward::Remote { .. } | Forward::Dynamic { .. } => None,
    };
    let desired = valid(
        "
defaults: {listener: portward, connect_wait: 5s}
tunnels:
  - {remote_host: h, remote_port: 1, local_port: 2}
  - {remote_host: h, remote_port: 1, local_port: 3, connect_wait: 7s}
  - {remote_host: h, remote_port: 1, local_port: 4, listener: ssh}
  - {remote_host: h, local_port: 5, direction: dynamic}
  - {remote_host: h, remote_port: 6, local_port: 6, direction: local_to_remote}
  - {command: [serve], local_port: 7}
",
    );
    let [held, patient, of_ssh, socks, remote, program] = &desired.tunnels[..] else { panic!("{desired:?}") };
    assert_eq!([held, patient].map(by), [Some(ListenedBy::Portward); 2]);
    assert_eq!([held, patient].map(|tunnel| tunnel.clients.connect_wait.as_secs()), [5, 7]);
    assert_eq!([of_ssh, socks, remote].map(by), [Some(ListenedBy::Ssh), None, None]);
    assert!(held.work.is_held() && !program.work.is_held());
    assert_eq!((ssh(held).forward.listens(), ssh(of_ssh).forward.listens()), (&[][..], &loopback(4)[..]));
    assert_eq!(held.work.endpoints(), loopback(2));
    let standard = "direction_mode: ssh-standard\ntunnels: [{remote_host: h, remote_port: 1, local_port: 2, \
                    direction: local_to_remote, listener: portward}]";
    let standard = only(standard);
    assert_eq!((by(&standard), standard.clients.connect_wait.as_secs()), (Some(ListenedBy::Portward), 30));
}

#[test]
fn only_tunnels_that_it_fits_sleep_by_default_and_what_a_tunnel_says_itself_counts() {
    let desired = valid(
        "
defaults: {on_demand: 10m}
tunnels:
  - {remote_host: h, remote_port: 1, local_port: 2, listener: portward}
  - {remote_host: h, remote_port: 1, local_port: 3, listener: portward, on_demand: 90s}
  - {remote_host: h, remote_port: 1, local_port: 4, listener: portward, standby: true}
  - {remote_host: h, remote_port: 1, local_port: 5, listener: portward, health: {command: [check]}}
  - {remote_host: h, remote_port: 1, local_port: 6, listener: portward, health: connect}
  - {remote_host: h, remote_port: 1, local_port: 7}
  - {remote_host: h, local_port: 8, direction: dynamic}
  - {command: [serve], local_port: 9}
",
    );
    let seconds = |tunnel: &Tunnel| tunnel.policy.on_demand.map_or(0, |time| time.as_secs());
    assert_eq!(desired.tunnels.iter().map(seconds).collect::<Vec<_>>(), [600, 90, 0, 0, 600, 0, 0, 0]);
    let own = "defaults: {standby: true}\ntunnels: [{remote_host: h, remote_port: 1, local_port: 2, \
               listener: portward, on_demand: 1s}]";
    let policy = only(own).policy;
    assert_eq!((policy.standby, policy.on_demand), (false, Some(Duration::from_secs(1))));
}

#[test]
fn users_and_groups_that_may_connect_are_told_apart() {
    let tunnel = only(
        "tunnels: [{remote_host: h, remote_port: 1, local_port: 2, listener: portward, allow_users: [alice, '@dba', '1000']}]",
    );
    let allowed = tunnel.clients.allow_users.unwrap();
    assert_eq!(
        (allowed.users, allowed.groups),
        (vec!["alice".to_owned(), "1000".to_owned()], vec!["dba".to_owned()])
    );
    let desired = valid(
        "
defaults: {allow_users: [alice]}
tunnels:
  - {remote_host: h, remote_port: 1, local_port: 2, listener: portward}
  - {remote_host: h, remote_port: 1, local_port: 3}
",
    );
    let named = desired.tunnels.iter().map(|tunnel| tunnel.clients.allow_users.is_some());
    assert_eq!(named.collect::<Vec<_>>(), [true, false]);
}
