//! A machine at the other end of network cables: a second network namespace.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Stdio;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use tokio::process::{Child, Command};

use crate::lab::{Lab, is_sshd};
use crate::log::lines_of;
use crate::namespace::{NetworkNamespace, ProcessInfo, kill};
use crate::network::{ip, run_ip};

/// A network namespace beside that of the lab. When it goes, its processes are killed.
#[derive(Debug)]
pub struct FarSide<'lab> {
    pub(crate) lab: &'lab Lab,
    namespace: NetworkNamespace,
    /// Its pid stands for the namespace.
    holder: Child,
}

impl<'lab> FarSide<'lab> {
    /// A namespace with nothing but a loopback interface.
    pub async fn new(lab: &'lab Lab) -> Self {
        let mut holder = lab
            .command("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo ready && exec sleep infinity"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting unshare (package util-linux)");
        let said = lines_of(holder.stdout.take().unwrap());
        assert!(
            said.find(0, |line| line == "ready").await.is_some(),
            "no second namespace: {:?}",
            said.all()
        );
        let inode = fs::metadata(Self::path_of(&holder)).unwrap().ino();
        Self { lab, namespace: NetworkNamespace::of(inode), holder }
    }

    /// Connects both by a veth pair: `name` with 10.`network`.0.2/24 here, and `name` with 10.`network`.0.1/24 there.
    pub fn connect(&self, name: &str, network: u8) {
        ip(&format!("link add {name} type veth peer name {name} netns {}", self.holder.id().unwrap()));
        // Without addresses of its own making, which it would announce a second later.
        ip(&format!("link set {name} addrgenmode none"));
        self.ip(&format!("link set {name} addrgenmode none"));
        ip(&format!("address add 10.{network}.0.2/24 dev {name}"));
        self.ip(&format!("address add 10.{network}.0.1/24 dev {name}"));
        self.ip(&format!("link set {name} up"));
        ip(&format!("link set {name} up"));
    }

    /// Runs `ip` there. Nobody here hears of it.
    pub fn ip(&self, arguments: &str) {
        let mut command = std::process::Command::new("nsenter");
        run_ip(command.arg(self.net_argument()).arg("ip"), arguments);
    }

    /// A command to be run there by the test itself; it ends with its handle.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.lab.command("nsenter");
        command.arg(self.net_argument()).arg(program);
        command
    }

    /// Runs `body` there, on a thread with a runtime of its own, until this program ends.
    pub fn spawn<F: Future<Output = ()>>(&self, body: impl FnOnce() -> F + Send + 'static) {
        let namespace = fs::File::open(Self::path_of(&self.holder)).unwrap();
        std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("entering the second network namespace");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(body());
        });
    }

    /// The sshd processes there.
    pub(crate) fn sshd_processes(&self) -> Vec<ProcessInfo> {
        self.namespace.processes("").into_iter().filter(is_sshd).collect()
    }

    fn net_argument(&self) -> String {
        format!("--net={}", Self::path_of(&self.holder).display())
    }

    fn path_of(holder: &Child) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", holder.id().unwrap()))
    }
}

impl Drop for FarSide<'_> {
    fn drop(&mut self) {
        for process in self.namespace.processes("") {
            kill(process.pid, Signal::SIGKILL);
        }
    }
}
