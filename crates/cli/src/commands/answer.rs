//! Shows an answer: streams its text, or collects it for `--json`.

use std::io::{self, IsTerminal};

use serde::Serialize;
use threadrunner_client::Replies;
use threadrunner_core::protocol::{EndFrame, Progress, ReplyBody};
use threadrunner_core::{
    ErrorCode, ExitCode, Failure, FinishReason, JobId, Output, Parameters, SessionName, Timings,
    Usage, WorkspaceName,
};
use threadrunner_home::Home;

use crate::error::CommandError;
use crate::session::{Session, strange};
use crate::spinner::progress_label;
use crate::wrap::Screen;
use crate::{format, output, style};

/// A complete answer, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Answer {
    text: String,
    job: JobId,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<SessionName>,
    model: String,
    finish_reason: FinishReason,
    usage: Usage,
    timings: Timings,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    output: Vec<Output>,
}

/// What is known about an answer in advance, and how to show it.
#[derive(Debug, Default)]
pub(crate) struct Expected<'a> {
    /// Print one object at the end instead of streaming text.
    pub(crate) json: bool,
    /// The session that the answer belongs to.
    pub(crate) session: Option<&'a SessionName>,
    /// How to undo the turn: part of the hint if the answer is cut.
    pub(crate) undo: Option<String>,
    /// The limit on its tokens, if known.
    pub(crate) most_tokens: Option<u32>,
    /// The user set that limit on the command line, and need not be told of it.
    pub(crate) bounded: bool,
}

/// Returns the limit on an answer's tokens: `asked`, or else the default of the workspace.
pub(crate) fn most_tokens(
    home: &Home,
    workspace: Option<&WorkspaceName>,
    asked: Option<u32>,
) -> Result<Option<u32>, Failure> {
    if asked.is_some() {
        return Ok(asked);
    }
    let defaults = home.config()?.workspace(home, workspace)?.defaults;
    Ok(defaults.or(&Parameters::DEFAULT).max_tokens)
}

/// Tells the user that an answer was cut, why, and what to do about it; nothing with `--quiet`.
fn tell_cut(end: &EndFrame, expected: &Expected<'_>) {
    if output::is_quiet() {
        return;
    }
    let said = end.usage.completion_tokens;
    let (why, what_to_do) = match (end.finish_reason, expected.most_tokens) {
        (
            FinishReason::Stop
            | FinishReason::ToolCalls
            | FinishReason::Canceled
            | FinishReason::Unknown,
            _,
        ) => return,
        (FinishReason::Repetition, _) => {
            ("it only repeated itself".to_owned(), Some("`--repeat-limit 0` turns this check off"))
        }
        (FinishReason::Length, None) => {
            ("it reached max_tokens or the end of the context".to_owned(), None)
        }
        (FinishReason::Length, Some(most)) if said >= most && expected.bounded => return,
        (FinishReason::Length, Some(most)) if said >= most => (
            "it reached max_tokens".to_owned(),
            Some("raise `--max-tokens`, or `max_tokens` in [defaults] of config.toml"),
        ),
        (FinishReason::Length, Some(_)) => (
            format!("the context is full (prompt tokens: {})", end.usage.prompt_tokens),
            Some("raise `context` in [engine] of config.toml"),
        ),
    };
    output::say(&format!("threadrunner: the answer was cut after {said} tokens: {why}"));
    let hints: Vec<_> = what_to_do.into_iter().chain(expected.undo.as_deref()).collect();
    if !hints.is_empty() {
        output::hint(&hints.join("; "));
    }
}

/// Tells the user that a turn without an answer is not part of its session.
pub(crate) fn tell_void(error: &CommandError, name: &SessionName) {
    let void = match error {
        CommandError::Interrupted | CommandError::ReaderGone => true,
        // The job may still be on disk, where the next daemon finds it and answers it.
        CommandError::Failed { failure, .. } => {
            !matches!(failure.code, ErrorCode::ConnectionLost | ErrorCode::ShuttingDown)
        }
        CommandError::Silent(_) => false,
    };
    if void {
        output::remark(&format!("threadrunner: this turn is not part of session '{name}'"));
    }
}

/// Shows the answer in `replies`, as streamed text or as one object at the end. Returns the job.
pub(crate) async fn show_answer(
    session: &mut Session,
    mut replies: Replies,
    expected: Expected<'_>,
) -> Result<JobId, CommandError> {
    // The label until the first event.
    session.spinner.set("waiting".to_owned());
    let json = expected.json;
    let markdown = style::on_stdout() && !session.plain;
    let mut printer = Printer { json, screen: Screen::new(markdown), ..Printer::default() };
    let end = match read(session, &mut replies, &mut printer).await {
        Ok(end) => end,
        Err(error) => {
            session.spinner.end();
            printer.leave_line();
            return Err(match error {
                CommandError::Failed { failure, job } => {
                    CommandError::Failed { failure, job: job.or_else(|| replies.job().cloned()) }
                }
                other => other,
            });
        }
    };
    session.spinner.end();
    let canceled = end.finish_reason == FinishReason::Canceled;
    let job = end.job.clone();
    let measured = session.verbose.then(|| measured(&end));
    printer.finish(session, end, &expected).await?;
    if let Some(measured) = measured {
        output::say(&measured);
    }
    if canceled {
        let failure = Failure::new(ErrorCode::Canceled, format!("job {job} was canceled"));
        // With `--json`, the printed object already says so.
        return Err(match json {
            true => CommandError::Silent(ExitCode::Failed),
            false => failure.into(),
        });
    }
    Ok(job)
}

async fn read(
    session: &mut Session,
    replies: &mut Replies,
    printer: &mut Printer,
) -> Result<EndFrame, CommandError> {
    loop {
        match session.attempt(replies.next()).await? {
            ReplyBody::Token { mut token, .. } => {
                // Write all text that has already arrived at once.
                replies.add_ready_text(&mut token);
                printer.add(session, token).await?;
            }
            ReplyBody::End(end) => return Ok(*end),
            ReplyBody::Event(progress) => {
                if let Progress::Restarted { reason } = &progress {
                    printer.start_again(session, reason).await?;
                }
                if let Some(label) = progress_label(&progress) {
                    session.spinner.set(label);
                }
            }
            ReplyBody::Data { .. } | ReplyBody::Error(_) | ReplyBody::Unknown(_) => {
                return Err(strange("a value where text was expected"));
            }
        }
    }
}

/// Formats how long an answer took and how fast it was, for `--verbose`.
fn measured(end: &EndFrame) -> String {
    let (usage, timings) = (&end.usage, &end.timings);
    let rate = |tokens: u32, ms: f64| match tokens {
        0 => String::new(),
        _ if ms <= 0.0 => String::new(),
        tokens => format!(", {:.1} tokens/s", f64::from(tokens) * 1e3 / ms),
    };
    let first = format::seconds((timings.queue_ms + timings.prefill_ms) / 1e3);
    let read = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
    let cached = match usage.cached_tokens {
        0 => String::new(),
        cached => format!(" and {cached} from the cache"),
    };
    // The time of the first token counts as prefill.
    let decoded = usage.completion_tokens.saturating_sub(1);
    format!(
        "{}: first token after {first}; {read} tokens read{cached} in {}{}; {} tokens in {}{}; {} in all",
        format::one_line(&end.model),
        format::seconds(timings.prefill_ms / 1e3),
        rate(read, timings.prefill_ms),
        usage.completion_tokens,
        format::seconds(timings.decode_ms / 1e3),
        rate(decoded, timings.decode_ms),
        format::seconds(timings.total_ms / 1e3),
    )
}

/// Prints or collects the text of an answer.
#[derive(Default)]
struct Printer {
    json: bool,
    /// With `json`, the text so far.
    text: String,
    /// The last character printed.
    last: Option<char>,
    /// Wraps and styles the text for a terminal.
    screen: Screen,
}

impl Printer {
    async fn add(&mut self, session: &mut Session, token: String) -> Result<(), CommandError> {
        if self.json {
            session.spinner.set("answering".to_owned());
            self.text.push_str(&token);
            return Ok(());
        }
        session.spinner.end();
        self.last = token.chars().next_back().or(self.last);
        let shown = match output::width() {
            Some(columns) => self.screen.push(&token, columns),
            None => token,
        };
        session.attempt(output::print_patiently(&shown)).await
    }

    /// Discards the text so far. Printed text cannot be taken back, so the user is told.
    async fn start_again(&mut self, session: &mut Session, why: &str) -> Result<(), CommandError> {
        self.text.clear();
        if self.last.is_some() {
            self.end_line(session).await?;
            output::say(&format!("threadrunner: ignore the text printed so far: {why}"));
        }
        Ok(())
    }

    /// Ends the text with a newline, so that output redirected to a file is a proper text file.
    async fn end_line(&mut self, session: &mut Session) -> Result<(), CommandError> {
        if let Some(columns) = output::width() {
            let held = self.screen.finish(columns);
            session.attempt(output::print_patiently(&held)).await?;
        }
        if self.last.is_some_and(|last| last != '\n') {
            session.attempt(output::print_patiently("\n")).await?;
            self.last = Some('\n');
            self.screen = Screen::new(self.screen.sets_off());
        }
        Ok(())
    }

    /// Moves a terminal to a new line, so that the next message starts there.
    fn leave_line(&mut self) {
        if let Some(columns) = output::width() {
            // Styles that are still open must not apply to what follows.
            let _ = output::print(&self.screen.finish(columns));
        }
        if self.last.is_some_and(|last| last != '\n') && io::stdout().is_terminal() {
            output::say("");
            self.last = Some('\n');
        }
    }

    async fn finish(
        mut self,
        session: &mut Session,
        end: EndFrame,
        expected: &Expected<'_>,
    ) -> Result<(), CommandError> {
        if self.json {
            let answer = Answer {
                text: self.text,
                job: end.job,
                session: expected.session.cloned(),
                model: end.model,
                finish_reason: end.finish_reason,
                usage: end.usage,
                timings: end.timings,
                output: end.output,
            };
            return Ok(output::print_json(&answer)?);
        }
        self.end_line(session).await?;
        session.attempt(output::print_patiently(&output::lines_of(&end.output))).await?;
        tell_cut(&end, expected);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use threadrunner_core::JobId;

    #[test]
    fn what_was_measured_is_told_in_one_line() {
        let mut end = EndFrame {
            token: (),
            eos: true,
            job: JobId::parse("1").unwrap(),
            model: "small".into(),
            finish_reason: FinishReason::Stop,
            usage: Usage {
                prompt_tokens: 50,
                completion_tokens: 41,
                cached_tokens: 10,
                restored_tokens: 0,
            },
            timings: Timings {
                queue_ms: 100.0,
                prefill_ms: 400.0,
                decode_ms: 2000.0,
                total_ms: 2600.0,
                ..Timings::default()
            },
            output: Vec::new(),
        };
        assert_eq!(
            measured(&end),
            "small: first token after 0.5 s; 40 tokens read and 10 from the cache in 0.4 s, \
             100.0 tokens/s; 41 tokens in 2.0 s, 20.0 tokens/s; 2.6 s in all"
        );
        (end.usage, end.timings) = (Usage::default(), Timings::default());
        assert_eq!(
            measured(&end),
            "small: first token after 0 ms; 0 tokens read in 0 ms; 0 tokens in 0 ms; 0 ms in all"
        );
    }
}
