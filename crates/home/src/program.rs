//! Finding ThreadRunner's other programs.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use threadrunner_core::{ErrorCode, Failure};

/// Finds the engine's program, which `THREADRUNNER_ENGINE` may name.
///
/// # Errors
/// See [`find_program`].
pub fn find_engine() -> Result<PathBuf, Failure> {
    find_program("threadrunner-engine", "THREADRUNNER_ENGINE")
}

/// Finds one of ThreadRunner's own programs. Returns an absolute path to a file.
///
/// If the environment variable `variable` is set, it names the program: a path, or a name without
/// a slash, which is looked up on `PATH`. Otherwise the program is the one of this name beside this
/// executable, or else on `PATH`.
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
        let is_name = !chosen.as_encoded_bytes().contains(&b'/');
        let path = match is_name {
            true => on_path(&chosen),
            false => std::path::absolute(&chosen).ok().filter(|path| path.is_file()),
        };
        return path.ok_or_else(|| {
            let shown = Path::new(&chosen).display();
            missing(match is_name {
                true => format!("{variable} names {shown}, which is not on PATH"),
                false => format!("{variable} names {shown}, which is not a file"),
            })
        });
    }
    let own = env::current_exe().ok();
    let beside = own.as_deref().and_then(|own| own.parent()).map(|dir| dir.join(name));
    if let Some(program) = beside.clone().filter(|program| program.is_file()) {
        return Ok(program);
    }
    on_path(OsStr::new(name)).ok_or_else(|| match &beside {
        Some(beside) => missing(format!(
            "cannot find {name}: it is neither at {} nor on PATH",
            beside.display()
        )),
        None => missing(format!("cannot find {name}: it is not on PATH")),
    })
}

fn on_path(name: &OsStr) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}
