//! The line that shows why an ssh ended.

use super::words::{self, Saying, is_noise};

/// Who printed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found<'end> {
    /// OpenSSH: the tunnel's ssh, or the one of ProxyJump.
    Own(Cause<'end>),
    /// The process that carries the connection, in words of its own.
    Carrier(&'end str),
}

/// The line of OpenSSH that shows why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cause<'end> {
    pub(super) saying: Saying<'end>,
    pub(super) line: &'end str,
    /// The output before it.
    pub(super) before: &'end [String],
    /// Whether the process that carries the connection said it, and not the tunnel's ssh.
    pub(super) is_of_carrier: bool,
    /// A line of another process that may explain more.
    pub(super) remark: Option<&'end str>,
}

/// Finds it among the last lines of an ssh; after it was ready, among what can end a connection that stood.
pub(super) fn find(said: &[String], was_ready: bool) -> Option<Found<'_>> {
    let search = Search { said, was_ready };
    let last = (0..said.len()).rev().find_map(|index| search.at(index))?;
    let previous = last.before.len().checked_sub(1).and_then(|index| search.at(index));
    let own = match (last.saying, previous) {
        // `Connection reset by 10.0.0.1 port 22`: the line before shows how far it had come, and no other process is in between.
        (Saying::Lost | Saying::TimedOut, Some(previous)) if previous.saying == Saying::Unidentified => {
            previous
        }
        (Saying::Consequence, Some(previous)) if matches!(previous.saying, Saying::Disconnected(..)) => {
            previous
        }
        (Saying::Settings, Some(_)) => search.first_of_run(last, |saying| saying == Saying::Settings),
        (Saying::Unidentified | Saying::CarrierEnded, _) => return Some(search.behind(last)),
        (Saying::Unconnected("failure"), _) => Cause {
            remark: last.before.last().map(String::as_str).filter(|line| line.starts_with("bind ")),
            ..last
        },
        (Saying::Lost, _) if was_ready => Cause { remark: remark(last), ..last },
        _ => last,
    };
    Some(Found::Own(own))
}

/// Whether there is something to open in a browser.
pub(super) fn has_link(line: &str) -> bool {
    line.contains("https://") || line.contains("http://")
}

#[derive(Clone, Copy)]
struct Search<'end> {
    said: &'end [String],
    was_ready: bool,
}

impl<'end> Search<'end> {
    fn at(self, index: usize) -> Option<Cause<'end>> {
        let line = self.said[index].as_str();
        let saying = words::read(line).filter(|saying| !self.was_ready || saying.can_end_a_connection())?;
        Some(Cause { saying, line, before: &self.said[..index], is_of_carrier: false, remark: None })
    }

    /// The first line of those right before `last` that say something of the same kind.
    fn first_of_run(self, last: Cause<'end>, is_of_kind: impl Fn(Saying<'end>) -> bool) -> Cause<'end> {
        let run = (0..last.before.len()).rev().map_while(|index| self.at(index));
        run.take_while(|cause| is_of_kind(cause.saying)).last().unwrap_or(last)
    }

    /// The cause of an end of the process that carries the connection.
    fn behind(self, last: Cause<'end>) -> Found<'end> {
        let is_end = |saying| matches!(saying, Saying::Unidentified | Saying::CarrierEnded);
        let first = self.first_of_run(last, is_end);
        if first.saying != Saying::Unidentified {
            // The server had been reached: the lines before may be its banner, which can imitate anything.
            return Found::Own(Cause { remark: remark(first), ..last });
        }
        let told = (0..first.before.len()).rev().filter(|index| !is_noise(&self.said[*index]));
        match told.map(|index| (index, self.at(index))).next() {
            None => Found::Own(first),
            Some((_, Some(cause))) => Found::Own(Cause { is_of_carrier: true, ..cause }),
            Some((index, None)) => {
                // A link to log in by is more useful than the text around it.
                let foreign = |line: &&String| words::read(line).is_none() && !is_noise(line);
                let mut lines = first.before.iter().rev().filter(foreign);
                Found::Carrier(lines.find(|line| has_link(line)).unwrap_or(&self.said[index]))
            }
        }
    }
}

/// The last line before `cause` that is not OpenSSH's.
fn remark(cause: Cause<'_>) -> Option<&str> {
    let is_single = |line: &str| line.starts_with("channel ") || line.starts_with("connect_to ");
    let line = cause.before.iter().rev().map(String::as_str).find(|line| !is_noise(line))?;
    (words::read(line).is_none() && !is_single(line)).then_some(line)
}
