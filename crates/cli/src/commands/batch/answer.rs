//! Formats output lines: an answer or an error, in the format of the input line.

use serde::Serialize;
use serde_json::Value;
use threadrunner_core::protocol::EndFrame;
use threadrunner_core::{Failure, FinishReason, JobId, Timings, Usage};

use super::label::{ErrorOut, Form, Label};
use super::openai;

#[derive(Serialize)]
struct Answer<'a> {
    id: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    text: &'a str,
    job: &'a JobId,
    model: &'a str,
    finish_reason: FinishReason,
    usage: Usage,
    timings: Timings,
}

#[derive(Serialize)]
struct Failed<'a> {
    id: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    error: &'a ErrorOut<'a>,
}

/// Formats the output line of an answer. `created` is in seconds since 1970.
pub(super) fn answered(label: &Label, text: &str, end: &EndFrame, created: u64) -> Vec<u8> {
    match label.form {
        Form::Chat | Form::Completion => to_line(&openai::answered(label, text, end, created)),
        Form::Own => to_line(&Answer {
            id: &label.id,
            line: label.number(),
            text,
            job: &end.job,
            model: &end.model,
            finish_reason: end.finish_reason,
            usage: end.usage,
            timings: end.timings,
        }),
    }
}

/// Formats the output line of a line that was not answered.
pub(super) fn failed(
    label: &Label,
    failure: &Failure,
    job: Option<&JobId>,
    duplicate_of: Option<u64>,
) -> Vec<u8> {
    let error = ErrorOut {
        code: failure.code,
        message: &failure.message,
        hint: failure.hint.as_deref(),
        line: label.line,
        job,
        duplicate_of,
    };
    match label.form {
        Form::Chat | Form::Completion => to_line(&openai::failed(label, &error)),
        Form::Own => to_line(&Failed { id: &label.id, line: label.number(), error: &error }),
    }
}

fn to_line(value: &impl Serialize) -> Vec<u8> {
    // Cannot fail: it is plain data with string keys.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}
