//! Prompts that were probably meant as commands: a word that is nearly a command's name, or that is
//! a command of another program.
//!
//! A model answers anything, so without this a typo would yield a page of text and exit code 0. A
//! [`Question`] asks what was meant. The rule:
//!
//! - One word is a question if it is a command's name but for case, a slip or two, or missing
//!   letters at its end, or if it is a verb of another program ([`verbs`]) but for a slip.
//! - Two words are a question if the first is one, and the second is something that the command
//!   takes: a subcommand, a job's id or `last`, or a name, where it takes one. "it", "the" or
//!   "worrying" are none, and behind an everyday verb (`save`, `show`) only a model is one.
//! - More words are a question only if nothing but a command can be meant: `sesions show trip`,
//!   `rsult 1 2 3`, `cp llama3 mine`.
//! - `run` with one word that is a model, or looks like one, is a question: `ollama run llama3`.
//! - An option that a prompt does not take makes a sentence no command: only what is before it
//!   decides.
//!
//! Everything else is a prompt, also words that are a slip away from a command but English
//! ([`words`]), and whatever has a space or a sign within one argument.

mod verbs;
mod words;

use std::ffi::{OsStr, OsString};

use clap::{CommandFactory, Parser};

use super::options::Cli;
use words::{is_job, is_name, looks_like_a_model, looks_like_a_name, nearest, nearest_verb};

/// The program's name, which precedes arguments.
const PROGRAM: &str = "threadrunner";

/// Asks whether words are the command that they resemble, or a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// The words of the prompt.
    typed: Vec<OsString>,
    /// The command that they resemble, whole, or an explanation if there is none.
    meant: Result<Vec<OsString>, &'static str>,
    /// The arguments that are not part of the prompt.
    rest: Vec<OsString>,
    /// Whether a prompt of these words needs `--`.
    insists: bool,
    /// Whether they look like a model, rather than a command.
    is_a_model: bool,
}

impl Question {
    /// The question to ask about `words`, the prompt within `arguments`; `None` if it is clearly a
    /// prompt.
    pub(super) fn about(words: &[String], arguments: &[OsString]) -> Option<Self> {
        let meant = meaning(words)?;
        let mut rest = arguments.to_vec();
        for word in words {
            let at = rest.iter().position(|argument| argument == word.as_str())?;
            rest.remove(at);
        }
        let meant = meant.map(|command| with_options(&command, &rest));
        let typed = words.iter().map(OsString::from).collect();
        Some(Self { typed, meant, rest, insists: false, is_a_model: false })
    }

    /// The question to ask about arguments with an option that a prompt does not take.
    pub(super) fn about_refused(arguments: &[OsString]) -> Option<Self> {
        let is_word = |argument: &&OsString| !argument.to_string_lossy().starts_with('-');
        let words: Vec<_> = arguments.iter().take_while(is_word).collect();
        let options = arguments.get(words.len()..)?.to_vec();
        let words: Option<Vec<_>> = words.iter().map(|word| Some(word.to_str()?.into())).collect();
        let meant = meaning(&words?)?.map(|command| with_options(&command, &options));
        let typed = arguments.to_vec();
        Some(Self { typed, meant, rest: Vec::new(), insists: true, is_a_model: false })
    }

    /// The question to ask about `run` with `words` in `arguments`: whether the one word is a
    /// model. `exists` says whether a word is one of the models here.
    pub(super) fn about_run(
        words: &[String],
        arguments: &[OsString],
        exists: impl Fn(&str) -> bool,
    ) -> Option<Self> {
        let [word] = words else { return None };
        if !is_name(word) || !(looks_like_a_model(word) || exists(word)) {
            return None;
        }
        let (run, options) = arguments.split_first()?;
        let mut rest = options.to_vec();
        rest.remove(rest.iter().position(|argument| argument == word.as_str())?);
        (run == "run").then_some(())?;
        let meant = Ok(with_options(&format!("chat -m {word}"), &rest));
        let typed = vec![word.into()];
        Some(Self { typed, meant, rest, insists: true, is_a_model: true })
    }

    /// The question for a person at a terminal.
    pub(crate) fn to_a_person(&self) -> String {
        let typed = shown(&self.typed);
        match &self.meant {
            Ok(command) => format!(
                "threadrunner: {}; did you mean `threadrunner {}`?\n\
                 y: run that, p: send it as a prompt, Enter: neither ",
                match self.is_a_model {
                    true => format!("'{typed}' looks like a model"),
                    false => format!("there is no command '{typed}'"),
                },
                shown(command)
            ),
            Err(known) => format!(
                "threadrunner: there is no command '{typed}': {known}\n\
                 p: send it as a prompt, Enter: do nothing "
            ),
        }
    }

    /// The message if there is no terminal to ask on.
    pub(crate) fn to_a_script(&self) -> String {
        let typed = shown(&self.typed);
        let command = match &self.meant {
            Ok(command) => format!("as a command: `threadrunner {}`", shown(command)),
            Err(known) => (*known).to_owned(),
        };
        let dashes = if self.insists { "-- " } else { "" };
        let what = match self.is_a_model {
            true => "looks like a model",
            false => "is not a command",
        };
        format!(
            "threadrunner: '{typed}' {what}, and probably not a prompt\n\
             {command}; as a prompt: `threadrunner run {dashes}{typed}`\n"
        )
    }

    /// The arguments that the answer chooses; `None` for neither command nor prompt.
    pub(crate) fn answered(self, answer: &str) -> Option<Vec<OsString>> {
        match (answer.trim(), self.meant) {
            ("y" | "Y" | "yes", Ok(command)) => Some(command),
            ("p" | "P" | "prompt", _) => {
                let run = [OsString::from("run")].into_iter().chain(self.rest);
                Some(run.chain(["--".into()]).chain(self.typed).collect())
            }
            _ => None,
        }
    }
}

/// The command that words probably are, or why there is none; `None` if they are a prompt.
fn meaning(words: &[String]) -> Option<Result<String, &'static str>> {
    let (typed, objects) = words.split_first()?;
    let typed = typed.trim();
    if typed.is_empty() || !typed.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-') {
        return None;
    }
    let word = typed.to_ascii_lowercase();
    let objects: Vec<_> = objects.iter().map(|object| object.trim()).collect();
    let commands = command_names();
    let command = nearest(&word, &commands);
    let verb = || nearest_verb(&word, verbs::names());
    let found = match command {
        _ if verbs::names().any(|verb| verb == word) => verbs::meaning(&word, &objects)?,
        Some(command) => Ok(behind_a_command(command, &objects)?),
        None => verbs::meaning(verb()?, &objects)?,
    };
    // A capital begins a sentence, unless all letters are capitals or nothing but a command is meant.
    let begins_a_sentence = typed != word && typed != typed.to_ascii_uppercase();
    let only_a_command = |object: &&str| {
        is_job(object) || looks_like_a_name(object) || command.is_some_and(|it| takes(it, object))
    };
    (!begins_a_sentence || objects.iter().all(only_a_command)).then_some(found)
}

/// A command with what follows it, if that can be meant as a command.
fn behind_a_command(command: &str, objects: &[&str]) -> Option<String> {
    let whole = || format!("{command} {}", objects.join(" "));
    match objects {
        [] => Some(command.to_owned()),
        [first, more @ ..] if takes(command, first) && more.len() < 2 => {
            Some([&[command, &first.to_ascii_lowercase()], more].concat().join(" "))
        }
        objects if objects.iter().all(|object| is_job(object)) => Some(whole()),
        [object] if is_name(object) && may_take(command, object) => Some(whole()),
        _ => None,
    }
}

/// Whether a command may be meant with this word behind it, which is no subcommand and no job.
fn may_take(command: &str, word: &str) -> bool {
    match command {
        "help" => command_names().iter().any(|known| known == word),
        // They take ids, and no word is one.
        "cancel" | "follow" | "result" | "retry" | "rm" | "wait" => false,
        "batch" => looks_like_a_name(word),
        _ => {
            let parsed = Cli::try_parse_from([PROGRAM, command, word]);
            matches!(word, "list" | "ls" | "show") || !parsed.is_err_and(|it| it.use_stderr())
        }
    }
}

/// Whether a command has such a subcommand.
fn takes(command: &str, subcommand: &str) -> bool {
    let all = Cli::command();
    let known = all.find_subcommand(command);
    known.is_some_and(|it| it.find_subcommand(subcommand.to_ascii_lowercase()).is_some())
}

/// A command with the options, if it takes them; without what it does not take.
fn with_options(command: &str, options: &[OsString]) -> Vec<OsString> {
    let words: Vec<_> = command.split(' ').map(OsString::from).collect();
    let is_one = |arguments: &[OsString]| {
        let all = std::iter::once(OsStr::new(PROGRAM)).chain(arguments.iter().map(AsRef::as_ref));
        !Cli::try_parse_from(all).is_err_and(|error| error.use_stderr())
    };
    let whole = [words.as_slice(), options].concat();
    match words.as_slice() {
        _ if is_one(&whole) => whole,
        // `models list`: the command alone is what there is.
        [command, _, ..] if !is_one(&words) && is_one(std::slice::from_ref(command)) => {
            vec![command.clone()]
        }
        _ => words,
    }
}

/// The names of all commands, and `help`.
pub(super) fn command_names() -> Vec<String> {
    let names = Cli::command().get_subcommands().map(|it| it.get_name().to_owned()).collect();
    [names, vec!["help".to_owned()]].concat()
}

/// Arguments as a shell reads them.
fn shown(arguments: &[OsString]) -> String {
    let safe = |c: char| c.is_alphanumeric() || "-_.,:/@%+=~".contains(c);
    let quoted = arguments.iter().map(|argument| {
        let text = argument.to_string_lossy();
        match text.trim() {
            text if !text.is_empty() && text.chars().all(safe) => text.to_owned(),
            text => format!("'{}'", text.replace('\'', "'\\''")),
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
