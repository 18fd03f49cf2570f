//! The running daemon takes up a changed configuration, however it is written.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use integration_tests::{Daemon, Lab, LogLine, Trace, within_deadline};

/// One tunnel that is never started: a name to look for.
fn tunnel(name: &str) -> String {
    format!("\n  - {{name: {name}, enabled: false, remote_host: h, remote_port: 1, local_port: 9443}}\n")
}

/// Ways to write a file, as lines for a shell, each on what those before have left. `$F` is the configuration, `$D` its
/// directory, `$W` a directory beside it, and `$N` a file with the new content, all on one file system; `$T` is a directory
/// on another one.
const WAYS: &[(&str, &str)] = &[
    ("shell-redirection", "cat $N > $F"),
    ("tee", "tee $F < $N > /dev/null"),
    ("cp", "cp $N $F"),
    ("cp-over-a-new-file", "cp --remove-destination $N $F"),
    ("install-as-ansible", "install -m 644 $N $F"),
    ("mv", "mv $N $F"),
    ("mv-from-another-file-system", "cp $N $T/new; mv $T/new $F"),
    (
        "sed-in-place",
        "cp $N $W/s; name=$(sed -n 's/.*name: \\([^,]*\\),.*/\\1/p' $N); sed -i \"s/name: [^,]*,/name: $name,/\" $F",
    ),
    ("hard-link", "ln -f $N $F"),
    ("written-as-another-hard-link", "ln -f $F $W/other-name; cat $N > $W/other-name"),
    ("truncate-and-append", "truncate -s 0 $F; cat $N >> $F"),
    (
        "dd-without-truncation",
        "dd if=/dev/zero bs=1 count=0 seek=$(stat -c %s $N) of=$F status=none; dd if=$N of=$F conv=notrunc status=none",
    ),
    ("vim-with-a-backup", "mv $F $F~; cat $N > $F; rm $F~"),
    ("vim", "vim -N -u NONE -es -c '%d' -c \"read $N\" -c 'wq!' $F < /dev/null"),
    (
        "emacs-with-a-lock",
        "ln -s user@host.1 $D/.#config.yaml; cp $N $D/#config.yaml#; mv $D/#config.yaml# $F; rm $D/.#config.yaml",
    ),
    ("deleted-and-created", "rm $F; cat $N > $F"),
    (
        "git-checkout",
        "cd $D && git init -q . && git config user.email a@b && git config user.name a && cp $N $W/g && cp $F $W/old && cp $W/g $F && git add config.yaml && git commit -qm new && cp $W/old $F && sleep 0.5 && git checkout -qf -- config.yaml; rm -rf $D/.git",
    ),
    (
        "memory-map",
        "python3 -c \"
import mmap, os, sys
new = open('$N', 'rb').read()
fd = os.open('$F', os.O_RDWR)
os.ftruncate(fd, len(new))
m = mmap.mmap(fd, len(new))
m[:] = new
m.flush()
m.close()
os.close(fd)\"",
    ),
    (
        "sendfile",
        "python3 -c \"
import os
source = os.open('$N', os.O_RDONLY)
target = os.open('$F', os.O_WRONLY | os.O_TRUNC)
os.sendfile(target, source, 0, os.fstat(source).st_size)\"",
    ),
    (
        "copy-file-range",
        "python3 -c \"
import os
source = os.open('$N', os.O_RDONLY)
target = os.open('$F', os.O_WRONLY | os.O_TRUNC)
os.copy_file_range(source, target, os.fstat(source).st_size)\"",
    ),
    (
        "exchange",
        "python3 -c \"
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(316, -100, b'$N', -100, b'$F', 2) == 0, ctypes.get_errno()\"",
    ),
    (
        "unnamed-file-linked",
        "python3 -c \"
import os
fd = os.open('$D', os.O_TMPFILE | os.O_WRONLY)
os.write(fd, open('$N', 'rb').read())
os.unlink('$F')
os.link(f'/proc/self/fd/{fd}', '$F', src_dir_fd=os.open('/', os.O_PATH), follow_symlinks=True)\"",
    ),
    ("directory-replaced", "mkdir $W/next; cp $N $W/next/config.yaml; mv $D $W/last; mv $W/next $D"),
    ("directory-removed-and-made", "rm -rf $D; mkdir $D; cp $N $F"),
    // What no directory of the path shows.
    (
        "directory-through-another-mount",
        "mkdir $W/mount; mount --bind $D $W/mount; cat $N > $W/mount/config.yaml; umount $W/mount",
    ),
    (
        "file-through-another-mount",
        "touch $W/alone; mount --bind $F $W/alone; cat $N > $W/alone; umount $W/alone",
    ),
    ("file-mounted-over", "cp $N $W/volume; mount --bind $W/volume $F"),
    ("mounted-file-written-in-place", "cat $N > $W/volume"),
    ("mounted-file-removed", "cat $N > $W/below; umount $F; cat $W/below > $F"),
    ("directory-mounted-over", "mount -t tmpfs tmpfs $D; cp $N $F"),
    ("mounted-directory-written", "cat $N > $F"),
    ("mounted-directory-removed", "mkdir -p $W/x; umount $D; cat $N > $F"),
    // Links, as they are swapped.
    ("symlink", "cp $N $W/linked; ln -sf $W/linked $F"),
    ("symlinked-file-written", "cat $N > $W/linked"),
    ("symlink-swapped", "cp $N $W/linked2; ln -sfn $W/linked2 $F"),
    (
        "kubernetes",
        "mkdir $D/..1; cp $N $D/..1/config.yaml; ln -s ..1 $D/..data; ln -sfn ..data/config.yaml $F",
    ),
    (
        "kubernetes-update",
        "mkdir $D/..2; cp $N $D/..2/config.yaml; ln -s ..2 $D/..tmp; mv -T $D/..tmp $D/..data; rm -r $D/..1",
    ),
];

#[tokio::test]
async fn every_way_to_write_the_file_is_noticed() {
    let lab = Lab::new();
    let (work, other) = (lab.path("work"), lab.path("other"));
    for directory in [&work, &other] {
        fs::create_dir(directory).unwrap();
    }
    assert!(
        lab.command("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&other).status().await.unwrap().success()
    );
    let daemon = Daemon::start(&lab, &tunnel("first")).await;
    for (name, script) in WAYS {
        let new = work.join("new.yaml");
        // It may be a link to the configuration by now.
        let _ = fs::remove_file(&new);
        fs::write(&new, lab.config(&tunnel(name))).unwrap();
        let mark = daemon.mark();
        let mut shell = lab.command("/bin/sh");
        shell.args(["-e", "-c", script]);
        shell.env("F", lab.config_path()).env("D", lab.path("etc")).env("W", &work);
        shell.env("N", &new).env("T", &other);
        let ran = within_deadline(name, shell.output()).await.unwrap();
        assert!(ran.status.success(), "{name}: {ran:?}");
        daemon.wait_status(mark, name, "in the configuration", |_| true).await;
    }
    daemon.stop().await;
}

#[tokio::test]
async fn reading_the_file_and_mounting_elsewhere_make_no_reload() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &tunnel("first")).await;
    // The one of the start.
    daemon.wait_log(0, "of the start", |line| line.has("event", "reload")).await;
    let mark = daemon.log().mark();
    for _ in 0..50 {
        fs::read(lab.config_path()).unwrap();
    }
    fs::create_dir(lab.path("elsewhere")).unwrap();
    let script = "mount -t tmpfs tmpfs $W && umount $W";
    let mut shell = lab.command("/bin/sh");
    let mounted = shell.args(["-c", script]).env("W", lab.path("elsewhere")).status().await.unwrap();
    assert!(mounted.success());
    // What is written now is told after all that was told of before.
    lab.write_config(&tunnel("second").replace("9443", "9444"));
    daemon.wait_status(0, "second", "in the configuration", |_| true).await;
    let is_last = |line: &LogLine| line.has("event", "reload") && line.raw.contains("1 added");
    daemon.wait_log(mark, "of the change", is_last).await;
    let reloads = daemon.log().since(mark).into_iter().filter(|line| line.has("event", "reload")).count();
    assert_eq!(reloads, 1, "{}", daemon.report());
    daemon.stop().await;
}

#[tokio::test]
async fn a_mount_that_changes_nothing_is_answered_by_some_calls_and_then_by_none() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &tunnel("first")).await;
    fs::create_dir(lab.path("elsewhere")).unwrap();
    let trace = Trace::attach(&lab, daemon.pid()).await;
    let mounting = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut mount = lab.command("mount");
        let mounted = mount.args(["-t", "tmpfs", "tmpfs"]).arg(lab.path("elsewhere")).status().await.unwrap();
        assert!(mounted.success());
    };
    let (calls, ()) = tokio::join!(trace.calls_during(Duration::from_secs(4)), mounting);
    assert!(!calls.is_empty(), "the mount was not noticed");
    assert!(calls.len() < 100, "{} calls: {calls:#?}", calls.len());
    println!("{} system calls for a mount", calls.len());
    daemon.stop().await;
}
