//! Identifies a line of a batch, and holds what it asks for, in any format.

use serde_json::{Map, Value};
use threadrunner_core::protocol::{Submission, explain};
use threadrunner_core::{ErrorCode, Failure};

use crate::openai::request::Endpoint;

/// The format of a line, and so of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// ThreadRunner's own.
    Own,
    /// OpenAI's.
    OpenAi(Endpoint),
}

/// Tells which line of the input a line of the output answers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Label {
    pub(crate) form: Form,
    /// `id` or `custom_id` as given in the input. Without one, the line's number; null if the line
    /// cannot be read.
    pub(crate) id: Value,
    /// Whether the input gave the id.
    pub(crate) named: bool,
    /// The line's number.
    pub(crate) line: u64,
}

impl Label {
    /// The label of a line without an id of its own.
    pub(crate) fn unnamed(form: Form, id: impl Into<Value>, line: u64) -> Self {
        Self { form, id: id.into(), named: false, line }
    }

    /// Gives the label the line's own id.
    pub(crate) fn named(self, id: Value) -> Self {
        Self { id, named: true, ..self }
    }

    /// The line's number, if nothing else identifies it.
    pub(crate) fn number(&self) -> Option<u64> {
        (!self.named).then_some(self.line)
    }

    /// The key that tells this line from others.
    pub(crate) fn key(&self) -> String {
        match self.number() {
            Some(number) => key_of_number(number),
            None => key(&self.id),
        }
    }
}

/// The key of a line with an id: 5, 5.0 and "5" are the same.
pub(crate) fn key(id: &Value) -> String {
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
pub(crate) fn key_of_number(line: u64) -> String {
    format!("\0line {line}")
}

/// What a request asks for.
#[derive(Debug, PartialEq)]
pub struct Asked {
    /// The submission.
    pub submission: Submission,
    /// The keys of the request that have no effect, in alphabetical order.
    pub unknown: Vec<String>,
}

/// Builds a submission from its keys.
pub(crate) fn submission(object: Map<String, Value>) -> Result<Submission, Failure> {
    serde_json::from_value(Value::Object(object.clone()))
        .map_err(|error| invalid(explain::<Submission>(&object, &error)))
}

/// An error in a line.
pub(crate) fn invalid(message: String) -> Failure {
    Failure::new(ErrorCode::InvalidRequest, message)
}
