//! A network namespace with nothing but a loopback interface, and users without privilege in it.

use std::panic::resume_unwind;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// The uid of an ordinary user.
pub const NOBODY: u32 = 65534;

/// Runs `body` on a thread, and a runtime, whose network namespace is new.
pub fn isolated<F: Future<Output = ()>>(body: impl FnOnce() -> F + Send) {
    let body = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (the tests need root)");
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body());
    };
    std::thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|panic| resume_unwind(panic));
}

/// Runs `ip` with `arguments` in the namespace of the calling thread.
pub fn ip(arguments: &str) {
    run_ip(&mut Command::new("ip"), arguments);
}

/// Runs `ip`, or what leads to it, with `arguments`.
pub(crate) fn run_ip(command: &mut Command, arguments: &str) {
    let status = command.args(arguments.split(' ')).status().expect("ip (package iproute2)");
    assert!(status.success(), "ip {arguments}: {status}");
}

/// Makes the calling thread, and it alone, an ordinary user without capabilities.
pub fn become_nobody() {
    rustix::thread::set_thread_groups(&[]).unwrap();
    let group = rustix::process::Gid::from_raw(NOBODY);
    rustix::thread::set_thread_res_gid(group, group, group).unwrap();
    let user = rustix::process::Uid::from_raw(NOBODY);
    rustix::thread::set_thread_res_uid(user, user, user).unwrap();
}
