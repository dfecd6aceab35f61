//! What has changed in `config.toml` since the daemon read it.

use threadrunner_home::{Config, Home};

use crate::output;

/// Keys that the command line reads each time, so that they apply without a restart of the daemon.
const READ_EACH_TIME: [&str; 3] = ["model", "backend", "aliases"];

/// Returns the changed keys that need a restart.
pub(crate) fn stale_keys(home: &Home) -> Vec<&'static str> {
    let mut changed = changed_keys(home);
    changed.retain(|key| !READ_EACH_TIME.contains(key));
    changed
}

/// Returns the keys of `config.toml` that have changed since the daemon last started.
pub(crate) fn changed_keys(home: &Home) -> Vec<&'static str> {
    // A chat or a batch may have read it hours ago.
    let home = &home.reread();
    let (Ok(now), Some(then)) = (home.config_text(), Config::running_text(home)) else {
        return Vec::new();
    };
    let now = now.unwrap_or_default();
    if now == then {
        return Vec::new();
    }
    // Commands that read the configuration report its mistakes.
    match (home.config(), Config::read(&then, home)) {
        (Ok(now), Ok(then)) => then.changes(now),
        _ => Vec::new(),
    }
}

/// Warns that the daemon still uses the old configuration.
pub(crate) fn tell_of_changes(home: &Home) {
    if output::is_quiet() {
        return;
    }
    let changed = stale_keys(home);
    if !changed.is_empty() {
        output::say(&format!(
            "threadrunner: config.toml has changed since the daemon started: {}",
            changed.join(", ")
        ));
        output::hint("`threadrunner daemon restart` applies the change");
    }
}
