//! What other programs call a command, and what does the same here.
//!
//! The verbs are those of `ollama` and `docker`, and those that start and stop other daemons.

use super::words::{is_job, is_name, looks_like_a_model, looks_like_a_name};

/// The command that does the same here, or an explanation if there is none.
pub(super) type Here = Result<&'static str, &'static str>;

/// What a verb is followed by where it is a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// Nothing, or something that is clearly a name.
    Nothing,
    /// One word that looks like a model: the verb is an everyday one.
    Model,
    /// One bare word.
    Name,
    /// One or two bare words.
    Names,
    /// Another verb, and then perhaps a name.
    Verb,
}

const VERBS: &[(&str, Takes, Here)] = {
    use Takes::{Model, Name, Names, Nothing, Verb};
    &[
        ("list", Nothing, Ok("models")),
        ("ls", Name, Ok("models")),
        ("images", Nothing, Ok("models")),
        ("image", Verb, Ok("models")),
        ("show", Model, Ok("models")),
        ("tags", Nothing, Ok("models")),
        ("logs", Name, Ok("daemon logs")),
        ("log", Nothing, Ok("daemon logs")),
        ("start", Model, Ok("daemon start")),
        ("stop", Model, Ok("daemon stop")),
        ("restart", Model, Ok("daemon restart")),
        ("serve", Model, Ok("daemon run")),
        ("server", Nothing, Ok("daemon run")),
        ("kill", Model, Err(KILL)),
        ("quit", Nothing, Err(LEAVE)),
        ("exit", Nothing, Err(LEAVE)),
        ("bye", Nothing, Err(LEAVE)),
        ("top", Nothing, Ok("ps")),
        ("stats", Nothing, Ok("ps")),
        ("container", Verb, Ok("ps")),
        ("containers", Nothing, Ok("ps")),
        ("info", Nothing, Ok("status")),
        ("system", Verb, Ok("status")),
        ("version", Nothing, Ok("--version")),
        ("usage", Nothing, Ok("--help")),
        ("commands", Nothing, Ok("--help")),
        ("attach", Model, Ok("follow")),
        ("history", Nothing, Ok("sessions")),
        ("queue", Nothing, Ok("jobs")),
        ("events", Nothing, Ok("jobs --watch")),
        ("delete", Model, Ok("rm")),
        ("remove", Model, Ok("rm")),
        ("rmi", Name, Err(REMOVE)),
        ("inspect", Model, Ok("jobs --json")),
        ("repl", Nothing, Ok("chat")),
        ("check", Nothing, Ok("doctor")),
        ("exec", Model, Ok("run")),
        ("launch", Model, Ok("chat")),
        ("configure", Nothing, Ok("config edit")),
        ("configuration", Nothing, Ok("config show")),
        ("settings", Nothing, Ok("config show")),
        ("setup", Nothing, Ok("doctor")),
        ("pull", Name, Err(MODELS)),
        ("push", Name, Err(MODELS)),
        ("create", Model, Err(MODELS)),
        ("build", Nothing, Err(MODELS)),
        ("cp", Names, Err(MODELS)),
        ("tag", Names, Err(MODELS)),
        ("save", Model, Err(MODELS)),
        ("search", Model, Err(MODELS)),
        ("install", Model, Err(MODELS)),
        ("import", Nothing, Err(MODELS)),
        ("compose", Verb, Err(CONTAINERS)),
        ("network", Verb, Err(CONTAINERS)),
        ("volume", Verb, Err(CONTAINERS)),
        ("diff", Nothing, Err(CONTAINERS)),
        ("commit", Nothing, Err(CONTAINERS)),
        ("pause", Nothing, Err(PAUSE)),
        ("unpause", Nothing, Err(PAUSE)),
        ("update", Nothing, Err(UPDATES)),
        ("upgrade", Nothing, Err(UPDATES)),
        ("login", Nothing, Err(ACCOUNT)),
        ("logout", Nothing, Err(ACCOUNT)),
        ("signin", Nothing, Err(ACCOUNT)),
        ("signout", Nothing, Err(ACCOUNT)),
    ]
};

pub(super) const MODELS: &str = "models are GGUF files: copy or link one into the home's models/, \
                                 or name it by its path: `threadrunner -m ./model.gguf \"Hello\"`";
pub(super) const REMOVE: &str = "models are GGUF files: to remove one, remove its file; \
                                 `threadrunner models` lists them, `threadrunner rm ID` removes a \
                                 job";
const UPDATES: &str = "ThreadRunner does not update itself: build or install the new version";
const ACCOUNT: &str = "there is no account to log in to";
const CONTAINERS: &str = "there are no containers here; `threadrunner --help` lists the commands";
const PAUSE: &str = "a job cannot be paused; `threadrunner cancel ID` ends one, \
                     `threadrunner retry ID` begins it again";
const KILL: &str =
    "`threadrunner cancel ID` ends a job, `threadrunner daemon stop --now` the daemon";
const LEAVE: &str = "there is nothing to leave: /quit or Ctrl-D ends a chat, `threadrunner daemon \
                     stop` the daemon";

/// What follows `compose`, `container`, `image`, `network`, `system` and `volume` in `docker`.
const SUBVERBS: [&str; 34] = [
    "attach", "build", "create", "df", "down", "events", "exec", "history", "images", "info",
    "inspect", "kill", "list", "load", "logs", "ls", "prune", "ps", "pull", "push", "restart",
    "rm", "run", "save", "start", "stats", "stop", "tag", "top", "up", "update", "wait", "watch",
    "config",
];

/// All verbs.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    VERBS.iter().map(|(verb, ..)| *verb)
}

/// What a verb with these objects means here; `None` if they are probably a prompt.
pub(super) fn meaning(verb: &str, objects: &[&str]) -> Option<Result<String, &'static str>> {
    let (_, takes, here) = VERBS.iter().find(|(known, ..)| *known == verb)?;
    let here = here.map(str::to_owned);
    match (objects, takes) {
        ([], _) => Some(here),
        ([object], _) if is_job(object) => Some(of_a_job(verb, object).map_or(here, Ok)),
        ([object @ ("jobs" | "models" | "sessions" | "status")], _)
            if matches!(verb, "list" | "ls" | "show") =>
        {
            Some(Ok((*object).to_owned()))
        }
        ([subverb], Takes::Verb) if SUBVERBS.contains(subverb) => Some(here),
        ([subverb, name], Takes::Verb) if SUBVERBS.contains(subverb) && is_name(name) => Some(here),
        ([object], Takes::Model) if looks_like_a_model(object) || *object == "all" => {
            Some(of_a_model(verb, object).unwrap_or(here))
        }
        ([object], Takes::Name) if is_name(object) => {
            Some(of_a_model(verb, object).unwrap_or(here))
        }
        ([object], _) if looks_like_a_name(object) => {
            Some(of_a_model(verb, object).unwrap_or(here))
        }
        // The article of `tag a photo` is none in `tag a b`.
        ([one, other], Takes::Names) => {
            let names = is_name(one) && is_name(other);
            let letters = one.len() == 1 && other.len() == 1;
            (names || letters || looks_like_a_name(one)).then_some(here)
        }
        _ => None,
    }
}

/// What a verb means of a job.
fn of_a_job(verb: &str, job: &str) -> Option<String> {
    let command = match verb {
        "stop" | "kill" | "quit" => "cancel",
        "logs" | "log" | "attach" => "follow",
        "show" | "ls" | "list" => "result",
        "start" | "restart" => "retry",
        "delete" | "remove" | "rmi" => "rm",
        _ => return None,
    };
    Some(format!("{command} {job}"))
}

/// What a verb means of a model.
fn of_a_model(verb: &str, model: &str) -> Option<Result<String, &'static str>> {
    match verb {
        // `ollama stop MODEL` unloads the model; it does not stop the daemon.
        "stop" | "kill" if model == "all" => Some(Ok("unload".to_owned())),
        "stop" => Some(Ok(format!("unload {model}"))),
        "start" => Some(Ok(format!("load {model}"))),
        "exec" | "launch" => Some(Ok(format!("chat -m {model}"))),
        "delete" | "remove" => Some(Err(REMOVE)),
        _ => None,
    }
}
