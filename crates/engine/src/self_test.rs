//! `threadrunner-engine --self-test [MODEL]`: tests whether this build computes, and computes
//! correctly.
//!
//! A build for a processor's newest instructions may crash or miscalculate if compiler, kernel and
//! processor disagree. So `scripts/build-engine` runs this before it accepts a build, and
//! `threadrunner doctor` runs it to report what is installed. It is a process of its own, so a
//! crash is an answer too.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use threadrunner_core::ExitCode;

use crate::machine::BUILD;

/// Tests the build with a built-in model or with the one at `model`, and prints a report as one
/// line of JSON: always `ok`, `version` and `build`, and `error` if it is not ok.
pub fn run(model: Option<&Path>) -> ExitCode {
    let (code, mut report) = match examine(model) {
        Ok(report) => (ExitCode::Success, report),
        Err(error) => (ExitCode::Model, json!({ "ok": false, "error": error })),
    };
    report["version"] = env!("CARGO_PKG_VERSION").into();
    report["build"] = BUILD.into();
    match writeln!(std::io::stdout().lock(), "{report}") {
        Ok(()) => code,
        Err(error) => {
            tracing::error!("cannot write the report: {error}");
            ExitCode::Unknown
        }
    }
}

#[cfg(feature = "llama")]
fn examine(model: Option<&Path>) -> Result<Value, String> {
    crate::llama::self_test(model).map_err(|failure| match failure.hint {
        Some(hint) => format!("{}; {hint}", failure.message),
        None => failure.message,
    })
}

#[cfg(not(feature = "llama"))]
fn examine(model: Option<&Path>) -> Result<Value, String> {
    match model {
        None => Ok(json!({ "ok": true, "backends": ["dummy"] })),
        Some(_) => Err("this engine was built without the llama backend".to_owned()),
    }
}
