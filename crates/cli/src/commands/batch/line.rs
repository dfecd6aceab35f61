//! Reads a line of the input: a [`Label`], under which it is answered, and what it asks for.

use serde_json::{Map, Value};
use threadrunner_core::protocol::{Submission, explain};
use threadrunner_core::{ErrorCode, Failure};

use super::input::Line;
use super::openai;

/// The keys of a line in ThreadRunner's own format: those of a submission, and `id`.
const KEYS: [&str; 32] = [
    "id",
    "prompt",
    "messages",
    "system",
    "raw",
    "stream",
    "detach",
    "backend",
    "model",
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "repeat_limit",
    "seed",
    "stop",
    "priority",
    "timeout_s",
    "tags",
    "parent",
    "after",
    "after_any",
    "max_attempts",
    "on_done",
    "workspace",
    "draft",
    "keep_alive",
    "template",
    "template_bytes",
    "session",
];

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

/// What a line asks for, and the keys in it that are unknown.
#[derive(Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) submission: Submission,
    pub(super) unknown: Vec<String>,
}

/// Reads a line. Even a bad line gets a label to be answered under.
pub(super) fn read(line: &Line) -> (Label, Result<Asked, Failure>) {
    let unnamed = Label::unnamed(Form::Own, Value::Null, line.number);
    let Some(bytes) = &line.bytes else {
        let limit = threadrunner_core::MAX_FRAME_BYTES >> 20;
        return (unnamed, Err(invalid(format!("the line is longer than {limit} MiB"))));
    };
    let object: Map<String, Value> = match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return (unnamed, Err(invalid("the line is not a JSON object".to_owned()))),
        Err(error) => {
            // serde's line number is always 1, which would only confuse.
            let said = error.to_string();
            let said = said.split(" at line ").next().unwrap_or_default();
            let message = format!("the line is not JSON: {said} at byte {}", error.column());
            return (unnamed, Err(invalid(message)));
        }
    };
    if openai::is_one(&object) {
        openai::read(object, line.number)
    } else {
        own(object, line.number)
    }
}

fn own(mut object: Map<String, Value>, line: u64) -> (Label, Result<Asked, Failure>) {
    object.retain(|_, value| !value.is_null());
    let label = match object.remove("id") {
        None => Label::unnamed(Form::Own, line, line),
        Some(id) if id.is_string() || id.is_number() => {
            Label::unnamed(Form::Own, line, line).named(id)
        }
        Some(_) => {
            let label = Label::unnamed(Form::Own, Value::Null, line);
            return (label, Err(invalid("\"id\" is neither a string nor a number".to_owned())));
        }
    };
    if let Some(Value::Array(messages)) = object.get_mut("messages") {
        for message in messages {
            match openai::message(message.take()) {
                Ok(read) => *message = read,
                Err(failure) => return (label, Err(failure)),
            }
        }
    }
    let unknown = object.keys().filter(|key| !KEYS.contains(&key.as_str())).cloned().collect();
    let asked =
        submission(object).and_then(has_prompt).map(|submission| Asked { submission, unknown });
    (label, asked)
}

/// Builds a submission from its keys.
pub(super) fn submission(object: Map<String, Value>) -> Result<Submission, Failure> {
    serde_json::from_value(Value::Object(object.clone()))
        .map_err(|error| invalid(explain::<Submission>(&object, &error)))
}

fn has_prompt(submission: Submission) -> Result<Submission, Failure> {
    if submission.prompt.trim().is_empty() && submission.messages.is_empty() {
        let message = "the line has neither a \"prompt\" nor \"messages\"";
        return Err(Failure::new(ErrorCode::EmptyPrompt, message));
    }
    Ok(submission)
}

/// An error in a line.
pub(super) fn invalid(message: String) -> Failure {
    Failure::new(ErrorCode::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_text(text: &str) -> (Label, Result<Asked, Failure>) {
        read(&Line { number: 7, bytes: Some(text.as_bytes().to_vec()) })
    }

    #[test]
    fn a_line_has_an_id_and_the_keys_of_a_submission() {
        let (label, asked) = read_text(
            r#"{"id":"a","prompt":"Hello","max_tokens":5.0,"tags":["x"],"colour":"blue","system":null}"#,
        );
        assert_eq!((label.id, label.line), (json!("a"), 7));
        let asked = asked.unwrap();
        assert_eq!(asked.submission.prompt, "Hello");
        assert_eq!(asked.submission.params.max_tokens, Some(5));
        assert_eq!(asked.unknown, ["colour"]);
    }

    #[test]
    fn a_line_without_an_id_is_known_by_its_number() {
        let (label, _) = read_text(r#"{"prompt":"Hello"}"#);
        assert_eq!((label.number(), &label.id), (Some(7), &json!(7)));
        // Another line may have that number as its id.
        for id in ["\"7\"", "7", "7.0"] {
            let (named, _) = read_text(&format!(r#"{{"id":{id},"prompt":"Hello"}}"#));
            assert_eq!((named.key().as_str(), named.number()), ("7", None));
            assert_ne!(named.key(), label.key());
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_has_no_id() {
        for text in ["oops", "[1]", r#"{"id":{},"prompt":"x"}"#, r#"{"id":true,"prompt":"x"}"#] {
            let (label, asked) = read_text(text);
            assert!(asked.is_err());
            assert_eq!((label.id, label.named), (Value::Null, false), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        for (text, said) in [
            ("{", "not JSON: EOF while parsing an object at byte 1"),
            ("[1]", "not a JSON object"),
            (r#"{"id":"a"}"#, "neither a \"prompt\""),
            (r#"{"prompt":" "}"#, "neither a \"prompt\""),
            (r#"{"prompt":5}"#, "\"prompt\": must be a text, not 5"),
            (r#"{"prompt":"x","max_tokens":"many"}"#, "\"max_tokens\": must be a whole number"),
            (r#"{"prompt":"x","max_tokens":-1}"#, "\"max_tokens\": -1 is not between"),
            (
                r#"{"prompt":"x","messages":[{"role":"cat","content":""}]}"#,
                "there is no role \"cat\"",
            ),
            (r#"{"id":[],"prompt":"x"}"#, "\"id\" is neither"),
        ] {
            let (label, asked) = read_text(text);
            let failure = asked.unwrap_err();
            assert!(failure.message.contains(said), "{text}: {failure}");
            assert_eq!(label.line, 7);
        }
        let (_, asked) = read(&Line { number: 7, bytes: None });
        assert!(asked.unwrap_err().message.contains("64 MiB"));
    }

    #[test]
    fn every_key_of_a_submission_is_known() {
        let mut object: Map<String, Value> =
            KEYS.iter().map(|&key| (key.to_owned(), Value::Null)).collect();
        for (key, value) in [
            ("prompt", json!("x")),
            ("messages", json!([{"role": "user", "content": "x"}])),
            ("raw", json!(true)),
            ("detach", json!(true)),
            ("tags", json!(["x"])),
            ("stop", json!(["x"])),
            ("after", json!(["1"])),
            ("after_any", json!(true)),
            ("parent", json!("1")),
            ("priority", json!("batch")),
            ("backend", json!("dummy")),
            ("on_done", json!("/x")),
            ("stream", json!(true)),
            ("template", json!(true)),
            ("keep_alive", json!("1m")),
        ] {
            object.insert(key.to_owned(), value);
        }
        for key in ["system", "model", "workspace", "draft", "session"] {
            object.insert(key.to_owned(), json!("x"));
        }
        for value in object.values_mut().filter(|value| value.is_null()) {
            *value = json!(1);
        }
        object.remove("id");
        // A key that a submission does not know would be missing here.
        let back = serde_json::to_value(submission(object.clone()).unwrap()).unwrap();
        for key in object.keys() {
            assert!(back.get(key).is_some(), "{key}");
        }
    }
}
