//! The user's terminal, key by key.

use std::io::{self, IsTerminal, Stdin, stdin};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes that are read at once; a key has one, or a few.
const READ_AT_ONCE: usize = 1024;

/// Standard input in raw mode: neither does the terminal show what is typed, nor do keys send signals. When this goes, the terminal is
/// as it was.
pub(super) struct RawTerminal {
    input: AsyncFd<Input>,
    before: Termios,
}

struct Input(Stdin);

impl AsRawFd for Input {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Input {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl RawTerminal {
    /// Takes standard input; `Ok(None)`: it is no terminal.
    pub(super) fn take() -> io::Result<Option<Self>> {
        if !stdin().is_terminal() {
            return Ok(None);
        }
        // SAFETY: standard input is open as long as the process runs: nothing here closes it.
        let input = unsafe { AsyncFd::register_with_interest(Input(stdin()), Interest::READABLE) }?;
        let before = tcgetattr(&input)?;
        let mut raw = before.clone();
        raw.make_raw();
        // What was typed before is not meant for what will be asked.
        tcsetattr(&input, OptionalActions::Flush, &raw)?;
        Ok(Some(Self { input, before }))
    }

    /// What is typed next; nothing: the terminal is gone. Cancel-safe.
    pub(super) async fn typed(&self) -> io::Result<Vec<u8>> {
        loop {
            let mut ready = self.input.readable().await?;
            let mut bytes = vec![0; READ_AT_ONCE];
            // It does not block: something is there, and nobody else reads.
            let read = ready.try_io(|input| Ok(rustix::io::read(input, &mut bytes[..])?));
            if let Ok(read) = read {
                ready.clear_ready();
                bytes.truncate(read?);
                return Ok(bytes);
            }
        }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Where the terminal is gone there is nothing to restore.
        let _ = tcsetattr(&self.input, OptionalActions::Flush, &self.before);
    }
}
