//! `threadrunner-engine --self-test [MODEL]`: whether this build computes, and computes right.
//!
//! A build for a processor's newest instructions may crash or miscalculate where compiler, kernel
//! and processor do not agree. So `scripts/build-engine` runs this before it lets a build out, and
//! `threadrunner doctor` to say what is installed. It is a process, so a crash is an answer too.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use threadrunner_core::ExitCode;

/// What this engine was built for: `native`, `portable`, … as `scripts/build-engine` names it.
pub const BUILD: &str = match option_env!("THREADRUNNER_BUILD") {
    Some(build) => build,
    None => "default",
};

/// Tests the build with a model of its own, or with that at `model`, and prints one line of JSON
/// with what it found: always `ok`, `version` and `build`, and `error` where it is not ok.
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
    crate::llama::self_test(model).map_err(|failure| failure.to_string())
}

#[cfg(not(feature = "llama"))]
fn examine(model: Option<&Path>) -> Result<Value, String> {
    match model {
        None => Ok(json!({ "ok": true, "backends": ["dummy"] })),
        Some(_) => Err("this engine was built without the llama backend".to_owned()),
    }
}
