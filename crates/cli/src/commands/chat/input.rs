//! Reads lines: with an editor on a terminal, or plainly from standard input.
//!
//! Both read on a thread of their own, so that the connection to the daemon is served meanwhile: an
//! answer that was stopped is canceled at once, not with the next line.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Behavior, Config, Context, Editor, Helper};
use threadrunner_core::{ErrorCode, Failure, MAX_FRAME_BYTES};
use tokio::sync::mpsc;

use super::line::{COMMANDS, is_complete};
use super::typed::Texts;
use crate::error::refused_by_system;
use crate::output;
use crate::prompt::without_bom;
use crate::terminal::escapes;

/// The prompt before the cursor.
const PROMPT: &str = "> ";
/// How many lines the history keeps.
const HISTORY: usize = 1000;

/// The result of reading.
#[derive(Debug)]
pub(super) enum Read {
    /// A line, or several that form one text.
    Line(String),
    /// Ctrl-C, with no answer to stop.
    Interrupted,
    /// The end of the input.
    End,
    /// The input cannot be read.
    Failed(Failure),
}

/// The source of lines.
#[derive(Debug)]
pub(super) struct Input {
    ask: SyncSender<Ask>,
    lines: mpsc::Receiver<Read>,
    terminal: bool,
    /// What was typed during an answer.
    queued: VecDeque<Read>,
    /// The next request to the thread that reads.
    next: Ask,
}

/// A request to read a text: what it begins with, and lines to put into the history before it.
#[derive(Debug, Default)]
struct Ask {
    begun: String,
    remember: Vec<String>,
}

impl Input {
    /// Starts to read standard input; on a terminal, with an editor that keeps its history in the
    /// file `history`.
    pub(super) fn start(history: PathBuf) -> Result<Self, Failure> {
        let terminal = io::stdin().is_terminal();
        // One text at a time, so that nothing is read that will not be answered.
        let (ask, asked) = sync_channel(1);
        let (tell, lines) = mpsc::channel(1);
        let read = move || match (terminal, escapes()) {
            (true, true) => edit(&asked, &tell, &history),
            (true, false) => pipe(&asked, &tell, io::stdin().lock(), PROMPT),
            (false, _) => pipe(&asked, &tell, io::stdin().lock(), ""),
        };
        std::thread::Builder::new()
            .name("input".to_owned())
            .spawn(read)
            .map_err(|error| refused_by_system("start a thread", &error))?;
        let (queued, next) = (VecDeque::new(), Ask::default());
        Ok(Self { ask, lines, terminal, queued, next })
    }

    /// Whether standard input is a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Returns the next line.
    pub(super) async fn next(&mut self) -> Read {
        if let Some(read) = self.queued.pop_front() {
            if let Read::Line(line) = &read {
                output::say(&format!("{PROMPT}{}", line.trim_end()));
                self.next.remember.push(line.trim().to_owned());
            }
            return read;
        }
        // The thread has ended if it could not set up the editor.
        if self.ask.send(std::mem::take(&mut self.next)).is_err() {
            return Read::End;
        }
        self.lines.recv().await.unwrap_or(Read::End)
    }

    /// Queues what was typed during an answer, after what was typed before.
    pub(super) fn queue(&mut self, typed: Texts) {
        self.queued.extend(typed.whole.into_iter().map(Read::Line));
        self.queued.extend(typed.ended.then_some(Read::End));
        self.next.begun.push_str(&typed.begun);
    }
}

/// Reads without an editor. `prompt` is for a terminal that is too simple for one.
fn pipe(asked: &Receiver<Ask>, tell: &mpsc::Sender<Read>, mut input: impl BufRead, prompt: &str) {
    let mut first = true;
    while asked.recv().is_ok() {
        let _ = io::stderr().write_all(prompt.as_bytes());
        let read = match read_lines(&mut input) {
            Read::Line(text) if first => Read::Line(without_bom(text)),
            read => read,
        };
        first = false;
        if tell.blocking_send(read).is_err() {
            return;
        }
    }
}

/// Reads a line and those that continue it.
fn read_lines(input: &mut impl BufRead) -> Read {
    let mut text = String::new();
    loop {
        match io::Read::take(&mut *input, MAX_FRAME_BYTES as u64).read_line(&mut text) {
            Ok(0) if text.is_empty() => return Read::End,
            Ok(read) if read == 0 || is_complete(&text) => return Read::Line(text),
            Ok(_) if text.len() >= MAX_FRAME_BYTES => {
                let message = format!("the text is longer than {} MiB", MAX_FRAME_BYTES >> 20);
                return Read::Failed(Failure::new(ErrorCode::InvalidRequest, message));
            }
            Ok(_) => {}
            Err(error) => {
                let message = format!("cannot read standard input: {error}");
                return Read::Failed(Failure::new(ErrorCode::InvalidRequest, message));
            }
        }
    }
}

fn edit(asked: &Receiver<Ask>, tell: &mpsc::Sender<Read>, history: &Path) {
    let mut editor = match editor() {
        Ok(editor) => editor,
        Err(error) => {
            let _ = tell.blocking_send(failed(&error));
            return;
        }
    };
    // The history is optional. A named pipe in its place would block, and what a link leads to is
    // not ours to write.
    let kept = history.symlink_metadata().map_or(true, |found| found.is_file());
    if kept {
        let _ = editor.load_history(history);
    }
    let remember = |editor: &mut Editor<Assistance, FileHistory>, line: &str| {
        if matches!(editor.add_history_entry(line), Ok(true)) && kept {
            let _ = editor.append_history(history);
        }
    };
    while let Ok(Ask { begun, remember: lines }) = asked.recv() {
        for line in lines {
            remember(&mut editor, &line);
        }
        let read = match editor.readline_with_initial(PROMPT, (begun.as_str(), "")) {
            Ok(line) => {
                remember(&mut editor, line.trim());
                Read::Line(line)
            }
            Err(ReadlineError::Interrupted) => Read::Interrupted,
            Err(ReadlineError::Eof) => Read::End,
            Err(error) => failed(&error),
        };
        if tell.blocking_send(read).is_err() {
            return;
        }
    }
}

fn editor() -> rustyline::Result<Editor<Assistance, FileHistory>> {
    // If answers go to a file, the prompt still goes to the terminal.
    let behavior = match io::stdout().is_terminal() {
        true => Behavior::Stdio,
        false => Behavior::PreferTerm,
    };
    let config = Config::builder()
        .behavior(behavior)
        .max_history_size(HISTORY)?
        .history_ignore_dups(true)?
        .history_ignore_space(true)
        .build();
    let history = FileHistory::with_config(&config);
    let mut editor = Editor::with_history(config, history)?;
    editor.set_helper(Some(Assistance));
    Ok(editor)
}

fn failed(error: &ReadlineError) -> Read {
    let message = format!("cannot read from the terminal: {error}");
    Read::Failed(Failure::new(ErrorCode::Io, message))
}

/// Helps the editor: completes commands, and knows when a text is complete.
struct Assistance;

impl Helper for Assistance {}

impl Hinter for Assistance {
    type Hint = String;
}

impl Highlighter for Assistance {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        Cow::Owned(format!("\x1b[1m{prompt}\x1b[0m"))
    }
}

impl Completer for Assistance {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..at];
        let fitting =
            COMMANDS.iter().filter(|name| typed.starts_with('/') && name.starts_with(typed));
        Ok((0, fitting.map(|name| (*name).to_owned()).collect()))
    }
}

impl Validator for Assistance {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match is_complete(context.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_turn_and_lines_that_belong_together_are_one() {
        let mut input = "one\ntwo\\\nthree\n\"\"\"\nfour\n\nfive\"\"\"\nsix".as_bytes();
        let mut lines = Vec::new();
        while let Read::Line(line) = read_lines(&mut input) {
            lines.push(line);
        }
        assert_eq!(lines, ["one\n", "two\\\nthree\n", "\"\"\"\nfour\n\nfive\"\"\"\n", "six"]);
        assert!(matches!(read_lines(&mut input), Read::End));
        assert!(matches!(read_lines(&mut "caf\u{e9}".as_bytes()), Read::Line(_)));
        assert!(matches!(read_lines(&mut &b"caf\xe9\n"[..]), Read::Failed(_)));
    }
}
