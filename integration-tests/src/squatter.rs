//! Foreign processes: python programs that hold a port, or do what a test needs else.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::lab::Lab;

/// Starts a python program. Returns when it has printed a line, and that line; its standard input is a pipe.
pub async fn python(lab: &Lab, program: &str) -> (Child, String) {
    run(lab.command("/usr/bin/python3"), program).await
}

/// A process that listens on 127.0.0.1:`port`, and whose command line begins with `name`.
pub async fn listener_called(lab: &Lab, name: &str, port: u16) -> Child {
    let mut command = lab.command("/usr/bin/python3");
    command.arg0(name);
    run(command, &listens("127.0.0.1", port)).await.0
}

async fn run(mut command: Command, program: &str) -> (Child, String) {
    let command = command.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("starting /usr/bin/python3");
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    assert!(line.ends_with('\n'), "the program ended: {program}");
    (child, line.trim_end().to_owned())
}

fn listens(address: &str, port: u16) -> String {
    format!(
        "import signal, socket\n\
         family = socket.AF_INET6 if ':' in '{address}' else socket.AF_INET\n\
         squatter = socket.create_server(('{address}', {port}), family=family)\n\
         print('listening', flush=True)\n\
         signal.pause()\n"
    )
}

/// A process that listens on an address and a port, and does nothing else.
#[derive(Debug)]
pub struct Squatter {
    child: Child,
}

impl Squatter {
    /// Starts it; it listens when this returns.
    pub async fn listen(lab: &Lab, address: &str, port: u16) -> Self {
        Self { child: python(lab, &listens(address, port)).await.0 }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the squatter runs")
    }

    /// Ends the process; its pid is free when this returns.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Frees the port by ending the process.
    pub async fn leave(mut self) {
        self.kill().await;
    }
}
