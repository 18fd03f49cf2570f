//! The runs of portward whose processes there may be: noted in the runtime directory for the next run, and shown to other daemons.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use socket2::Socket;

use super::record::{self, CONSEQUENCE, Written};
use crate::claim;
use crate::process;

/// The file in the runtime directory.
pub(super) const FILE: &str = "runs.json";

/// The earlier runs whose processes there may be.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// Those of which this one has taken over processes.
    others: BTreeSet<String>,
    /// Those whose other processes are being ended. If this run is killed meanwhile, the next one has to go on with that.
    ending: BTreeSet<String>,
    /// Show other daemons that these are looked after.
    shown: Vec<Socket>,
}

/// What the file has.
#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    runs: BTreeSet<String>,
}

/// The runs that may have left something, as the last one knew; none if that was of another boot, or left no word.
pub(super) fn known(directory: &Path) -> BTreeSet<String> {
    let text = record::read(&directory.join(FILE)).ok();
    let written: Option<Written<Noted>> = text.and_then(|text| serde_json::from_slice(&text).ok());
    written
        .filter(|written| written.boot == record::boot())
        .map(|written| written.record.runs)
        .unwrap_or_default()
}

impl Runs {
    /// This run has taken over processes of `others`, and ends what else there is of `ending`.
    pub(super) fn take_over(&mut self, others: BTreeSet<String>, ending: BTreeSet<String>) {
        for run in &others {
            match claim::show_run(run) {
                Ok(shown) => self.shown.push(shown),
                Err(error) => tracing::warn!("cannot show other daemons what is taken over: {error}"),
            }
        }
        (self.others, self.ending) = (others, ending);
    }

    /// Whether something is being ended.
    pub(super) fn are_ending(&self) -> bool {
        !self.ending.is_empty()
    }

    /// What was to be ended has ended.
    pub(super) fn ended(&mut self, directory: &Path) {
        self.ending.clear();
        self.note(directory);
    }

    /// Whoever finds the directory is to know whose processes may be left.
    pub(super) fn note(&self, directory: &Path) {
        if let Err(error) = self.try_note(directory) {
            tracing::warn!("cannot write to {}: {error}; {CONSEQUENCE}", directory.display());
        }
    }

    fn try_note(&self, directory: &Path) -> io::Result<()> {
        let mut runs = &self.others | &self.ending;
        runs.insert(process::run().to_owned());
        if known(directory) == runs {
            return Ok(());
        }
        record::replace(&directory.join(FILE), &record::written(&Noted { runs }, record::boot())?)
    }
}

/// Nothing of any run is left.
pub(super) fn end(directory: &Path) {
    // Fails if it could not be written either.
    let _ = fs::remove_file(directory.join(FILE));
}
