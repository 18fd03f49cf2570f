//! Whether the journal takes log lines.

use std::os::unix::net::UnixDatagram;

use super::finding::{Check, Finding};
use super::machine::Machine;
use super::mend::Mend;
use super::systemd;
use crate::observe::log::JOURNAL_SOCKET;

/// Judges the journal. Without one, log lines go to standard error.
pub(super) fn judge(machine: &Machine, mend: Mend) -> Finding {
    let reached = UnixDatagram::unbound().and_then(|socket| socket.connect(machine.path(JOURNAL_SOCKET)));
    match reached {
        Ok(()) => Finding::ok(Check::Journal, "the journal takes log lines, each fact as a field"),
        Err(_) if !systemd::is_booted(machine) => {
            Finding::ok(Check::Journal, "no journal here: `portward run` logs to standard error")
        }
        Err(error) => Finding::warning(
            Check::Journal,
            format!("the journal does not answer on {JOURNAL_SOCKET}: {error}"),
            "log lines go to standard error as text, and `journalctl TUNNEL=...` finds nothing",
            mend.as_root("systemctl restart systemd-journald.socket systemd-journald"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::finding::Level;
    use super::super::machine::tests::machine;
    use super::*;

    #[test]
    fn a_journal_is_missed_only_where_systemd_runs() {
        let mend = Mend { uid: 0 };
        let (_root, machine) = machine(&[]);
        assert_eq!(judge(&machine, mend).level, Level::Ok);
        fs::create_dir_all(machine.path("/run/systemd/system")).unwrap();
        assert_eq!(judge(&machine, mend).level, Level::Warning);
        fs::create_dir_all(machine.path("/run/systemd/journal")).unwrap();
        let _journal = UnixDatagram::bind(machine.path(JOURNAL_SOCKET)).unwrap();
        let finding = judge(&machine, mend);
        assert_eq!(finding.level, Level::Ok);
        assert!(finding.what.starts_with("the journal takes"), "{finding:?}");
    }
}
