//! A foreign process that holds a port.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use crate::lab::Lab;

/// A python process that listens on an address and a port, and does nothing else.
#[derive(Debug)]
pub struct Squatter {
    child: Child,
}

impl Squatter {
    /// Starts it; it listens when this returns.
    pub async fn listen(lab: &Lab, address: &str, port: u16) -> Self {
        let program = format!(
            "import signal, socket\n\
             family = socket.AF_INET6 if ':' in '{address}' else socket.AF_INET\n\
             squatter = socket.socket(family)\n\
             squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
             squatter.bind(('{address}', {port}))\n\
             squatter.listen()\n\
             print('listening', flush=True)\n\
             signal.pause()\n"
        );
        let mut child = lab
            .command("/usr/bin/python3")
            .args(["-c", &program])
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting /usr/bin/python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
        assert_eq!(line, "listening\n", "the squatter on {address}:{port} does not listen");
        Self { child }
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
