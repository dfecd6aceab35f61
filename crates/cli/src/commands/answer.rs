//! An answer as it comes: printed, or gathered.

use std::io::{self, IsTerminal};

use serde::Serialize;
use threadrunner_client::Replies;
use threadrunner_core::protocol::{EndFrame, Progress, ReplyBody};
use threadrunner_core::{
    ErrorCode, ExitCode, Failure, FinishReason, JobId, Parameters, SessionName, Timings, Usage,
};
use threadrunner_home::{Config, Home};

use crate::app::{Session, strange};
use crate::error::CommandError;
use crate::spinner::progress_label;
use crate::wrap::Screen;
use crate::{format, output, style};

/// A whole answer, as `--json` prints it.
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
}

/// What is known of an answer before it comes, and how it is shown.
#[derive(Debug, Default)]
pub(crate) struct Expected<'a> {
    /// As one object at its end.
    pub(crate) json: bool,
    /// The conversation that it is part of.
    pub(crate) session: Option<&'a SessionName>,
    /// How to take it back from there.
    pub(crate) undo: Option<String>,
    /// The most tokens that it may have, where that is known.
    pub(crate) most_tokens: Option<u32>,
}

/// The most tokens that an answer may have, which was asked for with so many.
pub(crate) fn most_tokens(
    home: &Home,
    workspace: Option<&str>,
    asked: Option<u32>,
) -> Result<Option<u32>, Failure> {
    if asked.is_some() {
        return Ok(asked);
    }
    let defaults = Config::load(home)?.workspace(home, workspace)?.defaults;
    Ok(defaults.or(&Parameters::DEFAULT).max_tokens)
}

/// Says that an answer was cut, why, and what to do about it.
fn tell_cut(end: &EndFrame, expected: &Expected<'_>) {
    let said = end.usage.completion_tokens;
    let (why, what_to_do) = match (end.finish_reason, expected.most_tokens) {
        (FinishReason::Stop | FinishReason::Canceled | FinishReason::Unknown, _) => return,
        (FinishReason::Repetition, _) => {
            ("it only repeated itself".to_owned(), Some("--repeat-limit 0 lets it go on"))
        }
        (FinishReason::Length, None) => {
            ("max_tokens or the end of the context was reached".to_owned(), None)
        }
        (FinishReason::Length, Some(most)) if said >= most => (
            "it may have no more".to_owned(),
            Some("--max-tokens, or `max_tokens` in [defaults] of config.toml, allows more"),
        ),
        (FinishReason::Length, Some(_)) => (
            format!("with the {} of the prompt, the context is full", end.usage.prompt_tokens),
            Some("`context` in [engine] of config.toml makes it larger"),
        ),
    };
    output::say(&format!("threadrunner: the answer was cut after {said} tokens: {why}"));
    let hints: Vec<_> = what_to_do.into_iter().chain(expected.undo.as_deref()).collect();
    if !hints.is_empty() {
        output::hint(&hints.join("; "));
    }
}

/// Says that a turn which was not answered is not part of its conversation.
pub(crate) fn tell_void(error: &CommandError, name: &SessionName) {
    let void = match error {
        CommandError::Interrupted | CommandError::ReaderGone => true,
        // What the daemon keeps, the next one may answer.
        CommandError::Failed { failure, .. } => {
            !matches!(failure.code, ErrorCode::ConnectionLost | ErrorCode::ShuttingDown)
        }
        CommandError::Silent(_) => false,
    };
    if void {
        output::say(&format!("threadrunner: this turn is not part of session '{name}'"));
    }
}

/// Shows the answer in `replies`: text as it comes, or one object at its end. Returns the job.
pub(crate) async fn show_answer(
    session: &mut Session,
    mut replies: Replies,
    expected: Expected<'_>,
) -> Result<JobId, CommandError> {
    // Until an event says more.
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
        // With --json, the object that was printed says it.
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
        match session.attend(replies.next()).await?? {
            ReplyBody::Token { mut token, .. } => {
                // What one read brought is one write.
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
            ReplyBody::Data { .. } | ReplyBody::Error(_) | ReplyBody::Unknown {} => {
                return Err(strange("a value where text was expected"));
            }
        }
    }
}

/// How long it took, and how fast it was.
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
    // The first token is the prompt's, by the clock.
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

/// Where text goes.
#[derive(Default)]
struct Printer {
    json: bool,
    /// With `json`, all of it.
    text: String,
    /// The last character printed.
    last: Option<char>,
    /// How it is shown on a terminal.
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
        Ok(session.attend(output::print_patiently(&shown)).await??)
    }

    /// What came so far is void. What is printed cannot be unprinted, so it is said.
    async fn start_again(&mut self, session: &mut Session, why: &str) -> Result<(), CommandError> {
        self.text.clear();
        if self.last.is_some() {
            self.end_line(session).await?;
            output::say(&format!("threadrunner: what was printed so far is void: {why}"));
        }
        Ok(())
    }

    /// Text files end with a newline, also those that a shell makes of an answer.
    async fn end_line(&mut self, session: &mut Session) -> Result<(), CommandError> {
        if let Some(columns) = output::width() {
            let held = self.screen.finish(columns);
            session.attend(output::print_patiently(&held)).await??;
        }
        if self.last.is_some_and(|last| last != '\n') {
            session.attend(output::print_patiently("\n")).await??;
            self.last = Some('\n');
            self.screen = Screen::new(self.screen.sets_off());
        }
        Ok(())
    }

    /// Lets what is said next on a terminal begin on a line of its own.
    fn leave_line(&mut self) {
        if let Some(columns) = output::width() {
            // Whatever was set off is not to be for what follows.
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
            };
            return Ok(output::print_json(&answer)?);
        }
        self.end_line(session).await?;
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
