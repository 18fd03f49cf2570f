//! Standard output and standard error. Colours go to a terminal only, and not where `NO_COLOR` is set.

use std::io::{self, IsTerminal, Write};

use rustix::termios::tcgetwinsize;

/// Prints a text that ends without a line end.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// Prints a text in place of what the terminal shows; where there is no terminal, below it.
pub(super) fn repaint(text: &str) -> io::Result<()> {
    // Cursor home, and erase from there: with less flicker than erasing first.
    let clear = if io::stdout().is_terminal() { "\u{1b}[H\u{1b}[2J" } else { "" };
    print(&format!("{clear}{text}"))
}

/// Says what is wrong. If nobody can be told, the exit code still tells.
pub(super) fn complain(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Columns of the terminal; `None` where standard output is none.
pub(super) fn width() -> Option<u16> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    Some(size.ws_col).filter(|&columns| columns > 0)
}
