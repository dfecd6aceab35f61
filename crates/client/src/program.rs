//! Finding ThreadRunner's other programs.

use std::env;
use std::path::PathBuf;

use threadrunner_core::{ErrorCode, Failure};

/// Finds one of ThreadRunner's own programs: the path in `variable` if that is set, else beside
/// this executable, else on `PATH`.
///
/// # Errors
/// [`ErrorCode::DaemonUnavailable`] names the places searched.
pub fn find_program(name: &str, variable: &str) -> Result<PathBuf, Failure> {
    let missing = |message: String| {
        Failure::new(ErrorCode::DaemonUnavailable, message).hint(format!(
            "install {name} beside threadrunner, or set {variable} to its path; in a checkout, \
             build it with `cargo build --workspace`"
        ))
    };
    if let Some(chosen) = env::var_os(variable).filter(|value| !value.is_empty()) {
        let chosen = PathBuf::from(chosen);
        return if chosen.is_file() {
            Ok(chosen)
        } else {
            Err(missing(format!("{variable} names {}, which is not a file", chosen.display())))
        };
    }
    let own = env::current_exe().ok();
    let beside = own.as_deref().and_then(|own| own.parent()).map(|dir| dir.join(name));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(name));
    beside.iter().cloned().chain(on_path).find(|program| program.is_file()).ok_or_else(|| {
        match &beside {
            Some(beside) => missing(format!(
                "cannot find {name}: it is neither at {} nor on PATH",
                beside.display()
            )),
            None => missing(format!("cannot find {name}: it is not on PATH")),
        }
    })
}
