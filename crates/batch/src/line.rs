//! Reads a line of the input: a [`Label`], under which it is answered, and what it asks for.

use std::mem;

use serde_json::{Map, Value};
use threadrunner_core::protocol::Submission;
use threadrunner_core::{ErrorCode, Failure};

use crate::input::Line;
use crate::known_keys::KnownKeys;
use crate::label::{Asked, Form, Label, invalid, submission};
use crate::openai::read as openai;

/// The key of a submission that a line has no say in: the batch chooses the jobs' ids.
const CHOSEN_HERE: &str = "job";

/// Reads the lines of a batch, in any format.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    keys: KnownKeys<Submission>,
}

impl Reader {
    /// Reads a line. Even a bad line gets a label to be answered under.
    pub(crate) fn read(&mut self, line: &Line) -> (Label, Result<Asked, Failure>) {
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
            self.own(object, line.number)
        }
    }

    fn own(
        &mut self,
        mut object: Map<String, Value>,
        line: u64,
    ) -> (Label, Result<Asked, Failure>) {
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
        let asked = self.asked(object);
        (label, asked)
    }

    fn asked(&mut self, mut object: Map<String, Value>) -> Result<Asked, Failure> {
        // A conversation may be written as OpenAI's clients write it.
        let messages = match object.get_mut("messages") {
            Some(Value::Array(messages)) => mem::take(messages),
            _ => Vec::new(),
        };
        let messages = messages
            .into_iter()
            .map(|message| openai::message(serde_json::from_value(message).unwrap_or_default()))
            .collect::<Result<_, _>>()?;
        let keys = object.keys();
        let unknown = keys.filter(|key| *key == CHOSEN_HERE || !self.keys.reads(key));
        let unknown = unknown.cloned().collect();
        let submission = has_prompt(Submission { messages, ..submission(object)? })?;
        Ok(Asked { submission, unknown })
    }
}

fn has_prompt(submission: Submission) -> Result<Submission, Failure> {
    if submission.prompt.trim().is_empty() && submission.messages.is_empty() {
        let message = "the line has neither a \"prompt\" nor \"messages\"";
        return Err(Failure::new(ErrorCode::EmptyPrompt, message));
    }
    Ok(submission)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_text(text: &str) -> (Label, Result<Asked, Failure>) {
        Reader::default().read(&Line { number: 7, bytes: Some(text.as_bytes().to_vec()) })
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
        let (_, asked) = Reader::default().read(&Line { number: 7, bytes: None });
        assert!(asked.unwrap_err().message.contains("64 MiB"));
    }

    #[test]
    fn keys_that_change_nothing_are_named() {
        let line = r#"{"id":1,"prompt":"x","session":"trip","replaces":"1","repeat_limit":64,
            "job":"2","colour":"blue"}"#;
        let (_, asked) = read_text(line);
        assert_eq!(asked.unwrap().unknown, ["colour", "job"]);
    }
}
