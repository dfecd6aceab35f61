//! The program's entry point, shared by `threadrunner-engine` and the package with GPU support.

use std::path::Path;
use std::process::ExitCode;

use threadrunner_core::ExitCode as Code;

use crate::{fence, process, self_test, serve};

/// Serves the daemon, or tests itself with `--self-test [MODEL]` or `--fence-test [MODEL [DRAFT]]`.
pub fn main() -> ExitCode {
    process::prepare();
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let code = match arguments.as_slice() {
        [] => serve::serve(),
        [option] if option == "--self-test" => self_test::run(None),
        [option, model] if option == "--self-test" => self_test::run(Some(Path::new(model))),
        [option, models @ ..] if option == "--fence-test" && models.len() <= 2 => {
            let models: Vec<&Path> = models.iter().map(Path::new).collect();
            fence::probe(&models)
        }
        [unknown, ..] => {
            tracing::error!(
                "unknown argument {unknown:?}: threadrunner-daemon starts the engine without \
                 any; by hand it takes --self-test [MODEL] or --fence-test [MODEL [DRAFT]]"
            );
            Code::Usage
        }
    };
    ExitCode::from(code as u8)
}
