//! The runtime directory is deleted, replaced, mounted over, read-only or full. That it is made again, and how the API comes back, is
//! shown by tests/startup.rs; what the configuration's directory may suffer, by tests/config_changes.rs.

use std::fs;

use integration_tests::{Lab, Sshd, kill, run};
use nix::sys::signal::Signal;

use super::site::{Fault, is_well, start, tunnels};

/// `script` runs with the runtime directory as `$R`.
async fn shell(lab: &Lab, script: &str) {
    run(lab.command("/bin/sh").args(["-e", "-c", script]).env("R", lab.path("run")), 0).await;
}

/// Where ssh's new sockets are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sockets {
    /// Where they were: the directory is made again.
    MadeAgain,
    /// In a private directory, until the directory is repaired, which is reported.
    Elsewhere,
    /// In a private directory, and nobody notices the repair: the kernel does not report that there is room.
    ElsewhereForGood,
}

/// While the directory, which is as `prepare` has made it, is as `harm` makes it, streams go on, new clients are served, and an ssh that
/// dies is made anew.
async fn survives(what: &'static str, prepare: &str, (harm, sockets): (&str, Sockets), repair: &str) {
    let lab = Lab::new();
    shell(&lab, prepare).await;
    let _sshd = Sshd::start(&lab).await;
    let (daemon, web, others) = start(&lab, "").await;
    let (mark, log) = (daemon.mark(), daemon.log().mark());
    shell(&lab, harm).await;
    others.go_on().await;
    let fault = Fault::begins(what);
    kill(web.pid.unwrap(), Signal::SIGKILL);
    let again = fault.is_over(&daemon, mark, &web).await;
    others.serve_new_clients().await;
    shell(&lab, repair).await;
    if sockets == Sockets::Elsewhere {
        daemon.wait_log(log, "that all is well", |line| line.raw.contains("complete again")).await;
    }
    others.serve_new_clients().await;
    let mark = daemon.mark();
    kill(again.pid.unwrap(), Signal::SIGKILL);
    Fault::begins("an ssh killed after the repair").is_over(&daemon, mark, &again).await;
    others.finish(&daemon).await;
    let ended = daemon.stop().await;
    assert!(ended.status.success(), "{:?}", ended.status);
    assert_eq!(lab.sockets(), [] as [std::path::PathBuf; 0]);
}

#[tokio::test]
async fn a_runtime_directory_that_is_deleted_costs_no_connection() {
    survives(
        "an ssh killed while the runtime directory is deleted",
        "true",
        ("rm -rf $R", Sockets::MadeAgain),
        "true",
    )
    .await;
}

#[tokio::test]
async fn a_runtime_directory_that_is_replaced_costs_no_connection() {
    let harm = "mv $R $R.old; mkdir $R";
    survives(
        "an ssh killed while the runtime directory is replaced",
        "true",
        (harm, Sockets::MadeAgain),
        "rm -r $R.old",
    )
    .await;
}

#[tokio::test]
async fn a_runtime_directory_that_is_mounted_over_costs_no_connection() {
    let harm = "mount -t tmpfs -o mode=755 tmpfs $R";
    let what = "an ssh killed while the runtime directory is mounted over";
    survives(what, "true", (harm, Sockets::MadeAgain), "umount -l $R").await;
}

#[tokio::test]
async fn a_read_only_runtime_directory_costs_no_connection_and_ssh_is_started_from_elsewhere() {
    let harm = "mount --bind $R $R; mount -o remount,bind,ro $R";
    survives(
        "an ssh killed while the runtime directory is read-only",
        "true",
        (harm, Sockets::Elsewhere),
        "umount -l $R",
    )
    .await;
}

#[tokio::test]
async fn a_full_runtime_directory_costs_no_connection_and_ssh_is_started_from_elsewhere() {
    let prepare = "mount -t tmpfs -o mode=755,nr_inodes=50 tmpfs $R";
    let harm = "n=0; while touch $R/f$n 2>/dev/null; do n=$((n + 1)); done";
    survives(
        "an ssh killed while the runtime directory is full",
        prepare,
        (harm, Sockets::ElsewhereForGood),
        "rm $R/f*",
    )
    .await;
}

#[tokio::test]
async fn the_configurations_directory_may_be_replaced_and_mounted_over_without_a_restart() {
    let lab = Lab::new();
    let _sshd = Sshd::start(&lab).await;
    let (daemon, web, others) = start(&lab, "").await;
    let (next, last) = (lab.path("next"), lab.path("last"));
    fs::create_dir(&next).unwrap();
    let late = "  - {name: late, enabled: false, remote_host: server, remote_port: 1, local_port: 9444}\n";
    fs::write(next.join("config.yaml"), lab.config(&(tunnels("") + late))).unwrap();
    fs::rename(lab.path("etc"), &last).unwrap();
    fs::rename(&next, lab.path("etc")).unwrap();
    daemon.wait_status(0, "late", "in the configuration", |_| true).await;
    // An empty directory: the configuration in force stays, and a warning says so.
    let log = daemon.log().mark();
    shell(&lab, "mount -t tmpfs tmpfs ${R%/run}/etc").await;
    daemon.wait_log(log, "about the file", |line| line.raw.contains("config.yaml")).await;
    others.go_on().await;
    shell(&lab, "umount -l ${R%/run}/etc").await;
    let mark = daemon.mark();
    lab.write_config(&(tunnels("") + &late.replace("late", "later")));
    daemon.wait_status(mark, "later", "in the configuration", |_| true).await;
    assert_eq!(daemon.status("web").await.pid, web.pid);
    is_well(&lab, daemon, others).await;
}
