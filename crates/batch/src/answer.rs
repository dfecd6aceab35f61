//! Formats output lines: an answer or an error, in the format of the input line.

use serde::Serialize;
use serde_json::Value;
use threadrunner_core::protocol::EndFrame;
use threadrunner_core::{ErrorCode, Failure, FinishReason, JobId, Output, Timings, Usage};

use crate::label::{Form, Label};
use crate::openai::result::{Body, Completion, ErrorBody, LineError, Response, ResultLine, status};

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
    #[serde(skip_serializing_if = "<[Output]>::is_empty")]
    output: &'a [Output],
}

#[derive(Serialize)]
struct Failed<'a> {
    id: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    error: Reason<'a>,
}

/// Why a line was not answered.
#[derive(Serialize)]
struct Reason<'a> {
    code: ErrorCode,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<&'a JobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate_of: Option<u64>,
}

/// Formats the output line of an answer. `created` is in seconds since 1970.
pub(crate) fn answered(label: &Label, text: &str, end: &EndFrame, created: u64) -> Vec<u8> {
    match label.form {
        Form::OpenAi(endpoint) => to_line(&ResultLine {
            custom_id: &label.id,
            error: None,
            id: format!("batch_req_{}", end.job),
            line: label.number(),
            response: Response {
                body: Body::Completion(Completion::new(endpoint, text, end, created)),
                request_id: Some(&end.job),
                status_code: 200,
            },
        }),
        Form::Own => to_line(&Answer {
            id: &label.id,
            line: label.number(),
            text,
            job: &end.job,
            model: &end.model,
            finish_reason: end.finish_reason,
            usage: end.usage,
            timings: end.timings,
            output: &end.output,
        }),
    }
}

/// Formats the output line of a line that was not answered.
pub(crate) fn failed(
    label: &Label,
    failure: &Failure,
    job: Option<&JobId>,
    duplicate_of: Option<u64>,
) -> Vec<u8> {
    let (code, message, hint) = (failure.code, &failure.message, failure.hint.as_deref());
    let line = label.line;
    match label.form {
        Form::OpenAi(_) => to_line(&ResultLine {
            custom_id: &label.id,
            error: Some(LineError { code, duplicate_of, hint, job, line, message }),
            id: format!("batch_req_line_{line}"),
            line: label.number(),
            response: Response {
                body: Body::Error(ErrorBody::new(failure)),
                request_id: job,
                status_code: status(code),
            },
        }),
        Form::Own => to_line(&Failed {
            id: &label.id,
            line: label.number(),
            error: Reason { code, message, hint, line, job, duplicate_of },
        }),
    }
}

fn to_line(value: &impl Serialize) -> Vec<u8> {
    // Cannot fail: it is plain data with string keys.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests;
