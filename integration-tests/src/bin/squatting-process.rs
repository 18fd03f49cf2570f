//! A process that squats on ports as it is told on standard input, a line each:
//!
//! ```text
//! make PORT SQUAT     answers `made PORT HEIR` or `refused`; HEIR is a pid, or 0 for this process
//! leave               closes everything, and answers `left`
//! ```
//!
//! Arguments: the uid to become, and optionally the directory of a cgroup to move to first.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of tests: what surprises it ends it")]

use std::fs;
use std::io::{BufRead as _, stdin};

use integration_tests::{Held, Squat};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let uid: u32 = arguments.next().expect("a uid").parse().expect("a uid");
    if let Some(cgroup) = arguments.next() {
        fs::write(format!("{cgroup}/cgroup.procs"), std::process::id().to_string())
            .expect("moving to the cgroup");
    }
    if uid != 0 {
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
        setgroups(&[]).unwrap();
        setresgid(group, group, group).unwrap();
        setresuid(user, user, user).unwrap();
    }
    let mut held: Vec<Held> = Vec::new();
    for line in stdin().lock().lines() {
        let line = line.unwrap();
        let answer =
            if let Some((port, squat)) = line.strip_prefix("make ").and_then(|rest| rest.split_once(' ')) {
                let squat: Squat = squat.parse().unwrap();
                match squat.make(port.parse().unwrap()) {
                    Ok(made) => {
                        let answer = format!("made {} {}", made.port, made.heir().unwrap_or(0));
                        held.push(made);
                        answer
                    }
                    Err(_) => "refused".to_owned(),
                }
            } else {
                assert_eq!(line, "leave");
                held.clear();
                "left".to_owned()
            };
        println!("{answer}");
    }
}
