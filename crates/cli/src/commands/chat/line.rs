//! Parses what was typed: a prompt, or a command to the chat itself.

use std::path::PathBuf;

/// The mark before and after a text of any number of lines.
const BLOCK: &str = "\"\"\"";

/// What `/help` prints.
pub(super) const HELP: &str = "\
/model [NAME]    switch to another model; without NAME, print the current one
/system [TEXT]   give new instructions; without TEXT, print the current ones
/retry           ask the last question again and replace its answer
/undo            take back the last question and its answer
/show            print the conversation
/save FILE       write the conversation to a new file: Markdown, or JSON if it ends in .json
/quit            leave (or press Ctrl-D)
A line that ends in \\ continues on the next; text between two \"\"\" may have any number of lines.
//text sends /text. Ctrl-C stops an answer, which is then not part of the conversation.";

/// The names of the commands, for completion.
pub(super) const COMMANDS: [&str; 8] =
    ["/help", "/model", "/quit", "/retry", "/save", "/show", "/system", "/undo"];

/// What was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// Nothing.
    Empty,
    /// A prompt.
    Prompt(String),
    /// Print which model answers.
    ShowModel,
    /// Switch to another model.
    Model(String),
    /// Print the instructions.
    ShowSystem,
    /// Set new instructions.
    System(String),
    /// Ask the last question again.
    Retry,
    /// Take back the last turn.
    Undo,
    /// Print the conversation.
    Show,
    /// Write the conversation to a file.
    Save(PathBuf),
    /// Print the help.
    Help,
    /// Leave.
    Quit,
    /// An unknown command, or one with the wrong arguments; holds the message.
    Mistake(String),
}

/// Whether a text is complete; otherwise it continues on the next line.
pub(super) fn is_complete(text: &str) -> bool {
    let text = text.trim();
    match text.strip_prefix(BLOCK) {
        Some(rest) => rest.ends_with(BLOCK),
        None => !goes_on(text.lines().next_back().unwrap_or_default()),
    }
}

/// Whether a line ends in a backslash that is not escaped by another.
fn goes_on(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// Parses a text that is complete, or cut short by the end of the input.
pub(super) fn read(text: &str) -> Line {
    let text = text.trim();
    if let Some(block) = text.strip_prefix(BLOCK) {
        let block = block.strip_suffix(BLOCK).unwrap_or(block);
        return prompt(block.trim_matches('\n'));
    }
    if let Some(rest) = text.strip_prefix("//") {
        return prompt(&format!("/{}", joined(rest)));
    }
    let Some(command) = text.strip_prefix('/') else { return prompt(&joined(text)) };
    let command = joined(command);
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((&command, ""));
    let rest = rest.trim();
    match (name, rest) {
        ("model", "") => Line::ShowModel,
        ("model", name) => Line::Model(name.to_owned()),
        ("system", "") => Line::ShowSystem,
        ("system", text) => Line::System(text.to_owned()),
        ("save", "") => Line::Mistake("/save needs the name of a new file".to_owned()),
        ("save", path) => Line::Save(path.into()),
        ("retry", "") => Line::Retry,
        ("undo", "") => Line::Undo,
        ("show", "") => Line::Show,
        ("help" | "?", _) => Line::Help,
        ("quit" | "exit" | "bye", "") => Line::Quit,
        _ => Line::Mistake(format!(
            "'/{name}' is not a command, or takes other arguments; //{name} sends it as text"
        )),
    }
}

fn prompt(text: &str) -> Line {
    match text.trim().is_empty() {
        true => Line::Empty,
        false => Line::Prompt(text.to_owned()),
    }
}

/// Removes the backslashes that continue lines.
fn joined(text: &str) -> String {
    let lines = text.lines().map(|line| match goes_on(line) {
        true => &line[..line.len() - 1],
        false => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_goes_on_after_a_backslash_and_within_a_block() {
        for whole in ["", "hi", "a\\\nb", "\"\"\"a\nb\"\"\"", "\"\"\"\"\"\"", "C:\\\\", "a\\b"] {
            assert!(is_complete(whole), "{whole:?}");
        }
        for part in ["a\\", "a\\\nb\\", "\"\"\"", "\"\"\"a", "\"\"\"a\nb\\", "\\\\\\"] {
            assert!(!is_complete(part), "{part:?}");
        }
    }

    #[test]
    fn a_prompt_keeps_its_lines() {
        let prompt = |text: &str| Line::Prompt(text.to_owned());
        assert_eq!(read("  hi \n"), prompt("hi"));
        assert_eq!(read("one\\\n  two"), prompt("one\n  two"));
        assert_eq!(read("\"\"\"\nfn a() {\n  \\\n}\n\"\"\""), prompt("fn a() {\n  \\\n}"));
        assert_eq!(read("\"\"\"/model\"\"\""), prompt("/model"));
        assert_eq!(read("//etc/passwd is a file"), prompt("/etc/passwd is a file"));
        for nothing in ["", "  ", "\\", "\"\"\"\n\"\"\""] {
            assert_eq!(read(nothing), Line::Empty, "{nothing:?}");
        }
    }

    #[test]
    fn commands_begin_with_a_slash() {
        assert_eq!(read("/model"), Line::ShowModel);
        assert_eq!(read("/model  small "), Line::Model("small".into()));
        assert_eq!(read("/system You are\\\n brief"), Line::System("You are\n brief".into()));
        assert_eq!(read("/save a b.md"), Line::Save("a b.md".into()));
        assert_eq!(read("/retry"), Line::Retry);
        assert_eq!(read("/undo"), Line::Undo);
        assert_eq!(read("/exit"), Line::Quit);
        for mistake in ["/modle x", "/", "/save", "/retry now", "/undo 2", "/etc/passwd"] {
            assert!(matches!(read(mistake), Line::Mistake(_)), "{mistake}");
        }
        for command in COMMANDS {
            assert!(HELP.contains(command) || command == "/help", "{command}");
            let understood = !matches!(read(command), Line::Mistake(why) if why.contains("is no"));
            assert!(understood, "{command}");
        }
    }
}
