//! A pid namespace around the bench: however it ends, the kernel ends everything that it has started.

use std::os::unix::process::ExitStatusExt as _;
use std::process::exit;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

/// Set inside.
const MARK: &str = "PORTWARD_CONTINUITY_INSIDE";

/// Runs `body` in a pid namespace of its own, of which this program, started once more, is pid 1. SIGINT and SIGTERM drop it.
pub(crate) fn contained<F: Future<Output = ()>>(body: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // cargo may be killed alone, and so may the outer one of the two.
    set_pdeathsig(Signal::SIGKILL).unwrap();
    if std::env::var_os(MARK).is_none() {
        exit(runtime.block_on(outside()));
    }
    // A /proc in which this is pid 1. The harness reads there who is left.
    unshare(CloneFlags::CLONE_NEWNS).expect("making a mount namespace");
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .expect("making mounts private");
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), nothing).expect("mounting /proc");
    let is_interrupted = runtime.block_on(async {
        tokio::select! {
            () = body() => false,
            () = interrupted() => true,
        }
    });
    if is_interrupted {
        eprintln!("interrupted");
        exit(130);
    }
}

/// The exit code of the one inside.
async fn outside() -> i32 {
    unshare(CloneFlags::CLONE_NEWPID).expect("making a pid namespace (the bench needs root)");
    let mut inside = tokio::process::Command::new("/proc/self/exe")
        .args(std::env::args().skip(1))
        .env(MARK, "yes")
        .spawn()
        .expect("starting the bench once more");
    let status = tokio::select! {
        status = inside.wait() => status,
        () = interrupted() => {
            integration_tests::kill(inside.id().unwrap(), Signal::SIGTERM);
            inside.wait().await
        }
    };
    let status = status.unwrap();
    status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1)
}

async fn interrupted() {
    let mut interrupt = signal(SignalKind::interrupt()).unwrap();
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
