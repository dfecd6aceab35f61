//! `status`: shows the state of the daemon.

use serde_json::json;
use threadrunner_core::ExitCode;
use threadrunner_core::protocol::{DaemonStatus, ask};
use threadrunner_home::Home;

use super::ps;
use crate::args::Plain;
use crate::config_changes::changed_keys;
use crate::error::CommandResult;
use crate::session::with_session;
use crate::table::pairs;
use crate::{format, output};

pub(crate) fn run(args: Plain) -> CommandResult {
    show(args, ExitCode::Success)
}

/// Prints the state of the daemon. If none runs, says so and returns the exit code `absent`.
pub(crate) fn show(args: Plain, absent: ExitCode) -> CommandResult {
    with_session(Home::from_env()?, None, async |session| {
        let Some(status) = session.call_running(ask::Status).await? else {
            match args.json {
                true => output::print_json(&json!({"alive": false}))?,
                false => output::print("the daemon is not running; the first prompt starts it\n")?,
            }
            return Ok(absent);
        };
        if args.json {
            let mut value = serde_json::to_value(&status).unwrap_or_default();
            if let Some(object) = value.as_object_mut() {
                // `running` counts jobs, so whether the daemon runs is called `alive`.
                object.insert("alive".to_owned(), true.into());
                object.insert("config_changed".to_owned(), changed_keys(session.home()).into());
            }
            output::print_json(&value)?;
            return Ok(ExitCode::Success);
        }
        output::print(&text(&status, &changed_keys(session.home())))?;
        Ok(ExitCode::Success)
    })
}

fn text(status: &DaemonStatus, changed: &[&str]) -> String {
    let state = if status.stopping { "stopping" } else { "running" };
    let told = [
        ("daemon", format!("{state}, process {}, version {}", status.pid, status.version)),
        ("up for", format::seconds(status.uptime_s)),
        ("memory", format::bytes(status.memory_bytes)),
        ("budget", ps::memory(status.memory_used, status.memory_budget)),
        (
            "jobs",
            format!("{} running, {}", status.running, ps::waiting(status.queued, status.held)),
        ),
        ("home", status.home.display().to_string()),
        ("socket", status.socket.display().to_string()),
        ("workspace", status.workspace.display().to_string()),
        ("log", status.log.display().to_string()),
    ];
    let columns = output::width();
    let mut text = pairs(&told, columns);
    if !changed.is_empty() {
        let keys = changed.join(", ");
        let detail = format!("changed since the daemon started: {keys}");
        text.push_str(&pairs(&[("config   ", detail)], columns));
    }
    for workspace in &status.workspaces {
        match &workspace.error {
            Some(error) => text.push_str(&format!("NOT USABLE {error}\n")),
            None if workspace.path == status.workspace => {}
            None => {
                let detail = match workspace.name.directory() == Some(&workspace.path) {
                    true => workspace.name.to_string(),
                    false => format!("{} ({})", workspace.path.display(), workspace.name),
                };
                text.push_str(&pairs(&[("workspace", detail)], columns));
            }
        }
    }
    if status.models.is_empty() {
        text.push_str("models     none loaded\n");
    } else {
        text.push('\n');
        text.push_str(&ps::models(&status.models).to_text(output::width()));
    }
    text
}
