//! `config edit`: edits the configuration, and saves it only if it has no mistakes.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use threadrunner_core::{ErrorCode, ExitCode, Failure};
use threadrunner_home::{Config, Home, replace_file};

use crate::config_changes::stale_keys;
use crate::error::{CommandError, CommandResult};
use crate::output;

/// Where edits that were refused are kept until others are saved or refused, in the home's `run/`.
const REFUSED: &str = "config-refused.toml";

pub(super) fn run() -> CommandResult {
    let home = Home::from_env()?;
    home.create()?;
    let old = Config::text(&home)?;
    let begun = old.clone().unwrap_or_else(Config::template);
    let draft = Draft::new(&home, &begun)?;
    let refused = home.run_dir.join(REFUSED);
    let text = loop {
        open_editor(&draft.0)?;
        let text = draft.read()?;
        if text == begun {
            output::say("nothing has changed");
            return Ok(ExitCode::Success);
        }
        match Config::read(&text, &home) {
            Ok(_) => break text,
            Err(failure) => {
                output::report(&failure.into(), false);
                if !wants_to_go_on() {
                    output::say(&format!("not saved; your edits are in {}", draft.keep(&refused)));
                    return Err(CommandError::Silent(ExitCode::Usage));
                }
            }
        }
    };
    let path = home.config_file.display();
    if Config::text(&home)? != old {
        return Err(CommandError::usage(
            format!("not saved: {path} was changed by another program meanwhile"),
            format!("your edits are in {}", draft.keep(&refused)),
        ));
    }
    if let Err(error) = replace_file(&home.config_file, text.as_bytes()) {
        let failure = Failure::new(ErrorCode::Io, format!("cannot write {path}: {error}"));
        return Err(failure.hint(format!("your edits are in {}", draft.keep(&refused))).into());
    }
    // It was mended, or given up.
    let _ = fs::remove_file(&refused);
    output::say(&format!("saved: {path}"));
    let changed = stale_keys(&home);
    if !changed.is_empty() && UnixStream::connect(&home.socket).is_ok() {
        output::say(&format!("the daemon still uses the old {}", changed.join(", ")));
        output::hint("`threadrunner daemon restart` applies the change");
    }
    Ok(ExitCode::Success)
}

/// A copy of the configuration to edit. Dropping it removes it, unless it is kept.
struct Draft(PathBuf);

impl Draft {
    fn new(home: &Home, text: &str) -> Result<Self, Failure> {
        let path = home.run_dir.join(format!("config-{}.toml", process::id()));
        write_new(&path, text).map_err(|error| failed("write", &path, &error))?;
        Ok(Self(path))
    }

    fn read(&self) -> Result<String, Failure> {
        fs::read_to_string(&self.0).map_err(|error| failed("read", &self.0, &error))
    }

    /// Keeps the copy as `place`, instead of an earlier one, and returns its path.
    fn keep(self, place: &Path) -> String {
        let kept = match fs::rename(&self.0, place) {
            Ok(()) => place.display().to_string(),
            Err(_) => self.0.display().to_string(),
        };
        std::mem::forget(self);
        kept
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Runs the editor. `$VISUAL` or `$EDITOR` is a shell command, which may have options.
fn open_editor(path: &Path) -> Result<(), CommandError> {
    let chosen = ["VISUAL", "EDITOR"].into_iter().find_map(|name| {
        let value = env::var(name).unwrap_or_default();
        (!value.trim().is_empty()).then_some(value)
    });
    let hint = "set EDITOR to your editor's command";
    let editor = match chosen {
        Some(editor) => editor,
        None if io::stdin().is_terminal() => "vi".to_owned(),
        // `vi` needs a terminal.
        None => return Err(CommandError::usage("no editor is set", hint)),
    };
    let script = format!("{editor} \"$1\"");
    let status = Command::new("sh").args(["-c", &script, "sh"]).arg(path).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(CommandError::usage(
            format!("not saved: the editor '{editor}' failed ({status})"),
            hint,
        )),
        Err(error) => Err(CommandError::usage(format!("cannot run '{editor}': {error}"), hint)),
    }
}

/// Asks the user at the terminal; false without one.
fn wants_to_go_on() -> bool {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return false;
    }
    let _ = write!(io::stderr(), "edit it again? [Y/n] ");
    let mut answer = String::new();
    match io::stdin().read_line(&mut answer) {
        Ok(0) | Err(_) => false,
        Ok(_) => !answer.trim_start().to_lowercase().starts_with('n'),
    }
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(ErrorCode::Io, format!("cannot {verb} {}: {error}", path.display()))
}
