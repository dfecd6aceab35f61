//! Identifies a line of a batch, and holds what it asks for, in any format.

use serde::Serialize;
use serde_json::{Map, Value};
use threadrunner_core::protocol::{Submission, explain};
use threadrunner_core::{ErrorCode, Failure, JobId};

/// The format of a line, and so of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// ThreadRunner's own.
    Own,
    /// OpenAI's `/v1/chat/completions`.
    Chat,
    /// OpenAI's `/v1/completions`.
    Completion,
}

/// Tells which line of the input a line of the output answers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Label {
    pub(super) form: Form,
    /// `id` or `custom_id` as given in the input. Without one, the line's number; null if the line
    /// cannot be read.
    pub(super) id: Value,
    /// Whether the input gave the id.
    pub(super) named: bool,
    /// The line's number.
    pub(super) line: u64,
}

impl Label {
    /// The label of a line without an id of its own.
    pub(super) fn unnamed(form: Form, id: impl Into<Value>, line: u64) -> Self {
        Self { form, id: id.into(), named: false, line }
    }

    /// Gives the label the line's own id.
    pub(super) fn named(self, id: Value) -> Self {
        Self { id, named: true, ..self }
    }

    /// The line's number, if nothing else identifies it.
    pub(super) fn number(&self) -> Option<u64> {
        (!self.named).then_some(self.line)
    }

    /// The key that tells this line from others.
    pub(super) fn key(&self) -> String {
        match self.number() {
            Some(number) => key_of_number(number),
            None => key(&self.id),
        }
    }
}

/// The key of a line with an id: 5, 5.0 and "5" are the same.
pub(super) fn key(id: &Value) -> String {
    match id {
        Value::String(text) => text.clone(),
        other => {
            let text = other.to_string();
            text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
        }
    }
}

/// The key of a line without an id. The NUL keeps it apart from lines that have the number as their
/// id.
pub(super) fn key_of_number(line: u64) -> String {
    format!("\0line {line}")
}

/// What a line asks for, and the keys in it that have no effect.
#[derive(Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) submission: Submission,
    pub(super) unknown: Vec<String>,
}

/// Why a line was not answered, as written to the output.
#[derive(Serialize)]
pub(super) struct ErrorOut<'a> {
    pub(super) code: ErrorCode,
    pub(super) message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hint: Option<&'a str>,
    pub(super) line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) job: Option<&'a JobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) duplicate_of: Option<u64>,
}

/// Builds a submission from its keys.
pub(super) fn submission(object: Map<String, Value>) -> Result<Submission, Failure> {
    serde_json::from_value(Value::Object(object.clone()))
        .map_err(|error| invalid(explain::<Submission>(&object, &error)))
}

/// An error in a line.
pub(super) fn invalid(message: String) -> Failure {
    Failure::new(ErrorCode::InvalidRequest, message)
}
