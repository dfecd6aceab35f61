//! Prompts that were probably meant as commands: a word that is nearly a command's name, or that is
//! a command of another program.
//!
//! A model answers anything, so without this a typo would yield a page of text and exit code 0. A
//! [`Question`] asks what was meant. Sentences are never questioned.

use std::ffi::OsString;

/// Commands of other programs, and the command that does the same here, or else an explanation.
///
/// The verbs are those of `ollama` and `docker`, and those that start and stop other daemons.
const VERBS: [(&str, Result<&str, &str>); 40] = [
    ("list", Ok("models")),
    ("ls", Ok("models")),
    ("images", Ok("models")),
    ("show", Ok("models")),
    ("tags", Ok("models")),
    ("logs", Ok("daemon logs")),
    ("log", Ok("daemon logs")),
    ("start", Ok("daemon start")),
    ("stop", Ok("daemon stop")),
    ("restart", Ok("daemon restart")),
    ("serve", Ok("daemon run")),
    ("server", Ok("daemon run")),
    ("kill", Ok("daemon stop --now")),
    ("quit", Ok("daemon stop")),
    ("exit", Ok("daemon stop")),
    ("top", Ok("ps")),
    ("stats", Ok("ps")),
    ("info", Ok("status")),
    ("version", Ok("--version")),
    ("usage", Ok("--help")),
    ("commands", Ok("--help")),
    ("attach", Ok("follow")),
    ("history", Ok("sessions")),
    ("queue", Ok("jobs")),
    ("delete", Ok("rm")),
    ("remove", Ok("rm")),
    ("inspect", Ok("jobs --json")),
    ("repl", Ok("chat")),
    ("check", Ok("doctor")),
    ("exec", Ok("run")),
    ("pull", Err(MODELS)),
    ("push", Err(MODELS)),
    ("create", Err(MODELS)),
    ("build", Err(MODELS)),
    ("cp", Err(MODELS)),
    ("search", Err(MODELS)),
    ("install", Err(MODELS)),
    ("update", Err(UPDATES)),
    ("upgrade", Err(UPDATES)),
    ("login", Err("there is no account to log in to")),
];

const MODELS: &str = "models are GGUF files: copy or link one into the home's models/, or name it \
                      by its path: `threadrunner -m ./model.gguf \"Hello\"`";
const UPDATES: &str = "ThreadRunner does not update itself: build or install the new version";

/// Asks whether a word is the command that it resembles, or a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// What was typed.
    typed: String,
    /// The command that it resembles, or an explanation if there is none.
    meant: Result<String, &'static str>,
    /// The arguments that are not part of the prompt.
    rest: Vec<OsString>,
}

impl Question {
    /// The question to ask about `words`, the prompt within `arguments`; `None` if it is clearly a
    /// prompt.
    pub(super) fn about(
        words: &[String],
        arguments: &[OsString],
        commands: &[String],
    ) -> Option<Self> {
        let (word, object) = match words {
            [word] => (word, None),
            [word, object] => (word, Some(object)),
            _ => return None,
        };
        let bare = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
        if !word.bytes().all(bare) {
            return None;
        }
        let verb = VERBS.iter().find(|(verb, _)| verb == word).map(|(_, meant)| *meant);
        let meant = match (verb, object) {
            (Some(meant), None) => meant.map(str::to_owned),
            // `ollama stop MODEL` unloads the model; it does not stop the daemon.
            (Some(_), Some(model)) if word == "stop" && is_for_a_model(word, model) => {
                Ok(format!("unload {model}"))
            }
            (Some(meant), Some(model)) if is_for_a_model(word, model) => meant.map(str::to_owned),
            (None, None) => Ok(nearest(word, commands)?.to_owned()),
            _ => return None,
        };
        let mut rest = arguments.to_vec();
        for word in words {
            let at = rest.iter().position(|argument| argument == word.as_str())?;
            rest.remove(at);
        }
        Some(Self { typed: words.join(" "), meant, rest })
    }

    /// The question for a person at a terminal.
    pub(crate) fn to_a_person(&self) -> String {
        match &self.meant {
            Ok(command) => format!(
                "threadrunner: there is no command '{}'; did you mean `threadrunner {command}`?\n\
                 y: run that, p: send it as a prompt, Enter: neither ",
                self.typed
            ),
            Err(known) => format!(
                "threadrunner: there is no command '{}': {known}\n\
                 p: send it as a prompt, Enter: do nothing ",
                self.typed
            ),
        }
    }

    /// The message if there is no terminal to ask on.
    pub(crate) fn to_a_script(&self) -> String {
        let command = match &self.meant {
            Ok(command) => format!("as a command: `threadrunner {command}`"),
            Err(known) => (*known).to_owned(),
        };
        format!(
            "threadrunner: '{0}' is not a command, and probably not a prompt\n\
             {command}; as a prompt: `threadrunner run {0}`\n",
            self.typed
        )
    }

    /// The arguments that the answer chooses; `None` for neither command nor prompt.
    pub(crate) fn answered(self, answer: &str) -> Option<Vec<OsString>> {
        let typed = match (answer.trim(), &self.meant) {
            ("y" | "Y" | "yes", Ok(command)) => command.clone(),
            ("p" | "P" | "prompt", _) => format!("run {}", self.typed),
            _ => return None,
        };
        let words = typed.split(' ').map(OsString::from);
        Some(words.chain(self.rest).collect())
    }
}

/// Whether two words are an `ollama` command and a model, rather than the beginning of a sentence.
fn is_for_a_model(verb: &str, object: &str) -> bool {
    let names = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    let is_name = object.bytes().all(names) && object.bytes().any(|b| b.is_ascii_digit());
    is_name || (matches!(verb, "pull" | "push") && object.bytes().all(names))
}

/// The command that a word probably means: one that begins with it, or is one or two typos away.
fn nearest<'a>(word: &str, commands: &'a [String]) -> Option<&'a str> {
    let begins = |command: &&String| word.len() >= 4 && command.starts_with(word);
    let slips = |command: &str| {
        let slips = strsim::osa_distance(word, command);
        let swapped = slips == 1 && strsim::levenshtein(word, command) == 2;
        // A short word is one typo away from too many others.
        let near = match command.len() {
            0..4 => swapped,
            4..6 => slips == 1,
            _ => slips == 1 || (slips == 2 && word.len() > 4 && word[..1] == command[..1]),
        };
        near.then_some(slips)
    };
    let slipped = commands.iter().filter_map(|command| Some((slips(command)?, command)));
    let begun = commands.iter().find(begins);
    begun.or_else(|| slipped.min().map(|(_, command)| command)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(words: &[&str]) -> Option<Result<String, &'static str>> {
        let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
        let arguments: Vec<_> = words.iter().map(OsString::from).collect();
        Question::about(&words, &arguments, &commands()).map(|question| question.meant)
    }

    fn commands() -> Vec<String> {
        crate::args::parse::command_names()
    }

    #[test]
    fn a_word_that_is_nearly_a_command_is_asked_about() {
        for (typed, command) in [
            ("modles", "models"),
            ("model", "models"),
            ("session", "sessions"),
            ("staus", "status"),
            ("sattus", "status"),
            ("stat", "status"),
            ("job", "jobs"),
            ("jbos", "jobs"),
            ("relsut", "result"),
            ("unlaod", "unload"),
            ("dameon", "daemon"),
            ("docter", "doctor"),
            ("completion", "completions"),
            ("chta", "chat"),
            ("sp", "ps"),
            ("mr", "rm"),
            ("rnu", "run"),
            ("hlep", "help"),
        ] {
            assert_eq!(meant(&[typed]), Some(Ok(command.to_owned())), "{typed}");
        }
    }

    #[test]
    fn what_other_programs_call_a_command_is_asked_about_alone_or_of_a_model() {
        assert_eq!(meant(&["logs"]), Some(Ok("daemon logs".to_owned())));
        assert_eq!(meant(&["list"]), Some(Ok("models".to_owned())));
        assert_eq!(meant(&["stop"]), Some(Ok("daemon stop".to_owned())));
        assert_eq!(meant(&["stop", "llama3"]), Some(Ok("unload llama3".to_owned())));
        assert_eq!(meant(&["pull", "llama3"]), Some(Err(MODELS)));
        assert_eq!(meant(&["pull", "hf.co/org/model:Q4"]), Some(Err(MODELS)));
        assert_eq!(meant(&["pull", "mistral"]), Some(Err(MODELS)));
        for (verb, meant) in VERBS {
            let is_one = commands().iter().any(|command| command == verb);
            assert!(!is_one, "{verb} is a command");
            // The command suggested exists.
            let first = meant.unwrap_or("run").split(' ').next().unwrap_or_default();
            let known = first.starts_with("--") || commands().iter().any(|name| name == first);
            assert!(known, "{verb}: {meant:?}");
        }
    }

    #[test]
    fn everything_else_is_a_prompt() {
        for words in [
            &["hello"][..],
            &["hi"],
            &["test"],
            &["joke"],
            &["explain"],
            &["translate"],
            &["summarize"],
            &["review"],
            &["sun"],
            &["yellow"],
            &["Jobs"],
            &["logs?"],
            &["jobs are hard"],
            &["list files"],
            &["show", "me"],
            &["stop", "it"],
            &["list", "three", "rivers"],
            &["pull", "the", "lever"],
            &["pull", "yourself!"],
            &["modles", "explained"],
            &[""],
            &["1"],
        ] {
            assert_eq!(meant(words), None, "{words:?}");
        }
    }

    #[test]
    fn the_answer_keeps_the_options() {
        let (words, arguments) = (["logs".to_owned()], ["--json", "logs"].map(OsString::from));
        let question = Question::about(&words, &arguments, &commands()).unwrap();
        let asked = |answer: &str| question.clone().answered(answer);
        assert_eq!(asked("y\n").unwrap(), ["daemon", "logs", "--json"]);
        assert_eq!(asked("p\n").unwrap(), ["run", "logs", "--json"]);
        assert_eq!((asked("\n"), asked("no")), (None, None));
        let (words, none) = (["pull".to_owned()], ["pull"].map(OsString::from));
        let question = Question::about(&words, &none, &commands()).unwrap();
        assert_eq!(question.clone().answered("y"), None);
        assert!(question.to_a_person().contains("GGUF"));
        assert!(question.to_a_script().contains("threadrunner run pull"));
    }
}
