//! The target of the fuzzer: records, which an earlier run has left on disk.

#![allow(clippy::missing_panics_doc, clippy::expect_used, reason = "a panic is how a target reports a fault")]

use super::record::{self, Record};

/// A record of this boot: what is taken for one is written as it was read.
pub fn record(text: &[u8]) {
    if let Ok(Some(record)) = Record::parse(text, "boot") {
        let control = record.ssh.as_ref().map(|ssh| ssh.control.as_str());
        assert!(control.is_none_or(|name| !name.contains('/') && !["", ".", ".."].contains(&name)));
        let again = record::written(&record, "boot").expect("a record can be written");
        assert_eq!(Record::parse(&again, "boot").expect("what was written can be read"), Some(record));
    }
}
