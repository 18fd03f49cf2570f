//! The container and the examples for Kubernetes, as far as they can be shown without an engine: the image's file system is made by
//! executing the Containerfile over an overlay of this machine's own root, and is run in namespaces as compose.yaml says.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod containerfile;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use integration_tests::{
    Lab, ORIGIN_PORT, Record, SSHD_PORT, Sshd, fetch, kill, lines_of, process_end, read, repository, run,
    said_by, serve_page, tool, within_deadline,
};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use serde_yaml::Value;
use tokio::process::{Child, Command};

use crate::containerfile::{Image, Instruction};

/// Nobody has them on a machine where this runs.
const UID: u32 = 47_111;
const GID: u32 = 47_112;

/// Where the image's file system is, on the lab's own /run.
const ROOT: &str = "/run/image/root";

/// The tunnel's port.
const PORT: u16 = 9443;

/// The service of compose.yaml, with the variables that it asks for.
fn service() -> Value {
    let text = read("packaging/container/compose.yaml")
        .replace("${PORTWARD_UID:-1000}", &UID.to_string())
        .replace("${PORTWARD_GID:-1000}", &GID.to_string());
    assert!(!text.contains("${"), "a variable that the test does not know:\n{text}");
    serde_yaml::from_str::<Value>(&text).unwrap()["services"]["portward"].clone()
}

/// The texts of a list.
fn texts(list: &Value) -> Vec<&str> {
    list.as_sequence().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// The documents of the examples for Kubernetes.
fn manifests() -> Vec<Value> {
    let texts = ["sidecar", "daemonset"].map(|name| read(&format!("examples/kubernetes/{name}.yaml")));
    let documents = texts.iter().flat_map(|text| text.split("\n---\n"));
    documents.map(|document| serde_yaml::from_str(document).unwrap()).collect()
}

/// The commands of their probes, of the tunnel that the test has.
fn probes() -> Vec<String> {
    let mut commands = Vec::new();
    for manifest in manifests().iter().filter(|manifest| manifest["kind"] != "ConfigMap") {
        let spec = &manifest["spec"];
        let container = [&spec["initContainers"][0], &spec["template"]["spec"]["containers"][0]];
        let container = container
            .into_iter()
            .find(|container| container["name"] == "portward")
            .expect("portward's container");
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"]
            .map(|name| &container[name]["exec"]["command"])
        {
            if !probe.is_null() {
                commands.push(
                    texts(probe)
                        .join(" ")
                        .replace("13306", &PORT.to_string())
                        .replace("5443", &PORT.to_string()),
                );
            }
        }
    }
    assert_eq!(commands.len(), 5, "{commands:?}");
    commands
}

#[test]
fn the_configurations_of_the_examples_for_kubernetes_are_valid() {
    let manifests = manifests();
    let configurations: Vec<_> =
        manifests.iter().filter_map(|manifest| manifest["data"]["config.yaml"].as_str()).collect();
    assert_eq!(configurations.len(), 2);
    for configuration in configurations {
        if let Err(mistakes) = portward::config::parse(configuration, Path::new("config.yaml")) {
            panic!("{}", mistakes.render(false));
        }
    }
}

#[tokio::test]
async fn the_examples_for_kubernetes_are_as_its_published_schemas_want_them() {
    let files =
        ["sidecar", "daemonset"].map(|name| repository().join(format!("examples/kubernetes/{name}.yaml")));
    let mut validate = Command::new(tool("kubernetes-validate"));
    let said = run(validate.arg("--strict").args(files), 0).await;
    assert_eq!(said.matches(" passed for resource ").count(), manifests().len(), "{said}");
}

/// The files that the build needs, and the image, built with the arguments of compose.yaml.
fn image(service: &Value) -> (Vec<String>, Image) {
    let build = &service["build"];
    assert_eq!(build["context"], "../..", "from packaging/container");
    let text = |value: &Value| {
        value.as_u64().map_or_else(|| value.as_str().unwrap().to_owned(), |number| number.to_string())
    };
    let arguments = ["UID", "GID"].map(|name| (name, text(&build["args"][name])));
    containerfile::read(&read(build["dockerfile"].as_str().unwrap()), &arguments)
}

/// A container that runs.
struct Container {
    image: Image,
    unshare: Child,
    first: u32,
    log: Record<String>,
}

impl Container {
    /// Builds and starts it, with `ssh` and `config` of the lab mounted.
    async fn start(lab: &Lab) -> Self {
        let service = service();
        let (_, image) = image(&service);
        build(lab, &image).await;
        for volume in texts(&service["volumes"]) {
            match volume.split(':').collect::<Vec<_>>()[..] {
                ["./config", target] => bind(&lab.path("config"), target, MsFlags::empty()),
                ["~/.ssh", target, "ro"] => bind(&lab.path("ssh"), target, MsFlags::MS_RDONLY),
                _ => panic!("the test does not know {volume}"),
            }
        }
        for place in texts(&service["tmpfs"]) {
            let (place, options) = place.split_once(':').unwrap();
            let place = format!("{ROOT}{place}");
            mount(Some("tmpfs"), place.as_str(), Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
        }
        assert_eq!(service["read_only"], true);
        remount(ROOT, MsFlags::MS_RDONLY);
        assert_eq!(service["user"], image.user.as_str(), "ssh needs the passwd entry of the image's user");

        // Its own processes and mounts; the network is the lab's, as with network_mode: host.
        let mut unshare = inside(lab.command("unshare"), &image);
        unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--root", ROOT, "--wd", "/"]);
        let mut unshare =
            unshare.args(process_of(&image)).args(&image.start).stderr(Stdio::piped()).spawn().unwrap();
        let log = lines_of(unshare.stderr.take().unwrap());
        let up = log.find(0, |line| line.contains(&format!("up: 127.0.0.1:{PORT}"))).await;
        assert!(up.is_some(), "{:#?}", log.all());
        let parent = unshare.id().unwrap();
        Self { image, unshare, first: children(parent)[0], log }
    }

    /// What an engine does for `exec` and for health checks.
    fn exec(&self, lab: &Lab, line: &str) -> Command {
        let mut command = inside(lab.command("nsenter"), &self.image);
        command.args(["--pid", "--mount", "--root", "--wd", "--target", &self.first.to_string()]);
        command.args(process_of(&self.image)).args(["/bin/sh", "-c", line]);
        command
    }
}

/// The environment of a process in the container.
fn inside(mut command: Command, image: &Image) -> Command {
    command
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(&image.environment);
    command
}

/// What becomes a process of the container: it has a session of its own, as engines have it, the image's user, and not what compose.yaml
/// takes away.
fn process_of(image: &Image) -> Vec<String> {
    let (user, group) = image.user.split_once(':').unwrap();
    let ids =
        ["setsid".to_owned(), "setpriv".to_owned(), format!("--reuid={user}"), format!("--regid={group}")];
    let none = ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"];
    ids.into_iter().chain(none.map(str::to_owned)).collect()
}

fn bind(source: &Path, target: &str, flags: MsFlags) {
    let target = format!("{ROOT}{target}");
    mount(Some(source), target.as_str(), None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .unwrap();
    remount(&target, flags);
}

fn remount(target: &str, flags: MsFlags) {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags;
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>).unwrap();
}

/// In place of apt-get in the image: there is no network, and the packages are those of this machine.
const APT_GET: &str = "#!/bin/sh
case $1 in
  update) ;;
  install) shift; for word; do case $word in -*) ;; *) dpkg-query --show $word || exit 1 ;; esac; done ;;
  *) exit 1 ;;
esac
";

/// Makes the image's file system.
async fn build(lab: &Lab, image: &Image) {
    for directory in ["upper", "work", "root"] {
        fs::create_dir_all(format!("/run/image/{directory}")).unwrap();
    }
    let layers = "lowerdir=/,upperdir=/run/image/upper,workdir=/run/image/work";
    mount(Some("overlay"), ROOT, Some("overlay"), MsFlags::empty(), Some(layers)).unwrap();
    bind(Path::new("/dev"), "/dev", MsFlags::empty());
    fs::create_dir_all(format!("{ROOT}/build")).unwrap();
    let apt_get = format!("{ROOT}/build/apt-get");
    fs::write(&apt_get, APT_GET).unwrap();
    fs::set_permissions(&apt_get, fs::Permissions::from_mode(0o755)).unwrap();
    for instruction in &image.instructions {
        match instruction {
            Instruction::Run(line) => {
                let mut shell = inside(lab.command("chroot"), image);
                shell.env("PATH", "/build:/usr/sbin:/usr/bin:/sbin:/bin").envs(&image.arguments);
                run(shell.args([ROOT, "/bin/sh", "-c", line]), 0).await;
            }
            Instruction::Copy { from, sources, target } => {
                assert_eq!(from.as_deref(), Some("build"));
                assert_eq!(sources[..], ["/source/target/release/portward"]);
                let program = fs::canonicalize(lab.path("bin/portward")).unwrap();
                run(lab.command("install").arg(program).arg(format!("{ROOT}{target}portward")), 0).await;
            }
        }
    }
}

/// What compose.yaml mounts: a configuration, and the keys of the user.
fn provide(lab: &Lab) {
    for directory in ["config", "ssh"] {
        fs::create_dir(lab.path(directory)).unwrap();
    }
    let tunnel = format!(
        "tunnels:\n  - {{name: web, remote_host: 'ssh://root@127.0.0.1:{SSHD_PORT}', \
         remote_port: '127.0.0.1:{ORIGIN_PORT}', local_port: {PORT}}}\n"
    );
    fs::write(lab.path("config/config.yaml"), tunnel).unwrap();
    fs::copy(lab.path("client_key"), lab.path("ssh/id_ed25519")).unwrap();
    let key = fs::read_to_string(lab.path("host_key.pub")).unwrap();
    fs::write(lab.path("ssh/known_hosts"), format!("[127.0.0.1]:{SSHD_PORT} {key}")).unwrap();
    for file in ["ssh", "ssh/id_ed25519", "ssh/known_hosts"] {
        chown(lab.path(file), Some(UID), Some(GID)).unwrap();
    }
    fs::set_permissions(lab.path("ssh"), fs::Permissions::from_mode(0o700)).unwrap();
    // The test may lie where others may not go.
    fs::set_permissions(lab.path(""), fs::Permissions::from_mode(0o755)).unwrap();
}

/// The ids of a process: its user and group, as the kernel shows them.
fn ids(pid: u32) -> (String, String) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    (line("Uid:"), line("Gid:"))
}

#[tokio::test]
async fn the_container_runs_tunnels_as_its_user_reaps_answers_health_checks_and_ends_with_all_of_them() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    serve_page(("127.0.0.1", ORIGIN_PORT)).await;
    provide(&lab);
    let mut container = Container::start(&lab).await;
    fetch(PORT).await.expect("the page comes through the tunnel");
    let (uid, gid) = (vec![UID.to_string(); 4].join("\t"), vec![GID.to_string(); 4].join("\t"));
    for process in lab.daemon_processes().iter().filter(|process| process.executable.ends_with("portward")) {
        assert_eq!(ids(process.pid), (uid.clone(), gid.clone()), "{process}");
    }
    assert_eq!(ids(container.first), (uid, gid));

    let check = container.image.health_check.clone();
    assert_eq!(said_by(&mut container.exec(&lab, &check)).await, (Some(0), String::new()));
    let mut nobody_answers = container.exec(&lab, &check);
    let (code, said) = said_by(nobody_answers.env("PORTWARD_SOCKET", "/run/portward/none")).await;
    assert_eq!(code, Some(1), "{said}");

    for probe in probes() {
        assert_eq!(said_by(&mut container.exec(&lab, &probe)).await.0, Some(0), "{probe}");
    }

    // It outlives the shell that started it, and ends when the test closes its input.
    let mut exec = container.exec(&lab, "exec 3<&0; sh -c 'echo here; read line' <&3 &");
    let mut exec = exec.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let input = exec.stdin.take();
    let said = lines_of(exec.stdout.take().unwrap());
    assert!(said.find(0, |line| line == "here").await.is_some());
    within_deadline("the shell", exec.wait()).await.unwrap();
    let orphan = children(container.first)
        .into_iter()
        .find(|child| command_line(*child) == "sh -c echo here; read line");
    let orphan = orphan.expect("process 1 is the orphan's parent");
    drop(input);
    process_end(orphan).await;
    await_reaped(container.first, orphan).await;

    kill(container.first, Signal::SIGTERM);
    let ended = within_deadline("the end of the container", container.unshare.wait()).await.unwrap();
    assert!(ended.success(), "{ended}: {:#?}", container.log.all());
    let said = container.log.all();
    assert!(said.iter().any(|line| line.contains("web: stopped; nothing of it is left")), "{said:#?}");
    assert!(lab.daemon_processes().is_empty(), "{:?}", lab.daemon_processes());
}

/// The children of a process.
fn children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_ascii_whitespace().map(|child| child.parse().unwrap()).collect()
}

fn command_line(pid: u32) -> String {
    let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.trim_end_matches('\0').replace('\0', " ")
}

/// A process ends before its parent reaps it, and the kernel sends no event of that.
async fn await_reaped(parent: u32, child: u32) {
    let gone = async {
        while children(parent).contains(&child) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within_deadline("the end of the zombie", gone).await;
}

#[test]
fn the_stage_that_builds_has_every_file_that_cargo_wants() {
    let (sources, _) = image(&service());
    let directory = tempfile::tempdir().unwrap();
    for source in &sources {
        let copied = std::process::Command::new("cp")
            .arg("-r")
            .arg(repository().join(source))
            .arg(directory.path())
            .status()
            .unwrap();
        assert!(copied.success(), "{source}");
    }
    let read = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--no-deps", "--format-version=1"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
}
