//! What an earlier run of portward has left: processes that go on, and their records.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::record::{EXTENSION, Record};
use super::record_file::RecordFile;
use super::runs;
use crate::process::{self, Child, Origin, Pipe};
use crate::ssh::Master;

/// How long an ssh may take to answer on its control socket: 0.2 ms measured. One that has not been ready yet, and does not answer, is
/// still on its way.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// The same for one that has been ready: it is stopped by a signal, or its socket is gone, and it is of no use.
const ANSWERS_AGAIN_WITHIN: Duration = Duration::from_secs(3);

/// What an earlier run has left in the directory of the control sockets.
#[derive(Debug, Default)]
pub(super) struct Predecessor {
    /// The processes that run.
    pub(super) left: Vec<Left>,
    /// The records of those that have ended.
    pub(super) ended: Vec<(Record, RecordFile)>,
    /// The runs that have left something, and are over.
    pub(super) runs: BTreeSet<String>,
    /// The unix sockets that they have listened on.
    pub(super) sockets: BTreeSet<PathBuf>,
    /// The highest number of a link that names a file.
    pub(super) last_link: u64,
}

/// A process that goes on.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) record: Record,
    pub(super) file: RecordFile,
    pub(super) process: (Child, Pipe, Pipe),
    /// The control socket of an ssh, and a connection to it if that is answered.
    pub(super) control: Option<(PathBuf, Option<Master>)>,
}

impl Predecessor {
    /// Looks at all that is in `directory`.
    pub(super) async fn find(directory: &Path) -> Self {
        let mut found = Self { runs: runs::known(directory), ..Self::default() };
        let files = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut answering = JoinSet::new();
        for path in files.map(|file| file.path()) {
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            // No link has a higher number, and the next ones have.
            let link = name.split('-').next().and_then(|number| number.parse::<u32>().ok());
            found.last_link = found.last_link.max(link.map_or(0, u64::from));
            if link.is_none() || path.extension().is_none_or(|extension| extension != EXTENSION) {
                continue;
            }
            match Record::read(&path) {
                Ok(Some(record)) => {
                    found.runs.insert(record.origin.run().to_owned());
                    // Those in this directory are removed with all that nobody needs.
                    let is_elsewhere = |socket: &PathBuf| socket.parent() != Some(directory);
                    found.sockets.extend(record.sockets().filter(is_elsewhere));
                    answering.spawn(Left::of(record, path));
                }
                // Its process cannot have outlived the machine.
                Ok(None) => {}
                Err(error) => tracing::warn!(
                    event = "adopted",
                    "cannot read the record {}: {error}; what it is of is ended, if it runs",
                    path.display()
                ),
            }
        }
        found.runs.retain(|run| !process::is_running(run));
        while let Some(left) = answering.join_next().await {
            match left {
                Ok(Ok(left)) => found.left.push(left),
                Ok(Err(ended)) => found.ended.extend(ended),
                Err(_) => {}
            }
        }
        found.ended.retain(|(record, _)| found.runs.contains(record.origin.run()));
        found.ended.sort_by_key(|(record, _)| (record.origin.start, record.connection));
        found.left.retain(|left| found.runs.contains(left.record.origin.run()));
        found.left.sort_by_key(|left| (left.record.origin.start, left.record.connection));
        found
    }
}

impl Left {
    /// `Err` with the record if the process has ended, without it if that cannot be told.
    async fn of(record: Record, path: PathBuf) -> Result<Self, Option<(Record, RecordFile)>> {
        let process = match process::inherit(&record.origin) {
            Ok(Some(process)) => process,
            Ok(None) => return Err(Some((record, RecordFile::new(path)))),
            Err(error) => {
                tracing::warn!(
                    event = "adopted",
                    "cannot look at pid {}, which an earlier portward has started: {error}",
                    record.origin.pid
                );
                return Err(None);
            }
        };
        let control = match &record.ssh {
            Some(ssh) => {
                let control = path.with_file_name(&ssh.control);
                let patience = if record.was_ready() { ANSWERS_AGAIN_WITHIN } else { ANSWERS_WITHIN };
                let answer = timeout(patience, Master::connect(&control, record.origin.pid)).await;
                Some((control, answer.ok().and_then(Result::ok)))
            }
            None => None,
        };
        Ok(Self { record, file: RecordFile::new(path), process, control })
    }

    /// Whether it is an ssh that was ready, and does not answer any more.
    pub(super) fn is_mute(&self) -> bool {
        self.record.was_ready() && matches!(self.control, Some((_, None)))
    }

    /// Its process, for whoever ends it.
    pub(super) fn origin(&self) -> Origin {
        self.record.origin.clone()
    }
}
