//! The kernel is the judge: whatever squats on a port, the verdict equals what socket, bind and listen do next.
//!
//! Squatters are made at random, one to three on a port, by this process or by others of root or of an ordinary user, in
//! this cgroup or in one of their own. `PORTWARD_SEED=N` repeats a run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what surprises a test ends it")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use integration_tests::{Choices, Held, NOBODY, Squat, Use, become_nobody, isolated};
use portward::port::diag::Diag;
use portward::port::{Endpoint, HeldBy, HoldKind, Holder, Ports, Protocol, Verdict, holder};
use socket2::{Domain, Socket, Type};

/// The addresses, with v6only, at which squatters are and endpoints are wanted.
const ADDRESSES: [(&str, bool); 7] = [
    ("127.0.0.1", false),
    ("127.0.0.2", false),
    ("0.0.0.0", false),
    ("::1", true),
    ("::", true),
    ("::", false),
    ("::ffff:127.0.0.1", false),
];
/// So many ports are squatted on; for each, all addresses are wanted.
const PORTS: u16 = 330;
const CASES: usize = 2000;
/// Below the range from which the kernel gives ports to clients, and above those that only root may bind.
const FIRST_PORT: u16 = 2000;
/// To find a process takes ten milliseconds: it is done for one held endpoint in so many.
const NAMED: usize = 25;

fn squatter(choices: &mut Choices, uses: &[Use]) -> Squat {
    let (address, v6only) = choices.one_of(&ADDRESSES);
    Squat {
        r#use: choices.one_of(uses),
        address: address.parse().unwrap(),
        v6only,
        reuse_address: choices.yes(),
        reuse_port: choices.yes(),
    }
}

/// A program that squats as it is told.
struct SquattingProcess {
    child: Child,
    /// `None` once it shall end.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    uid: u32,
    cgroup: Option<String>,
}

impl SquattingProcess {
    fn start(uid: u32, cgroup: Option<&Path>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_squatting-process"));
        command.arg(uid.to_string()).args(cgroup).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let cgroup = cgroup.map(|path| format!("/{}", path.file_name().unwrap().display()));
        let mut process = Self { child, orders: Some(orders), answers: BufReader::new(answers), uid, cgroup };
        // It is where it belongs, and who it shall be, when it answers.
        process.order("leave");
        process
    }

    fn order(&mut self, order: &str) -> String {
        writeln!(self.orders.as_ref().unwrap(), "{order}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    /// The port, and the process that has it.
    fn make(&mut self, squat: &Squat, port: u16) -> Option<(u16, u32)> {
        let answer = self.order(&format!("make {port} {squat}"));
        let (port, heir) = answer.strip_prefix("made ")?.split_once(' ')?;
        let pid = match heir.parse().unwrap() {
            0 => self.child.id(),
            heir => heir,
        };
        Some((port.parse().unwrap(), pid))
    }
}

impl Drop for SquattingProcess {
    fn drop(&mut self) {
        // This thread may not be allowed to signal it; but it ends when it hears no more.
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}

/// A cgroup of this test, where cgroup v2 is mounted and may be written to.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let root = mounts.lines().find(|line| line.contains(" cgroup2 "))?.split(' ').nth(1)?;
        let name =
            format!("portward-differential-{}-{:?}.scope", std::process::id(), std::thread::current().id());
        let path = Path::new(root).join(name.replace(['(', ')'], ""));
        fs::create_dir(&path).ok()?;
        Some(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its processes are gone, and the kernel may not have noticed yet: then it stays, which harms nobody.
        let _ = fs::remove_dir(&self.0);
    }
}

/// A squatter that was made, and by whom.
struct Made {
    squat: Squat,
    uid: u32,
    pid: u32,
    cgroup: Option<String>,
    _held: Option<Held>,
}

struct Test {
    choices: Choices,
    processes: Vec<SquattingProcess>,
    ports: Ports,
    /// Whether the holders are to be told right, beyond that there are some.
    judge_holders: bool,
    uid: u32,
    cases: usize,
    held: usize,
}

impl Test {
    /// Squats on one port and compares for every endpoint.
    fn squat_on(&mut self, port: u16, uses: &[Use], protocol: Protocol) {
        let mut port = port;
        let mut made: Vec<Made> = Vec::new();
        for turn in 0..=self.choices.below(3) {
            let squat = squatter(&mut self.choices, uses);
            // Its port is not chosen, so it comes first or not at all.
            if squat.r#use == Use::Ephemeral && turn > 0 {
                continue;
            }
            if let Some((its_port, squatter)) = self.make(squat, port) {
                port = its_port;
                made.push(squatter);
            }
        }
        for (address, v6only) in ADDRESSES {
            let address: IpAddr = address.parse().unwrap();
            let wanted = Endpoint { v6only, ..Endpoint::new(address, port) }.over(protocol);
            self.compare(&wanted, &made);
        }
        for process in &mut self.processes {
            assert_eq!(process.order("leave"), "left");
        }
    }

    fn make(&mut self, squat: Squat, port: u16) -> Option<(u16, Made)> {
        let by = self.choices.below(self.processes.len() + 1);
        if let Some(process) = self.processes.get_mut(by) {
            let (port, pid) = process.make(&squat, port)?;
            let cgroup = process.cgroup.clone();
            return Some((port, Made { squat, uid: process.uid, pid, cgroup, _held: None }));
        }
        let held = squat.make(port).ok()?;
        let pid = held.heir().unwrap_or(std::process::id());
        Some((held.port, Made { squat, uid: self.uid, pid, cgroup: None, _held: Some(held) }))
    }

    fn compare(&mut self, wanted: &Endpoint, made: &[Made]) {
        let verdict = self.ports.verdict(&[*wanted]).unwrap();
        let holders = self.ports.holders(&[*wanted]).unwrap();
        let is_free = would_bind_and_listen(wanted);
        let squats: Vec<String> = made.iter().map(|made| made.squat.to_string()).collect();
        let what = format!("{wanted} (v6only {}) against {squats:?}: {verdict:?}", wanted.v6only);
        assert_eq!(verdict == Verdict::Unbound, is_free, "{what}");
        assert_eq!(holders.is_empty(), is_free, "{what}: {holders:?}");
        self.cases += 1;
        let Verdict::Held(first) = verdict else { return };
        self.held += 1;
        if !self.judge_holders {
            return;
        }
        for held in first.iter().chain(&holders) {
            // Beside a port that the kernel chose there may be what an earlier connection left.
            if wanted.port() >= FIRST_PORT + PORTS && matches!(held.kind, HoldKind::TimeWait(_)) {
                continue;
            }
            let squatters: Vec<&Made> = made.iter().filter(|made| explains(made, held)).collect();
            assert!(!squatters.is_empty(), "{what}: {held:?} is none of them");
            if self.held.is_multiple_of(NAMED) && held.inode != 0 {
                let holder = holder::describe(held);
                let is_named = squatters.iter().any(|squatter| self.is_named(&holder, squatter));
                assert!(is_named, "{what}: {holder:?}");
            }
        }
    }

    /// The uid and the cgroup are told always, and the pid where it may be seen.
    fn is_named(&self, holder: &Holder, squatter: &Made) -> bool {
        let is_shown = if self.uid == 0 {
            holder.pid == Some(squatter.pid) || holder.others.contains(&squatter.pid)
        } else {
            squatter.uid != 0 || holder.to_string().contains("portward may not see")
        };
        let cgroup = squatter.cgroup.as_ref();
        is_shown && holder.uid == squatter.uid && (cgroup.is_none() || holder.cgroup.as_ref() == cgroup)
    }
}

/// Whether `made` is what is told by `held`, as far as the kernel tells it.
fn explains(made: &Made, held: &HeldBy) -> bool {
    let kind = match made.squat.r#use {
        Use::Bound | Use::Datagrams => held.kind == HoldKind::Bound,
        Use::Listening | Use::Inherited => held.kind == HoldKind::Listener,
        Use::Outgoing | Use::Ephemeral | Use::Accepted | Use::ConnectedDatagrams => {
            held.kind == HoldKind::Connection
        }
        Use::AcceptedTimeWait | Use::OutgoingTimeWait => matches!(held.kind, HoldKind::TimeWait(_)),
    };
    kind && (held.inode == 0 || held.uid == made.uid)
}

/// What ssh does next, or for UDP a program that wants the port for itself.
fn would_bind_and_listen(wanted: &Endpoint) -> bool {
    let kind = match wanted.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(wanted.address), kind, None).unwrap();
    if wanted.protocol == Protocol::Tcp {
        socket.set_reuse_address(true).unwrap();
    }
    if wanted.address.is_ipv6() {
        socket.set_only_v6(wanted.v6only).unwrap();
    }
    let bound = socket.bind(&wanted.address.into()).is_ok();
    bound && (wanted.protocol == Protocol::Udp || socket.listen(16).is_ok())
}

/// What differs between the runs.
#[derive(Clone, Copy)]
struct Run {
    uid: u32,
    /// As on a kernel before Linux 6.8.
    hide_bound_sockets: bool,
    uses: &'static [Use],
    protocol: Protocol,
}

const AS_ROOT: Run = Run { uid: 0, hide_bound_sockets: false, uses: &Use::TCP, protocol: Protocol::Tcp };

/// One run at a time: a process that another one starts has copies of this one's sockets until it executes its program, and so
/// keeps ports held that were closed here.
static TURN: Mutex<()> = Mutex::new(());

fn run(run: Run) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    isolated(async || {
        let cgroup = Cgroup::new();
        let cgroups = [None, cgroup.as_ref().map(|cgroup| &*cgroup.0)];
        if cgroups[1].is_none() {
            println!("cgroup v2 cannot be written to here: all squatters are in one cgroup");
        }
        let started = |uid: u32| cgroups.map(|cgroup| SquattingProcess::start(uid, cgroup));
        let processes = [0, NOBODY].into_iter().flat_map(started).collect();
        if run.uid != 0 {
            become_nobody();
        }
        let diag = Diag::new().unwrap();
        let diag = if run.hide_bound_sockets { diag.without_bound_sockets() } else { diag };
        let mut test = Test {
            choices: Choices::of_test(),
            processes,
            ports: Ports::with(diag),
            judge_holders: !run.hide_bound_sockets,
            uid: run.uid,
            cases: 0,
            held: 0,
        };
        for port in FIRST_PORT..FIRST_PORT + PORTS {
            test.squat_on(port, run.uses, run.protocol);
        }
        println!("{} cases, of which {} held", test.cases, test.held);
        assert!(test.cases >= CASES);
        // A generator that makes nothing, or nothing but conflicts, would prove nothing.
        assert!(test.held > test.cases / 5 && test.held < test.cases * 4 / 5, "{} held", test.held);
    });
}

#[test]
fn the_verdict_is_the_kernels_for_root() {
    run(AS_ROOT);
}

#[test]
fn the_verdict_is_the_kernels_for_an_ordinary_user() {
    run(Run { uid: NOBODY, ..AS_ROOT });
}

#[test]
fn the_verdict_is_the_kernels_where_the_kernel_does_not_tell_of_bound_sockets() {
    run(Run { hide_bound_sockets: true, ..AS_ROOT });
}

#[test]
fn the_verdict_is_the_kernels_for_udp() {
    run(Run { uses: &Use::UDP, protocol: Protocol::Udp, ..AS_ROOT });
}
