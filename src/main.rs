//! Arguments to exit code, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut config = None;
    let mut socket = None;
    let mut arguments = std::env::args().skip(2);
    while let (Some(name), Some(value)) = (arguments.next(), arguments.next()) {
        match name.as_str() {
            "--config" => config = Some(value.into()),
            "--socket" => socket = Some(value.into()),
            _ => {}
        }
    }
    let options = portward::daemon::RunOptions {
        config: config.unwrap_or_default(),
        socket,
        log: portward::observe::log::LogMode::Json,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map(|runtime| runtime.block_on(portward::daemon::run(options))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        other => {
            eprintln!("{other:?}");
            ExitCode::FAILURE
        }
    }
}
