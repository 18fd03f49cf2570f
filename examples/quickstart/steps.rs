//! The show: what is done, what must be true of it, and what is told.

use std::error::Error;
use std::fs;
use std::net::TcpListener;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portward::protocol::{Acted, StateName, Took, TunnelStatus, Verb};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, timeout};

use crate::daemon::Daemon;
use crate::events::Events;
use crate::load::Load;
use crate::report::{Milliseconds, Report, tail};
use crate::stage::{SECOND, Stage, WEB};
use crate::{Result, descendants, origin};

/// Nothing here takes as long as this on a machine that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Clients that come while there is no ssh.
const CLIENTS: u32 = 20;

/// Plays all steps, or ends early when `interrupted` does. Either way no process and no file is left.
pub(crate) async fn play_until(
    interrupted: impl Future<Output = &'static str>,
    report: &mut Report,
) -> Result<()> {
    let began = Instant::now();
    let ssh = ssh_version().await?;
    let stage = Stage::set().await?;
    stage.write_config(&stage.config())?;
    report.done(began.elapsed(), format_args!("{ssh}, and an SSH server on {}", stage.ssh_server));
    Report::detail(format_args!("all files are in {}", stage.path().display()));
    let mut daemon = Daemon::start(&stage)?;

    let outcome = tokio::select! {
        outcome = play(&stage, &mut daemon, report) => outcome.map_err(|error| with_log(error.as_ref(), &stage)),
        signal = interrupted => Err(format!("interrupted by {signal}").into()),
    };
    if outcome.is_err() {
        daemon.end().await;
        descendants::kill_all()?;
        return outcome;
    }
    nothing_is_left(stage, report)
}

/// What `future` ends with, or an error that names what was waited for.
pub(crate) async fn within<T>(
    limit: Duration,
    what: &str,
    future: impl Future<Output = Result<T>>,
) -> Result<T> {
    let in_time = timeout(limit, future).await;
    in_time.unwrap_or_else(|_| Err(format!("waited {} s for {what}", limit.as_secs()).into()))
}

/// The show while the daemon runs.
struct Show<'a> {
    stage: &'a Stage,
    daemon: &'a mut Daemon,
    events: Events,
    report: &'a mut Report,
}

async fn play(stage: &Stage, daemon: &mut Daemon, report: &mut Report) -> Result<()> {
    report.begin("start");
    let began = Instant::now();
    within(PATIENCE, "the daemon's first reconcile", daemon.ready()).await?;
    report.done(began.elapsed(), format_args!("the daemon is ready, pid {}", daemon.pid()?));

    let events = daemon.events().await?;
    let mut show = Show { stage, daemon, events, report };
    let first = show.open_a_tunnel(began).await?;
    let second = show.restart_while_fetching(first).await?;
    show.edit_the_configuration(second).await?;
    let third = show.kill_the_ssh(second).await?;
    let fourth = show.hold_the_port(third).await?;
    show.squat_on_the_port(fourth).await?;
    show.stop_the_daemon().await
}

impl Show<'_> {
    async fn open_a_tunnel(&mut self, began: Instant) -> Result<Pid> {
        self.report.begin("tunnel");
        let tunnel = self.up(WEB, |_| true).await?;
        let pid = pid_of(&tunnel)?;
        let listeners = listeners(&tunnel);
        self.report.done(began.elapsed(), format_args!("up on {listeners}, by ssh {pid}"));

        self.report.begin("page");
        let began = Instant::now();
        within(PATIENCE, "the page", origin::fetch_through(self.stage.web_port)).await?;
        self.report
            .done(began.elapsed(), format_args!("fetched from {} through the tunnel", self.stage.origin));
        Ok(pid)
    }

    /// Make before break: the pages stop for less than the time that a new connection takes.
    async fn restart_while_fetching(&mut self, old: Pid) -> Result<Pid> {
        self.report.begin("restart");
        let load = Load::start(self.stage.web_port);
        let began = Instant::now();
        let answer = self.daemon.act(Verb::Restart, WEB).await?;
        let took = began.elapsed();
        let tally = load.finish().await?;
        let new = pid_of(&self.up(WEB, |tunnel| pid_is_not(tunnel, old)).await?)?;

        let [connect, release, forward] = phases(&answer)?;
        if tally.longest_gap >= connect {
            let connect = Milliseconds(connect);
            return Err(format!(
                "the new connection took {connect}, and the pages stopped for longer: {tally}"
            )
            .into());
        }
        self.report.done(took, format_args!("ssh {old} replaced by ssh {new}"));
        let (connect, port_down) = (Milliseconds(connect), Milliseconds(release + forward));
        Report::detail(format_args!(
            "{connect} to connect beside the old one, then the port was down for {port_down}"
        ));
        Report::detail(tally);
        Ok(new)
    }

    /// A second tunnel appears, and the first one notices nothing.
    async fn edit_the_configuration(&mut self, first: Pid) -> Result<()> {
        self.report.begin("edit");
        let load = Load::start(self.stage.web_port);
        let began = Instant::now();
        self.stage.write_config(&self.stage.config_with_second())?;
        let second = self.up(SECOND, |_| true).await?;
        let took = began.elapsed();
        within(PATIENCE, "the page through the second tunnel", origin::fetch_through(self.stage.second_port))
            .await?;
        let tally = load.finish().await?;
        let still = pid_of(&self.up(WEB, |_| true).await?)?;
        if still != first || tally.failed > 0 {
            return Err(format!("the first tunnel had ssh {first}, now {still}: {tally}").into());
        }
        let listeners = listeners(&second);
        self.report.done(took, format_args!("config saved, second tunnel up on {listeners}"));
        Report::detail(format_args!("the first one kept ssh {first}; {tally}"));
        Ok(())
    }

    /// A dead connection is replaced without being asked for.
    async fn kill_the_ssh(&mut self, old: Pid) -> Result<Pid> {
        self.report.begin("kill -9");
        let load = Load::start(self.stage.web_port);
        let began = Instant::now();
        kill(old, Signal::SIGKILL)?;
        let new = pid_of(&self.up(WEB, |tunnel| pid_is_not(tunnel, old)).await?)?;
        let took = began.elapsed();
        let tally = load.finish().await?;
        self.report.done(took, format_args!("ssh {old} killed, back by itself as ssh {new}"));
        Report::detail(tally);
        Ok(new)
    }

    /// Where portward itself listens, clients that come while there is no ssh wait for the next one.
    async fn hold_the_port(&mut self, old: Pid) -> Result<Pid> {
        self.report.begin("held");
        self.stage.write_config(&self.stage.config_with_held())?;
        let held = self.up(WEB, |tunnel| tunnel.clients.is_some() && pid_is_not(tunnel, old)).await?;
        let killed = pid_of(&held)?;
        let began = Instant::now();
        kill(killed, Signal::SIGKILL)?;
        self.events.until(WEB, "without its ssh", |tunnel| tunnel.state != StateName::Up).await?;
        let port = self.stage.web_port;
        let mut clients: JoinSet<_> = (0..CLIENTS).map(|_| origin::fetch_through(port)).collect();
        let answered = async {
            while let Some(page) = clients.join_next().await {
                page??;
            }
            Ok(())
        };
        within(PATIENCE, "the pages of clients that wait", answered).await?;
        let took = began.elapsed();
        let new = pid_of(&self.up(WEB, |tunnel| pid_is_not(tunnel, killed)).await?)?;
        self.report
            .done(took, format_args!("portward listens itself; ssh {killed} killed, replaced by ssh {new}"));
        Report::detail(format_args!(
            "{CLIENTS} clients came meanwhile: none was refused, and all were answered"
        ));
        Ok(new)
    }

    /// Somebody else on the port is named and waited for; no ssh is started before the port is free.
    async fn squat_on_the_port(&mut self, old: Pid) -> Result<()> {
        self.report.begin("squat");
        self.daemon.act(Verb::Stop, WEB).await?;
        let squatter = TcpListener::bind(("127.0.0.1", self.stage.web_port))?;
        let ourselves = std::process::id();
        let began = Instant::now();
        let start = self.daemon.act(Verb::Start, WEB);
        let watch = async {
            let what = "awaiting_port, with this process as the holder";
            let is_so = |tunnel: &TunnelStatus| {
                tunnel.state == StateName::AwaitingPort
                    && tunnel.holder.as_ref().is_some_and(|holder| holder.pid == Some(ourselves))
            };
            let waiting = self.events.until(WEB, what, is_so).await?;
            if let Some(pid) = waiting.pid {
                return Err(format!("ssh {pid} was started although the port is held").into());
            }
            let told =
                format!("the tunnel waits; the port is held by pid {ourselves}, which is this program");
            self.report.done(began.elapsed(), told);

            self.report.begin("release");
            let released = Instant::now();
            drop(squatter);
            let is_so = |tunnel: &TunnelStatus| tunnel.state == StateName::Up && pid_is_not(tunnel, old);
            let tunnel = self.events.until(WEB, "up", is_so).await?;
            Ok((tunnel, released.elapsed()))
        };
        // The start is not answered before the port is free: 200 once the tunnel is up.
        let (_, (tunnel, took)) = tokio::try_join!(start, watch)?;
        within(PATIENCE, "the page", origin::fetch_through(self.stage.web_port)).await?;
        self.report
            .done(took, format_args!("the port was freed, the tunnel is up as ssh {}", pid_of(&tunnel)?));
        Ok(())
    }

    async fn stop_the_daemon(self) -> Result<()> {
        self.report.begin("stop");
        let began = Instant::now();
        let status = within(PATIENCE, "the daemon to end", self.daemon.stop()).await?;
        if !status.success() {
            return Err(format!("the daemon ended with {status}").into());
        }
        self.report.done(began.elapsed(), "the daemon ended on SIGTERM with exit code 0");
        Ok(())
    }

    async fn up(&mut self, name: &str, is_so: impl Fn(&TunnelStatus) -> bool) -> Result<TunnelStatus> {
        self.events.until(name, "up", |tunnel| tunnel.state == StateName::Up && is_so(tunnel)).await
    }
}

/// The claim of the last line: looked up in the kernel and in the file system, after the daemon has ended.
fn nothing_is_left(stage: Stage, report: &mut Report) -> Result<()> {
    report.begin("left");
    let began = Instant::now();
    let running = descendants::still_running()?;
    if !running.is_empty() {
        descendants::kill_all()?;
        return Err(format!("the daemon left processes behind: {running:?}").into());
    }
    let sockets = stage.sockets_left()?;
    if !sockets.is_empty() {
        return Err(format!("the daemon left sockets behind: {sockets:?}").into());
    }
    stage.strike()?;
    report.done(began.elapsed(), "no process, no socket, no file");
    Ok(())
}

async fn ssh_version() -> Result<String> {
    let output = Command::new("ssh").arg("-V").output().await;
    let output = output.map_err(|error| {
        format!(
            "this needs the OpenSSH client, and running `ssh -V` failed: {error} (install openssh-client)"
        )
    })?;
    let version = String::from_utf8_lossy(&output.stderr);
    Ok(version.split(',').next().unwrap_or("ssh").trim().to_owned())
}

fn pid_of(tunnel: &TunnelStatus) -> Result<Pid> {
    let pid = tunnel.pid.ok_or_else(|| format!("tunnel {} is up without a pid", tunnel.name))?;
    Ok(Pid::from_raw(i32::try_from(pid)?))
}

fn listeners(tunnel: &TunnelStatus) -> String {
    tunnel.listeners.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// How long connect, release and forward took, as the answer to a restart tells.
fn phases(answer: &Acted) -> Result<[Duration; 3]> {
    let Took { connect_ms, release_ms, forward_ms, .. } = answer.took.ok_or("the answer tells no phases")?;
    Ok([connect_ms, release_ms, forward_ms]
        .map(|milliseconds| Duration::from_secs_f64(milliseconds / 1000.0)))
}

fn pid_is_not(tunnel: &TunnelStatus, old: Pid) -> bool {
    pid_of(tunnel).is_ok_and(|pid| pid != old)
}

fn with_log(error: &(dyn Error + Send + Sync), stage: &Stage) -> Box<dyn Error + Send + Sync> {
    let log = fs::read_to_string(stage.log()).unwrap_or_else(|error| format!("cannot be read: {error}"));
    format!("{error}\n\n  the end of the daemon's log:\n{}", tail(&log)).into()
}
