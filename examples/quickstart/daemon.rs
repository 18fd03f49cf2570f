//! The real daemon, `portward run`, as a process of its own: this executable in daemon mode.

use std::env;
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitStatus;

use hyper::{Method, StatusCode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portward::protocol::{ActQuery, Acted, Timeout, Verb};
use tokio::net::{UnixDatagram, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::events::Events;
use crate::stage::Stage;
use crate::steps::PATIENCE;
use crate::{DAEMON_MODE, Result, http};

/// The daemon's process.
pub(crate) struct Daemon {
    process: Child,
    socket: PathBuf,
    /// Told when the daemon says that it is ready, as it would to systemd.
    ready: oneshot::Receiver<()>,
}

impl Daemon {
    /// Starts `portward run` on the stage's configuration, with an environment that holds nothing of the caller's but PATH.
    pub(crate) fn start(stage: &Stage) -> Result<Self> {
        let notifications = UnixDatagram::bind(stage.notify_socket())?;
        let log = File::create(stage.log())?;
        let process = Command::new(env::current_exe()?)
            .args([DAEMON_MODE, "run", "--log", "text", "--config"])
            .arg(stage.config_file())
            .arg("--socket")
            .arg(stage.api_socket())
            .env_clear()
            .envs(env::var_os("PATH").map(|path| ("PATH", path)))
            .env("RUNTIME_DIRECTORY", stage.runtime_directory())
            .env("NOTIFY_SOCKET", stage.notify_socket())
            // A Ctrl-C is for the show alone, which then ends the daemon in good order.
            .process_group(0)
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let (tell_ready, ready) = oneshot::channel();
        tokio::spawn(read_notifications(notifications, tell_ready));
        Ok(Self { process, socket: stage.api_socket(), ready })
    }

    /// Returns when the daemon says that its first reconcile is done.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        tokio::select! {
            ready = &mut self.ready => Ok(ready?),
            ended = self.process.wait() => Err(format!("the daemon ended: {}", ended?).into()),
        }
    }

    /// The daemon's process id.
    pub(crate) fn pid(&self) -> Result<Pid> {
        let pid = self.process.id().ok_or("the daemon has ended")?;
        Ok(Pid::from_raw(i32::try_from(pid)?))
    }

    /// Follows the daemon's events, from a snapshot on.
    pub(crate) async fn events(&self) -> Result<Events> {
        let response = http::open(self.connect().await?, Method::GET, "/events").await?;
        match response.status() {
            StatusCode::OK => Ok(Events::new(response.into_body())),
            status => Err(format!("GET /events answers {status}").into()),
        }
    }

    /// Asks for `verb` of the tunnel `name`; anything but 200 is an error.
    pub(crate) async fn act(&self, verb: Verb, name: &str) -> Result<Acted> {
        let path = &format!("/{verb}/{name}?{}", ActQuery { timeout: Some(Timeout(PATIENCE / 2)) });
        let (status, body) = http::exchange(self.connect().await?, Method::POST, path).await?;
        if status != StatusCode::OK {
            return Err(format!("POST {path} answers {status}: {}", String::from_utf8_lossy(&body)).into());
        }
        Ok(serde_json::from_slice(&body)?)
    }

    /// SIGTERM, and how the daemon ended.
    pub(crate) async fn stop(&mut self) -> Result<ExitStatus> {
        kill(self.pid()?, Signal::SIGTERM)?;
        Ok(self.process.wait().await?)
    }

    /// Ends the daemon, by force if it takes too long; one that has ended is left alone.
    pub(crate) async fn end(&mut self) {
        if self.process.id().is_some() && !matches!(timeout(PATIENCE / 2, self.stop()).await, Ok(Ok(_))) {
            // Fails only if it has ended after all.
            let _ = self.process.kill().await;
        }
    }

    async fn connect(&self) -> Result<UnixStream> {
        let connected = UnixStream::connect(&self.socket).await;
        connected.map_err(|error| format!("connecting to {}: {error}", self.socket.display()).into())
    }
}

/// Reads all that the daemon tells its service manager, to the end: nobody must wait for a reader.
async fn read_notifications(notifications: UnixDatagram, tell_ready: oneshot::Sender<()>) {
    let mut tell_ready = Some(tell_ready);
    let mut message = [0; 4096];
    while let Ok(length) = notifications.recv(&mut message).await {
        let ready = message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1");
        if ready && let Some(tell_ready) = tell_ready.take() {
            // Nobody waits for it any more when the show was interrupted.
            let _ = tell_ready.send(());
        }
    }
}
