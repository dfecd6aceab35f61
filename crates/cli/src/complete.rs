//! Shell completion: commands, options, and the names of models, jobs, sessions, tags, workspaces.
//!
//! On each Tab the shell runs this program with [`VARIABLE`] set. Names are read from files: no
//! daemon is started, and what cannot be read is not offered.

mod bash;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::engine::{
    ArgValueCandidates, ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter,
};
use clap_complete::env::{CompleteEnv, Shells};
use threadrunner_core::{ExitCode, JobSelector, JobState};
use threadrunner_home::{Config, Home, list_models};
use threadrunner_workspace::Reader;

use crate::args::Cli;
use crate::{format, output};

/// Set by the script to the shell's name.
const VARIABLE: &str = "THREADRUNNER_COMPLETE";
/// The program's name on `PATH`.
const NAME: &str = "threadrunner";
/// How many jobs of each workspace to offer.
const JOBS: usize = 50;
/// How many jobs of each workspace to search for tags.
const TAGGED: usize = 200;

/// The script that makes a shell ask this program.
pub(crate) fn script(shell: &str) -> io::Result<String> {
    let shells = Shells::builtins();
    let completer = shells.completer(shell).ok_or(io::ErrorKind::Unsupported)?;
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, NAME, NAME, NAME, &mut script)?;
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if shell == "bash" {
        script = bash::adapted(&script);
    }
    if shell == "zsh" {
        // Autoloaded from $fpath, the script is first read during a completion, and must complete.
        script.push_str(
            "if [ \"$funcstack[1]\" = \"_threadrunner\" ]; then\n    \
             _clap_dynamic_completer_threadrunner \"$@\"\nfi\n",
        );
    }
    Ok(script)
}

/// Answers a completion request from a shell; `None` if this is none.
pub(crate) fn answer(args: &[OsString]) -> Option<ExitCode> {
    let here = std::env::current_dir().ok();
    let asked = CompleteEnv::with_factory(|| with_names(Cli::command())).var(VARIABLE);
    match asked.try_complete(args.iter().cloned(), here.as_deref()) {
        Ok(false) => None,
        Ok(true) => Some(ExitCode::Success),
        Err(error) => {
            output::say(&format!("threadrunner: {VARIABLE}: {error}"));
            Some(ExitCode::Usage)
        }
    }
}

/// The command, with candidates added to its arguments and those of its subcommands.
fn with_names(command: Command) -> Command {
    let name = command.get_name().to_owned();
    let known = command.mut_args(|arg| {
        let argument = arg.get_id().to_string();
        match (places_for(&argument), names_for(&name, &argument)) {
            (Some(places), _) => arg.add(places),
            (None, Some(names)) => arg.add(names),
            (None, None) => arg,
        }
    });
    known.mut_subcommands(with_names)
}

/// The candidates for an argument that takes a name or a path.
fn places_for(argument: &str) -> Option<ArgValueCompleter> {
    let is_model = |path: &Path| path.extension().is_some_and(|it| it == "gguf");
    match argument {
        "model" | "draft" => Some(names_or_paths(models, PathCompleter::any().filter(is_model))),
        "workspace" => Some(names_or_paths(workspaces, PathCompleter::dir())),
        _ => None,
    }
}

/// Offers paths for what begins like a path, else names.
fn names_or_paths(
    names: fn() -> Vec<CompletionCandidate>,
    paths: PathCompleter,
) -> ArgValueCompleter {
    ArgValueCompleter::new(move |typed: &OsStr| {
        let text = typed.to_string_lossy();
        if text.contains('/') || text.starts_with(['.', '~']) {
            return paths.complete(typed);
        }
        let begins =
            |it: &CompletionCandidate| it.get_value().to_string_lossy().starts_with(&*text);
        names().into_iter().filter(begins).collect()
    })
}

/// The candidates for an argument of a command.
fn names_for(command: &str, argument: &str) -> Option<ArgValueCandidates> {
    use JobState::{Done, Failed, Processing, Ready};
    Some(match (command, argument) {
        (_, "session" | "sessions") => ArgValueCandidates::new(sessions),
        (_, "tag" | "tags") => ArgValueCandidates::new(tags),
        ("result", "ids") => ArgValueCandidates::new(|| jobs(&[Done])),
        ("retry", "ids") => ArgValueCandidates::new(|| jobs(&[Failed])),
        ("rm", "ids") => ArgValueCandidates::new(|| jobs(&[Done, Failed])),
        ("cancel" | "wait", "ids") => ArgValueCandidates::new(|| jobs(&[Ready, Processing])),
        (_, "ids" | "after" | "parent") => ArgValueCandidates::new(|| jobs(&[])),
        _ => return None,
    })
}

fn home() -> Option<(Home, Config)> {
    let home = Home::from_env().ok()?;
    let config = Config::load(&home).ok()?;
    Some((home, config))
}

fn readers() -> Vec<Reader> {
    let Some((home, config)) = home() else { return Vec::new() };
    let workspaces = config.all_workspaces(&home).into_iter();
    workspaces.filter_map(|workspace| Reader::open(&workspace.path).ok()).collect()
}

fn models() -> Vec<CompletionCandidate> {
    let Some((home, config)) = home() else { return Vec::new() };
    let files = list_models(&home).unwrap_or_default().into_iter().map(|model| {
        CompletionCandidate::new(model.name).help(Some(format::bytes(model.bytes).into()))
    });
    let aliases = config.aliases.into_iter().map(|(alias, target)| {
        CompletionCandidate::new(alias).help(Some(format::one_line(&target).into()))
    });
    files.chain(aliases).collect()
}

/// Whether a model or an alias has this name.
pub(crate) fn is_model(name: &str) -> bool {
    models().iter().any(|model| model.get_value() == name)
}

fn workspaces() -> Vec<CompletionCandidate> {
    let Some((home, config)) = home() else { return Vec::new() };
    config
        .all_workspaces(&home)
        .into_iter()
        .map(|it| CompletionCandidate::new(it.name.as_str()))
        .collect()
}

fn sessions() -> Vec<CompletionCandidate> {
    let names = readers().into_iter().flat_map(|it| it.session_names().unwrap_or_default());
    let mut names: Vec<_> = names.map(String::from).collect();
    names.sort();
    names.dedup();
    names.into_iter().map(CompletionCandidate::new).collect()
}

fn tags() -> Vec<CompletionCandidate> {
    let mut tags = Vec::new();
    for reader in readers() {
        let (newest, _) = reader.newest(&[], TAGGED).unwrap_or_default();
        let records = newest.iter().filter_map(|(id, _)| reader.record(id).ok());
        tags.extend(records.flat_map(|record| record.meta.tags));
    }
    tags.sort();
    tags.dedup();
    tags.into_iter().map(CompletionCandidate::new).collect()
}

/// The newest jobs in these states; in any state if none is given.
fn jobs(places: &[JobState]) -> Vec<CompletionCandidate> {
    let mut jobs = Vec::new();
    for reader in readers() {
        let (newest, _) = reader.newest(places, JOBS).unwrap_or_default();
        jobs.extend(newest.iter().filter_map(|(id, _)| reader.record(id).ok()).map(|job| {
            let about = format!("{}: {}", job.state, format::one_line(&job.prompt_start));
            CompletionCandidate::new(job.job.to_string()).help(Some(about.into()))
        }));
    }
    let last = (!jobs.is_empty()).then(|| {
        CompletionCandidate::new(JobSelector::LAST)
            .help(Some("the newest job of all".to_owned().into()))
    });
    last.into_iter().chain(jobs).collect()
}
