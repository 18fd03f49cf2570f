//! Stands in for what other branches bring, name by name. At the merge: delete this file, and read `super::placeholder::` as
//! `crate::` in arguments.rs, check.rs and run.rs.

#![allow(dead_code, unused_variables, clippy::unused_async, clippy::unused_self)]

pub(super) mod observe {
    pub(crate) mod log {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
        pub(crate) enum LogMode {
            /// The journal when standard error leads there, text otherwise
            #[default]
            Auto,
            /// The journal, with a field for each fact
            Journal,
            /// Lines for people on standard error
            Text,
            /// A JSON object per line on standard error
            Json,
        }
    }
}

pub(super) mod config {
    use std::path::Path;

    use crate::config::Desired;

    #[derive(Debug, thiserror::Error)]
    pub(crate) enum ConfigError {
        #[error(transparent)]
        Read(std::io::Error),
        #[error("invalid")]
        Invalid(Diagnostics),
    }

    #[derive(Debug)]
    pub(crate) struct Diagnostics;

    impl Diagnostics {
        pub(crate) fn render(&self, colour: bool) -> String {
            String::new()
        }
    }

    pub(crate) fn load(path: &Path) -> Result<Desired, ConfigError> {
        Err(ConfigError::Read(std::io::Error::other("this build cannot read configurations yet")))
    }
}

pub(super) mod daemon {
    use std::path::PathBuf;

    use super::config::ConfigError;
    use super::observe::log::LogMode;

    pub(crate) struct RunOptions {
        pub(crate) config: PathBuf,
        pub(crate) socket: Option<PathBuf>,
        pub(crate) log: LogMode,
    }

    #[derive(Debug, thiserror::Error)]
    pub(crate) enum RunError {
        #[error(transparent)]
        Config(ConfigError),
        #[error("this build has no daemon yet")]
        Missing,
        #[error("this build has no API yet")]
        Api,
    }

    pub(crate) async fn run(options: RunOptions) -> Result<(), RunError> {
        Err(RunError::Missing)
    }
}
