//! The daemon, its servers, and what is done to them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use integration_tests::{
    Answer, Choices, Daemon, FarSide, Lab, ORIGIN_PORT, Squatter, Sshd, fetch_patiently, ip, kill,
    process_end, request, serve_page, stop_signal,
};
use nix::sys::signal::Signal;
use portward::core::Standby;
use portward::port::Ports;
use portward::protocol::{StateName, TunnelStatus};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::sight;
use crate::tunnels::{self, Kind, RANGE, Tunnel};

/// Where the far server is, and the cable to it.
const FAR: &str = "10.1.0.1";
const CABLE: &str = "cable";

/// More than there are of anything.
const MANY: usize = 1000;

/// Everything that steps act on.
pub(crate) struct World<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) ports: Ports,
    pub(crate) sshd: Sshd<'lab>,
    pub(crate) far_sshd: Sshd<'lab>,
    pub(crate) daemon: Option<Daemon<'lab>>,
    pub(crate) tunnels: Vec<Tunnel>,
    /// By their ports.
    pub(crate) squatters: BTreeMap<u16, Squatter>,
    /// Clients of `/events` that read nothing.
    stalled: Vec<UnixStream>,
    /// Requests whose answer is not there yet.
    requests: Vec<(String, JoinHandle<Answer>)>,
    /// How many logins what has happened since the last quiet point may lead to.
    pub(crate) may_log_in: usize,
    /// How many logins there were at the last quiet point.
    pub(crate) logged_in: usize,
    /// The lines of `ssh_starts` when the present daemon began.
    pub(crate) starts_before: usize,
    /// The tunnels that this daemon was asked to restart.
    pub(crate) to_be_replaced: BTreeSet<String>,
    /// The processes that there were when it began.
    pub(crate) left: BTreeSet<u32>,
    pub(crate) steps: Steps,
}

/// What was done, which a failing test prints.
#[derive(Default)]
pub(crate) struct Steps(Vec<String>);

impl Steps {
    pub(crate) fn note(&mut self, step: String) {
        self.0.push(step);
    }

    /// How often each was done.
    pub(crate) fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for step in &self.0 {
            *counts.entry(step.split([' ', ',']).next().unwrap_or_default()).or_default() += 1;
        }
        counts
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- steps\n{}", self.0.join("\n"));
        }
    }
}

impl<'lab> World<'lab> {
    /// Two servers with pages behind them, and the daemon with all tunnels.
    pub(crate) async fn start(lab: &'lab Lab, far: &'lab FarSide<'lab>) -> Self {
        for port in ORIGIN_PORT..=ORIGIN_PORT + RANGE {
            serve_page(("127.0.0.1", port)).await;
        }
        far.connect(CABLE, 1);
        far.spawn(async || {
            serve_page(("127.0.0.1", ORIGIN_PORT)).await;
            std::future::pending::<()>().await;
        });
        lab.name_far(FAR);
        let (sshd, far_sshd) = (Sshd::start(lab).await, Sshd::start_far(far, "").await);
        let tunnels = tunnels::all();
        let mut world = Self {
            lab,
            ports: Ports::new().unwrap(),
            sshd,
            far_sshd,
            daemon: None,
            may_log_in: tunnels.iter().map(|tunnel| tunnel.kind.logins()).sum(),
            tunnels,
            squatters: BTreeMap::new(),
            stalled: Vec::new(),
            logged_in: 0,
            requests: Vec::new(),
            starts_before: 0,
            to_be_replaced: BTreeSet::new(),
            left: BTreeSet::new(),
            steps: Steps::default(),
        };
        world.write_config();
        world.daemon = Some(Daemon::start_as_configured(lab).await);
        world
    }

    pub(crate) fn daemon(&self) -> &Daemon<'lab> {
        self.daemon.as_ref().expect("the daemon runs")
    }

    /// Who has a port of the tunnel.
    pub(crate) fn squatter(&self, tunnel: &Tunnel) -> Option<u32> {
        let ports = tunnel.ports();
        let squatter = self.squatters.iter().find(|(port, _)| ports.contains(port));
        squatter.filter(|_| tunnel.may_be_squatted()).map(|(_, squatter)| squatter.pid())
    }

    /// Whether it should be up.
    pub(crate) fn is_to_be_up(&self, tunnel: &Tunnel) -> bool {
        tunnel.is_present && tunnel.is_wanted && self.squatter(tunnel).is_none()
    }

    /// Does something; what, `choices` decide.
    pub(crate) async fn step(&mut self, choices: &mut Choices) {
        let index = choices.below(self.tunnels.len());
        match choices.below(26) {
            0..=3 => self.restart(index, choices).await,
            4..=7 => self.kill_ssh(choices).await,
            8 => self.kill_command(choices).await,
            9..=10 => self.stop(index).await,
            11..=12 => self.start_tunnel(index).await,
            13..=14 => self.squat(index).await,
            15 => self.leave().await,
            16..=19 => self.edit(choices).await,
            20 => self.end_sessions(choices).await,
            21 => self.cut(choices).await,
            22 => self.call().await,
            23 => self.follow_without_reading().await,
            24 => self.let_followers_go(),
            _ => self.crash().await,
        }
    }

    /// Back to what the file first was, with nobody in the way.
    pub(crate) async fn go_home(&mut self) {
        self.steps.note("home".to_owned());
        self.stalled.clear();
        while !self.squatters.is_empty() {
            self.leave().await;
        }
        for (tunnel, mut home) in self.tunnels.iter_mut().zip(tunnels::all()) {
            if !tunnel.is_present || tunnel.is_moved {
                self.may_log_in += tunnel.kind.logins();
            } else {
                // What was stopped stays so until it is started.
                home.is_wanted = tunnel.is_wanted;
            }
            *tunnel = home;
        }
        self.reload().await;
        for index in 0..self.tunnels.len() {
            if !self.tunnels[index].is_wanted {
                self.start_tunnel(index).await;
            }
        }
    }

    /// Waits for the answers that are still to come, about this tunnel or about all: each is one of those that a request may have.
    pub(crate) async fn answers(&mut self, about: Option<&str>) {
        let is_meant = |(name, _): &mut (String, _)| about.is_none_or(|about| about == *name);
        for (_, request) in self.requests.extract_if(.., is_meant).collect::<Vec<_>>() {
            let answer = request.await.unwrap();
            assert!(is_an_answer(&answer), "{answer:?}\n{}", self.daemon().report());
        }
    }

    /// Asks without waiting for the answer.
    fn post(&mut self, name: String, path: String) {
        let socket: PathBuf = self.daemon().socket().to_owned();
        let answer = tokio::spawn(async move { request(&socket, "POST", &path, "").await });
        self.requests.push((name, answer));
    }

    async fn restart(&mut self, index: usize, choices: &mut Choices) {
        let Tunnel { kind, name, is_present, is_wanted, .. } = self.tunnels[index].clone();
        if !is_present || !is_wanted {
            return;
        }
        let timeout = choices.one_of(&["?timeout=0s", "?timeout=20s", ""]);
        self.steps.note(format!("restart {name}{timeout}"));
        self.may_log_in += kind.logins();
        self.to_be_replaced.insert(name.clone());
        let path = format!("/restart/{name}{timeout}");
        if choices.yes() {
            self.post(name, path);
        } else {
            let answer = self.daemon().post(&path).await;
            assert!(is_an_answer(&answer), "{answer:?}\n{}", self.daemon().report());
        }
    }

    /// An ssh is killed, or stopped by a signal: then the daemon ends it once `stop_grace` has passed.
    async fn kill_ssh(&mut self, choices: &mut Choices) {
        // Drawn first: how many there are depends on the time, and a seed is to draw the same again.
        let (which, is_suspended) = (choices.below(MANY), choices.below(4) == 0);
        let running: Vec<u32> = self.lab.sshs().into_iter().collect();
        if running.is_empty() {
            return;
        }
        let pid = running[which % running.len()];
        let statuses = self.statuses().await;
        let kinds: Vec<Kind> = self.kinds_with(&statuses, |status| status.pid == Some(pid)).collect();
        // One that is not told of stands by, is being ended, or has only been started.
        let unknown = [Kind::Remote, Kind::Standby].map(Kind::logins).into_iter().max();
        self.may_log_in += kinds.iter().map(|kind| kind.logins()).max().or(unknown).unwrap_or_default();
        // That a process is stopped the kernel tells its parent alone: of one that was taken over nobody learns it.
        if is_suspended && sight::children(self.daemon().pid()).0.contains(&pid) {
            self.steps.note(format!("suspend ssh {pid} of {kinds:?}"));
            stop_signal(pid);
        } else {
            self.steps.note(format!("kill ssh {pid} of {kinds:?}"));
            kill(pid, Signal::SIGKILL);
        }
        process_end(pid).await;
    }

    async fn statuses(&self) -> Vec<TunnelStatus> {
        let answer = self.daemon().get("/status").await;
        serde_json::from_str(&answer.body).unwrap()
    }

    /// The kinds of the tunnels with such a status.
    fn kinds_with<'w>(
        &'w self,
        statuses: &'w [TunnelStatus],
        wanted: impl Fn(&TunnelStatus) -> bool + 'w,
    ) -> impl Iterator<Item = Kind> + 'w {
        let tunnels = self.tunnels.iter().filter(|tunnel| tunnel.is_present).zip(statuses);
        tunnels.filter(move |(_, status)| wanted(status)).map(|(tunnel, _)| tunnel.kind)
    }

    async fn kill_command(&mut self, choices: &mut Choices) {
        let which = choices.below(MANY);
        let running = self.commands();
        if running.is_empty() {
            return;
        }
        let pid = running[which % running.len()];
        self.steps.note(format!("kill command {pid}"));
        kill(pid, Signal::SIGKILL);
        process_end(pid).await;
    }

    /// The processes of `command:` that run.
    pub(crate) fn commands(&self) -> Vec<u32> {
        let processes = self.lab.daemon_processes().into_iter();
        let commands = processes.filter(|process| process.executable.ends_with("listening-process"));
        commands.map(|process| process.pid).collect()
    }

    async fn stop(&mut self, index: usize) {
        if !self.tunnels[index].is_present {
            return;
        }
        let name = self.tunnels[index].name.clone();
        self.steps.note(format!("stop {name}"));
        // A restart that was sent before may arrive after it, and would have the last word.
        self.answers(Some(&name)).await;
        let answer = self.daemon().post(&format!("/stop/{name}?timeout=20s")).await;
        assert_eq!(answer.status, 200, "{answer:?}\n{}", self.daemon().report());
        self.tunnels[index].is_wanted = false;
    }

    async fn start_tunnel(&mut self, index: usize) {
        let Tunnel { kind, name, is_present, is_wanted, .. } = self.tunnels[index].clone();
        if !is_present {
            return;
        }
        self.steps.note(format!("start {name}"));
        if !is_wanted {
            self.may_log_in += kind.logins();
        }
        let answer = self.daemon().post(&format!("/start/{name}?timeout=0s")).await;
        assert!(matches!(answer.status, 200 | 202), "{answer:?}\n{}", self.daemon().report());
        self.tunnels[index].is_wanted = true;
    }

    /// A stranger takes the port of a tunnel, which then waits for it.
    async fn squat(&mut self, index: usize) {
        let tunnel = self.tunnels[index].clone();
        if !tunnel.may_be_squatted() || !tunnel.is_present || self.squatter(&tunnel).is_some() {
            return;
        }
        self.stop(index).await;
        let port = *tunnel.ports().last().unwrap();
        self.steps.note(format!("squat {port}"));
        self.squatters.insert(port, Squatter::listen(self.lab, "127.0.0.1", port).await);
        self.start_tunnel(index).await;
        // A connection that stands by does so for a held port as well, which was counted.
    }

    /// The first squatter leaves.
    async fn leave(&mut self) {
        let Some((port, squatter)) = self.squatters.pop_first() else { return };
        self.steps.note(format!("leave {port}"));
        let waiting = self.tunnels.iter().filter(|tunnel| tunnel.ports().contains(&port));
        self.may_log_in += waiting.map(|tunnel| tunnel.kind.logins()).sum::<usize>();
        squatter.leave().await;
    }

    /// Changes up to three tunnels in the file, each of them once: what is changed and changed back is not changed.
    async fn edit(&mut self, choices: &mut Choices) {
        let edited: BTreeSet<usize> =
            (0..=choices.below(3)).map(|_| choices.below(self.tunnels.len())).collect();
        for index in edited {
            let tunnel = &mut self.tunnels[index];
            let logins = tunnel.kind.logins();
            let change = match choices.below(4) {
                0 if tunnel.is_present => {
                    tunnel.is_present = false;
                    "remove"
                }
                1 if tunnel.is_present => {
                    (tunnel.is_moved, tunnel.is_wanted) = (!tunnel.is_moved, true);
                    self.may_log_in += logins;
                    "move"
                }
                _ if tunnel.is_present => {
                    tunnel.is_patient = !tunnel.is_patient;
                    "supervise otherwise"
                }
                _ => {
                    (tunnel.is_present, tunnel.is_wanted) = (true, true);
                    self.may_log_in += logins;
                    "add"
                }
            };
            self.steps.note(format!("{change} {}", self.tunnels[index].name));
        }
        self.reload().await;
    }

    fn write_config(&self) {
        let present = self.tunnels.iter().filter(|tunnel| tunnel.is_present);
        let text: String = present.map(|tunnel| tunnel.yaml(self.lab)).collect();
        self.lab.write_config(&text);
    }

    async fn reload(&mut self) {
        self.write_config();
        let answer = self.daemon().post("/reload").await;
        assert_eq!(answer.status, 200, "{answer:?}\n{}", self.daemon().report());
    }

    /// The server ends, with all its sessions or with its listener alone, and starts again.
    async fn end_sessions(&mut self, choices: &mut Choices) {
        let with_listener = choices.yes();
        self.steps.note(format!("end-sessions, with the listener: {with_listener}"));
        self.may_log_in += 2 * self.all_logins();
        if with_listener {
            self.sshd.stop_listening().await;
        }
        let connected = self.connected().await;
        self.sshd.kill_sessions();
        for pid in connected {
            process_end(pid).await;
        }
        if with_listener {
            self.sshd.start_again().await;
        }
    }

    /// The ssh that have a session with the near server; those that are just being started may be missing.
    async fn connected(&self) -> BTreeSet<u32> {
        let statuses = self.statuses().await;
        let mut connected = BTreeSet::new();
        let mut elsewhere = BTreeSet::new();
        for (tunnel, status) in self.tunnels.iter().filter(|tunnel| tunnel.is_present).zip(&statuses) {
            match tunnel.kind {
                Kind::Far | Kind::Command => elsewhere.extend(status.pid),
                _ if status.state == StateName::Up => connected.extend(status.pid),
                _ => {}
            }
        }
        let is_at_rest = |status: &TunnelStatus| {
            matches!(status.state, StateName::Up | StateName::AwaitingPort | StateName::Stopped)
                && matches!(status.standby, None | Some(Standby::Ready))
        };
        if statuses.iter().all(is_at_rest) {
            // Those that stand by as well.
            connected.extend(self.lab.sshs().difference(&elsewhere));
        }
        connected
    }

    fn all_logins(&self) -> usize {
        self.tunnels.iter().map(|tunnel| tunnel.kind.logins()).sum()
    }

    /// The cable to the far server is cut, for so short a time that the connections may live through it, or until they are given up;
    /// and mended.
    async fn cut(&mut self, choices: &mut Choices) {
        let (is_long, kills) = (choices.yes(), choices.yes());
        self.steps.note(format!("cut, long: {is_long}"));
        self.may_log_in += 2 * self.tunnels.iter().filter(|tunnel| tunnel.kind == Kind::Far).count();
        let mark = self.daemon().mark();
        ip(&format!("link set {CABLE} down"));
        if kills {
            self.kill_ssh(choices).await;
        }
        let far = self.tunnels.iter().find(|tunnel| tunnel.kind == Kind::Far && self.is_to_be_up(tunnel));
        if let Some(far) = far.filter(|_| is_long) {
            // It is kept for now, and says that there is no way to its server.
            let is_cut = |status: &TunnelStatus| status.state != StateName::Up || status.last_error.is_some();
            // After a cut that has just been mended it may be told so still.
            if !is_cut(&self.daemon().status(&far.name).await) {
                self.daemon().wait_status(mark, &far.name, "cut off", is_cut).await;
            }
        }
        ip(&format!("link set {CABLE} up"));
    }

    /// A client comes to a tunnel that may be asleep.
    async fn call(&mut self) {
        let asleep = self.tunnels.iter().find(|tunnel| tunnel.kind == Kind::OnDemand);
        let Some(tunnel) = asleep.filter(|tunnel| self.is_to_be_up(tunnel)).cloned() else { return };
        self.steps.note(format!("call {}", tunnel.name));
        self.may_log_in += 1;
        self.daemon().wait_state(&tunnel.name, StateName::Up).await;
        fetch_patiently(tunnel.port()).await.unwrap();
    }

    /// A client of the API that takes nothing in.
    async fn follow_without_reading(&mut self) {
        self.steps.note("follow without reading".to_owned());
        let mut stream = UnixStream::connect(self.daemon().socket()).await.unwrap();
        stream.write_all(b"GET /events HTTP/1.0\r\nHost: portward\r\n\r\n").await.unwrap();
        self.stalled.push(stream);
    }

    fn let_followers_go(&mut self) {
        self.steps.note("let-go".to_owned());
        self.stalled.clear();
    }

    /// `kill -9` of the daemon, and another one, which takes over what that has left.
    pub(crate) async fn crash(&mut self) {
        self.steps.note("crash".to_owned());
        for (_, request) in std::mem::take(&mut self.requests) {
            request.abort();
        }
        self.stalled.clear();
        if let Some(daemon) = self.daemon.take() {
            let pid = daemon.pid();
            kill(pid, Signal::SIGKILL);
            process_end(pid).await;
            daemon.ended().await;
        }
        self.may_log_in += self.all_logins();
        self.to_be_replaced.clear();
        // Those that were started a moment ago may be recorded only now.
        self.left = self.lab.daemon_processes().iter().map(|process| process.pid).collect();
        self.starts_before = self.lab.ssh_starts().len();
        for tunnel in &mut self.tunnels {
            tunnel.is_wanted = true;
        }
        self.daemon = Some(Daemon::start_as_configured(self.lab).await);
    }
}

/// Whether a request to restart may be answered so: done, not yet, the tunnel is gone, it sleeps, or it was stopped or failed meanwhile.
fn is_an_answer(answer: &Answer) -> bool {
    matches!(answer.status, 200 | 202 | 404 | 409 | 502 | 503)
}
