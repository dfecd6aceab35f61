//! From arguments to a [`Cli`]: decides between a prompt and a command.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::mistyped::Question;
use super::options::{Cli, Command};

/// Arguments that run nothing: a request for help, or a mistake.
#[derive(Debug)]
pub(crate) struct Refused {
    /// What to print: to standard output if `help`, else to standard error.
    pub(crate) text: String,
    /// Whether the user asked for this text.
    pub(crate) help: bool,
    /// What to ask a person at a terminal.
    pub(crate) question: Option<Question>,
}

/// Reads the arguments; the first is the program's name.
///
/// The first argument decides: a command's name begins a command, anything else a prompt. A word
/// that only resembles a command is refused with a question, and a command's name behind options is
/// refused as ambiguous. `is_model` says whether a word names a model.
pub(crate) fn parse(
    mut args: Vec<OsString>,
    is_model: impl Fn(&str) -> bool,
) -> Result<Cli, Refused> {
    let first = args.get(1).and_then(|arg| arg.to_str()).map(str::to_owned);
    let second = args.get(2).and_then(|arg| arg.to_str());
    if first.as_deref() == Some("help") {
        match second {
            // `help` and `help COMMAND`, as in other programs; `help me` is a prompt.
            None if args.len() == 2 => args[1] = "--help".into(),
            Some(word) if args.len() == 3 && is_command(word) => {
                args[1] = word.into();
                args[2] = "--help".into();
            }
            _ => {}
        }
    }
    let separated = args.iter().any(|arg| arg == "--");
    let words = args.get(1..).unwrap_or_default().to_vec();
    let begins_with_an_option = words.first().is_some_and(|word| word.as_bytes().starts_with(b"-"));
    let cli = Cli::try_parse_from(args).map_err(|error| refused(&error, &words))?;
    match (&cli.command, cli.run.words.as_slice()) {
        (None, [word, more @ ..]) if !separated && begins_with_an_option && is_command(word) => {
            let what = if more.is_empty() { "the prompt" } else { "the beginning of a prompt" };
            Err(Refused {
                text: format!(
                    "threadrunner: is '{word}' {what}, or the command of that name?\n\
                     as a prompt: `threadrunner run ... {word}`; as a command, it comes first: \
                     `threadrunner {word} ...`\n"
                ),
                help: false,
                question: None,
            })
        }
        (None, prompt) if !separated => match Question::about(prompt, &words) {
            Some(question) => Err(question.into()),
            None => Ok(cli),
        },
        (Some(Command::Run(run)), _) if !separated => {
            match Question::about_run(&run.words, &words, is_model) {
                Some(question) => Err(question.into()),
                None => Ok(cli),
            }
        }
        _ => Ok(cli),
    }
}

impl From<Question> for Refused {
    fn from(question: Question) -> Self {
        Self { text: question.to_a_script(), help: false, question: Some(question) }
    }
}

/// What `-h` prints.
pub(crate) fn short_help() -> String {
    Cli::command().render_help().to_string()
}

fn is_command(word: &str) -> bool {
    Cli::command().find_subcommand(word).is_some()
}

fn refused(error: &clap::Error, words: &[OsString]) -> Refused {
    let help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let mut text = error.to_string();
    if !help {
        text = match text.strip_prefix("error: ") {
            Some(text) => format!("threadrunner: {text}"),
            None => text,
        };
        let stray = matches!(
            error.kind(),
            ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand | ErrorKind::InvalidValue
        );
        let first = words.first().and_then(|word| word.to_str());
        let unknown = error.kind() == ErrorKind::UnknownArgument;
        if unknown && !first.is_some_and(is_command) {
            // clap does not know that the first word is meant as a command.
            if let Some(question) = Question::about_refused(words) {
                return question.into();
            }
        }
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        if stray && words.len() > 1 && words[0] != "run" && is_command(&words[0]) {
            text.push_str(&format!(
                "If that was a prompt: `threadrunner run \"{}\"`\n",
                words.join(" ")
            ));
        }
    }
    Refused { text, help, question: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Cli, Refused> {
        let all = std::iter::once("threadrunner").chain(words.iter().copied());
        parse(all.map(OsString::from).collect(), |word| word == "Tiny-Q4")
    }

    fn prompt(words: &[&str]) -> Vec<String> {
        let cli = parse_words(words).unwrap();
        match cli.command {
            None => cli.run.words,
            Some(Command::Run(run)) => run.words,
            Some(other) => panic!("{other:?}"),
        }
    }

    fn mistake(words: &[&str]) -> String {
        let refused = parse_words(words).unwrap_err();
        assert!(!refused.help, "{}", refused.text);
        refused.text
    }

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn anything_that_does_not_begin_with_a_command_is_a_prompt() {
        assert_eq!(prompt(&["Why is the sky blue?"]), ["Why is the sky blue?"]);
        assert_eq!(prompt(&["why", "is", "it"]), ["why", "is", "it"]);
        assert_eq!(prompt(&["tell", "me", "jobs"]), ["tell", "me", "jobs"]);
        assert_eq!(prompt(&["-m", "x", "tell", "jobs"]), ["tell", "jobs"]);
        assert_eq!(prompt(&["Jobs", "and", "Wozniak"]), ["Jobs", "and", "Wozniak"]);
        assert_eq!(prompt(&["jobs are hard"]), ["jobs are hard"]);
        assert_eq!(prompt(&["help", "me"]), ["help", "me"]);
        assert_eq!(prompt(&["help", "jobs", "now"]), ["help", "jobs", "now"]);
        assert_eq!(prompt(&[]), [] as [&str; 0]);
    }

    #[test]
    fn a_prompt_that_is_a_commands_name_works_with_run_and_after_two_dashes() {
        assert_eq!(prompt(&["run", "ps"]), ["ps"]);
        assert_eq!(prompt(&["run", "run"]), ["run"]);
        assert_eq!(prompt(&["--", "ps"]), ["ps"]);
        assert_eq!(prompt(&["--json", "--", "ps"]), ["ps"]);
        assert_eq!(prompt(&["run", "--json", "ps"]), ["ps"]);
        assert_eq!(prompt(&["run", "--", "--json"]), ["--json"]);
        assert_eq!(prompt(&["--", "-1 + 2"]), ["-1 + 2"]);
    }

    #[test]
    fn a_command_is_a_command() {
        assert!(matches!(parse_words(&["ps"]).unwrap().command, Some(Command::Ps(_))));
        assert!(matches!(parse_words(&["ps", "--json"]).unwrap().command, Some(Command::Ps(_))));
        assert!(matches!(
            parse_words(&["result", "last"]).unwrap().command,
            Some(Command::Result(_))
        ));
    }

    #[test]
    fn a_command_behind_options_is_neither_a_prompt_nor_a_command() {
        for words in
            [&["--json", "ps"][..], &["-w", "x", "result", "last"], &["-m", "x", "run", "it"]]
        {
            let refused = parse_words(words).unwrap_err();
            assert!(refused.text.contains("as a command, it comes first"), "{}", refused.text);
        }
        assert_eq!(prompt(&["-m", "x", "result of it"]), ["result of it"]);
    }

    #[test]
    fn one_word_that_resembles_a_command_is_a_question_back_and_a_prompt_behind_run() {
        for words in
            [&["staus"][..], &["--json", "staus"], &["serve"], &["pull", "llama3"], &["logs", "-f"]]
        {
            let refused = parse_words(words).unwrap_err();
            assert!(refused.question.is_some(), "{words:?}");
            assert!(refused.text.contains("as a prompt: `threadrunner run "), "{}", refused.text);
        }
        assert!(parse_words(&["run", "Tiny-Q4"]).unwrap_err().question.is_some());
        assert_eq!(prompt(&["run", "--", "Tiny-Q4"]), ["Tiny-Q4"]);
        assert_eq!(prompt(&["run", "staus"]), ["staus"]);
        assert_eq!(prompt(&["--", "staus"]), ["staus"]);
        assert_eq!(prompt(&["staus", "of", "things"]), ["staus", "of", "things"]);
    }

    #[test]
    fn a_commands_name_behind_options_is_a_question_back() {
        let text = mistake(&["--json", "ps"]);
        assert!(text.contains("threadrunner run"), "{text}");
    }

    #[test]
    fn words_that_a_command_does_not_take_are_offered_as_a_prompt() {
        let text = mistake(&["ps", "aux", "explained"]);
        assert!(text.contains("threadrunner run \"ps aux explained\""), "{text}");
        assert!(text.starts_with("threadrunner: "), "{text}");
        let text = mistake(&["daemon", "of", "hell"]);
        assert!(text.contains("threadrunner run \"daemon of hell\""), "{text}");
    }

    #[test]
    fn help_and_version_are_no_mistakes() {
        for words in [&["--help"][..], &["-h"], &["help"], &["help", "jobs"], &["-V"]] {
            assert!(parse_words(words).unwrap_err().help, "{words:?}");
        }
        assert!(parse_words(&["help"]).unwrap_err().text.contains("Examples"));
        assert!(parse_words(&["help", "jobs"]).unwrap_err().text.contains("--state"));
    }

    #[test]
    fn options_are_understood_before_and_after_the_prompt() {
        let cli = parse_words(&[
            "-m",
            "small",
            "hi",
            "there",
            "--temperature",
            "0",
            "--stop",
            "-",
            "--stop",
            "END",
            "--timeout",
            "5m",
            "--backend",
            "dummy",
            "--tag",
            "a",
            "--tag",
            "b",
            "--parent",
            "17_1",
            "--priority",
            "batch",
        ])
        .unwrap();
        let run = cli.run;
        assert_eq!(run.words, ["hi", "there"]);
        assert_eq!(run.model.as_deref(), Some("small"));
        assert_eq!(run.timeout.unwrap().as_secs(), 300);
        assert_eq!(run.tags, ["a", "b"]);
        let params = run.sampling.into_parameters();
        assert_eq!((params.temperature, params.stop), (Some(0.0), vec!["-".into(), "END".into()]));
    }

    #[test]
    fn a_conversation_is_named_or_the_last_one_and_never_takes_the_prompt_for_a_name() {
        let run = |words: &[&str]| parse_words(words).unwrap().run;
        let named = run(&["--session", "work", "and", "then?"]);
        assert_eq!(named.within.session.unwrap().as_str(), "work");
        let last = run(&["-c", "and", "then?"]);
        assert!(last.within.continues && last.within.session.is_none());
        assert_eq!(last.words, ["and", "then?"]);
        assert!(run(&["--continue", "--session", "work", "hi"]).within.continues);
        for words in [&["sessions"][..], &["sessions", "-w", "code"], &["sessions", "list"]] {
            let command = parse_words(words).unwrap().command;
            assert!(matches!(command, Some(Command::Sessions(_))), "{words:?}");
        }
        let chat = parse_words(&["chat", "-c", "-m", "small"]).unwrap().command;
        assert!(matches!(chat, Some(Command::Chat(_))));
        assert!(mistake(&["chat", "with", "me"]).contains("threadrunner run \"chat with me\""));
    }

    #[test]
    fn mistakes_are_mistakes() {
        for words in [
            &["--max-tokens", "many", "hi"][..],
            &["--no-such-option", "hi"],
            &["--backend", "gpu", "hi"],
            &["--timeout", "0", "hi"],
            &["--parent", "not-an-id", "hi"],
            &["--raw", "--system", "s", "hi"],
            &["--raw", "-c", "hi"],
            &["--session", "a/b", "hi"],
            &["--session", ".a", "hi"],
            &["--session", "a", "--parent", "1", "hi"],
            &["sessions", "show"],
            &["sessions", "rm"],
            &["sessions", "--json", "show", "a"],
            &["--detach", "--no-stream", "hi"],
            &["daemon"],
            &["wait", "--all", "--idle"],
            &["wait", "--all", "17_1"],
            &["jobs", "--ids", "--json"],
        ] {
            mistake(words);
        }
    }
}
