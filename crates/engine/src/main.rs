//! The engine process. See [`threadrunner_engine`].

use std::process::ExitCode;

use threadrunner_core::ExitCode as Code;
use threadrunner_engine::{process, serve};

fn main() -> ExitCode {
    process::prepare();
    let code = match std::env::args_os().nth(1) {
        None => serve::serve(),
        Some(argument) => {
            tracing::error!("unknown argument {argument:?}: the engine takes none");
            Code::Usage
        }
    };
    ExitCode::from(code as u8)
}
