//! OpenAI's batch format: reads its requests, and formats answers as its clients expect them.

use serde_json::{Map, Value, json};
use threadrunner_core::protocol::{EndFrame, reads_key};
use threadrunner_core::{ErrorCode, Failure, FinishReason, Parameters};

use super::label::{Asked, ErrorOut, Form, Label, invalid, submission};

/// Keys of a body that are ignored without a warning: none of them changes the answer.
const HARMLESS: [&str; 5] = ["stream", "stream_options", "user", "metadata", "store"];

/// Whether a line is in this format.
pub(super) fn is_one(object: &Map<String, Value>) -> bool {
    object.contains_key("custom_id") || (object.contains_key("body") && object.contains_key("url"))
}

/// Reads a line in this format.
pub(super) fn read(mut object: Map<String, Value>, line: u64) -> (Label, Result<Asked, Failure>) {
    let unnamed = |id: Value| Label::unnamed(Form::Chat, id, line);
    let mut label = match object.remove("custom_id") {
        Some(id @ Value::String(_)) => unnamed(Value::Null).named(id),
        None | Some(Value::Null) => unnamed(line.to_string().into()),
        Some(_) => {
            let label = unnamed(Value::Null);
            return (label, Err(invalid("\"custom_id\" is not a string".to_owned())));
        }
    };
    match object.get("method").map(Value::as_str) {
        None | Some(Some("POST")) => {}
        Some(_) => return (label, Err(invalid("\"method\" is not \"POST\"".to_owned()))),
    }
    match object.get("url").and_then(Value::as_str) {
        Some("/v1/chat/completions") => {}
        Some("/v1/completions") => label.form = Form::Completion,
        _ => {
            let said = "\"url\" is neither \"/v1/chat/completions\" nor \"/v1/completions\"";
            return (label, Err(invalid(said.to_owned())));
        }
    }
    let Some(Value::Object(body)) = object.remove("body") else {
        return (label, Err(invalid("\"body\" is not an object".to_owned())));
    };
    let form = label.form;
    (label, read_body(body, form))
}

fn read_body(mut body: Map<String, Value>, form: Form) -> Result<Asked, Failure> {
    body.retain(|_, value| !value.is_null());
    let mut keys = Map::new();
    match form {
        Form::Completion => {
            let prompt = match body.remove("prompt") {
                Some(Value::Array(mut one)) if one.len() == 1 => one.remove(0),
                Some(prompt) => prompt,
                None => Value::Null,
            };
            let Value::String(prompt) = prompt else {
                return Err(invalid("\"prompt\" is not a single string".to_owned()));
            };
            if prompt.is_empty() {
                return Err(Failure::new(ErrorCode::EmptyPrompt, "\"prompt\" is empty"));
            }
            keys.insert("prompt".to_owned(), prompt.into());
            keys.insert("raw".to_owned(), true.into());
        }
        Form::Chat | Form::Own => {
            let Some(Value::Array(messages)) = body.remove("messages") else {
                return Err(invalid("\"messages\" is not a list".to_owned()));
            };
            if messages.is_empty() {
                return Err(Failure::new(ErrorCode::EmptyPrompt, "\"messages\" is empty"));
            }
            let messages: Result<Vec<_>, _> = messages.into_iter().map(message).collect();
            keys.insert("messages".to_owned(), messages?.into());
        }
    }
    // Sampling options have the same names.
    body.retain(|key, value| {
        let same = reads_key::<Parameters>(key);
        if same {
            keys.insert(key.clone(), value.take());
        }
        !same
    });
    // The newer name of `max_tokens`, which wins.
    if let Some(most) = body.remove("max_completion_tokens") {
        keys.insert("max_tokens".to_owned(), most);
    }
    if let Some(model) = body.remove("model") {
        keys.insert("model".to_owned(), model);
    }
    // OpenAI accepts 0, which leaves only the likeliest token.
    if keys.get("top_p").and_then(Value::as_f64) == Some(0.0) {
        keys.remove("top_p");
        keys.insert("top_k".to_owned(), 1.into());
    }
    for key in ["n", "best_of"] {
        if body.remove(key).is_some_and(|value| value.as_f64() != Some(1.0)) {
            return Err(invalid(format!("{key:?} can only be 1")));
        }
    }
    if body.remove("echo").is_some_and(|value| value != false) {
        return Err(invalid("\"echo\" can only be false".to_owned()));
    }
    // Turned off, they need no warning.
    for key in ["frequency_penalty", "presence_penalty", "logprobs", "top_logprobs"] {
        let off = |value: &Value| *value == Value::Bool(false) || value.as_f64() == Some(0.0);
        if body.get(key).is_some_and(off) {
            body.remove(key);
        }
    }
    let unknown = body.keys().filter(|key| !HARMLESS.contains(&key.as_str())).cloned().collect();
    Ok(Asked { submission: submission(keys)?, unknown })
}

/// Reads a message. Newer clients send its content as a list of text parts, which are joined.
pub(super) fn message(message: Value) -> Result<Value, Failure> {
    let role = match message["role"].as_str() {
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant")) => role,
        _ => {
            return Err(invalid(format!("\"messages\": there is no role {}", message["role"])));
        }
    };
    let content = match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Option<Vec<_>> = parts.iter().map(|part| part["text"].as_str()).collect();
            texts
                .ok_or_else(|| invalid("\"messages\": only text parts are supported".to_owned()))?
                .concat()
        }
        _ => return Err(invalid("\"messages\": a \"content\" is not text".to_owned())),
    };
    Ok(json!({"role": role, "content": content}))
}

/// Formats the output line of an answer. `created` is in seconds since 1970.
pub(super) fn answered(label: &Label, text: &str, end: &EndFrame, created: u64) -> Value {
    let finish_reason = match end.finish_reason {
        FinishReason::Length | FinishReason::Repetition => "length",
        FinishReason::Stop | FinishReason::Canceled | FinishReason::Unknown => "stop",
    };
    let (prefix, object, said) = match label.form {
        Form::Completion => ("cmpl", "text_completion", json!({"text": text})),
        Form::Chat | Form::Own => {
            let message = json!({"role": "assistant", "content": text});
            ("chatcmpl", "chat.completion", json!({"message": message}))
        }
    };
    let mut choice = said;
    choice["index"] = 0.into();
    choice["logprobs"] = Value::Null;
    choice["finish_reason"] = finish_reason.into();
    let usage = end.usage;
    let body = json!({
        "id": format!("{prefix}-{}", end.job),
        "object": object,
        "created": created,
        "model": end.model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": u64::from(usage.prompt_tokens) + u64::from(usage.completion_tokens),
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        },
    });
    with_number(
        label,
        json!({
            "id": format!("batch_req_{}", end.job),
            "custom_id": label.id,
            "response": {"status_code": 200, "request_id": end.job, "body": body},
            "error": null,
        }),
    )
}

/// Adds the number of the input line, if nothing else identifies it.
fn with_number(label: &Label, mut line: Value) -> Value {
    if let Some(number) = label.number() {
        line["line"] = number.into();
    }
    line
}

/// Formats the output line of a failed line. It has both a response with a status and an error,
/// because some clients check the one and some the other.
pub(super) fn failed(label: &Label, error: &ErrorOut<'_>) -> Value {
    let status = match error.code {
        ErrorCode::InvalidRequest | ErrorCode::EmptyPrompt | ErrorCode::ContextExceeded => 400,
        ErrorCode::ModelNotFound | ErrorCode::NoModel => 404,
        ErrorCode::Timeout => 408,
        _ => 500,
    };
    let kind = if status < 500 { "invalid_request_error" } else { "server_error" };
    let body = json!({"error": {
        "message": error.message,
        "type": kind,
        "param": null,
        "code": error.code,
    }});
    with_number(
        label,
        json!({
            "id": format!("batch_req_line_{}", error.line),
            "custom_id": label.id,
            "response": {"status_code": status, "request_id": error.job, "body": body},
            "error": error,
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::batch::input::Line;
    use crate::commands::batch::line;
    use threadrunner_core::{JobId, Role, Timings, Usage};

    fn read_value(value: &Value) -> (Label, Result<Asked, Failure>) {
        line::read(&Line { number: 3, bytes: Some(value.to_string().into_bytes()) })
    }

    fn chat(body: Value) -> Value {
        json!({"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": body})
    }

    #[test]
    fn a_chat_request_is_a_conversation() {
        let (label, asked) = read_value(&chat(json!({
            "model": "small",
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
            ],
            "max_completion_tokens": 9.0, "stop": "END", "temperature": 0, "n": 1.0,
            "seed": -9_223_372_036_854_775_808_i64, "top_p": 0,
            "frequency_penalty": 0.0, "stream": false, "tools": null, "logit_bias": {},
        })));
        assert_eq!((label.form, label.id), (Form::Chat, json!("r-1")));
        let asked = asked.unwrap();
        let submission = asked.submission;
        assert_eq!(submission.messages[0].role, Role::System);
        assert_eq!(submission.messages[1].content, "Hello");
        assert_eq!(submission.model.as_deref(), Some("small"));
        assert_eq!(submission.params.max_tokens, Some(9));
        assert_eq!(submission.params.stop, ["END"]);
        assert!(submission.params.seed.is_some());
        assert_eq!((submission.params.top_p, submission.params.top_k), (None, Some(1)));
        assert_eq!(asked.unknown, ["logit_bias"]);
    }

    #[test]
    fn a_completion_goes_on_with_its_prompt_as_it_is() {
        let (label, asked) = read_value(&json!({
            "custom_id": "c", "url": "/v1/completions", "body": {"prompt": ["Once upon"]},
        }));
        assert_eq!(label.form, Form::Completion);
        let submission = asked.unwrap().submission;
        assert_eq!((submission.prompt.as_str(), submission.raw), ("Once upon", true));
    }

    #[test]
    fn what_cannot_be_answered_is_refused_under_its_name() {
        for (value, said) in [
            (chat(json!({"messages": []})), "\"messages\" is empty"),
            (chat(json!({})), "\"messages\" is not a list"),
            (chat(json!({"messages": [{"role": "tool", "content": "x"}]})), "no role \"tool\""),
            (
                chat(json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})),
                "text",
            ),
            (
                chat(json!({"messages": [{"role": "user", "content": "x"}], "n": 2})),
                "\"n\" can only",
            ),
            (
                json!({"custom_id": "r-1", "url": "/v1/embeddings", "body": {}}),
                "\"url\" is neither",
            ),
            (json!({"custom_id": "r-1", "url": "/v1/completions", "body": 5}), "\"body\" is not"),
            (
                json!({"custom_id": "r-1", "method": "GET", "url": "/v1/completions", "body": {}}),
                "POST",
            ),
        ] {
            let (label, asked) = read_value(&value);
            let failure = asked.unwrap_err();
            assert!(failure.message.contains(said), "{value}: {failure}");
            assert_eq!(label.id, json!("r-1"));
        }
    }

    #[test]
    fn answers_are_in_the_form_that_clients_read() {
        let label = Label::unnamed(Form::Chat, Value::Null, 3).named(json!("r-1"));
        let end = EndFrame {
            token: (),
            eos: true,
            job: JobId::parse("17_1").unwrap(),
            model: "small".into(),
            finish_reason: FinishReason::Length,
            usage: Usage {
                prompt_tokens: 3,
                completion_tokens: 2,
                cached_tokens: 1,
                restored_tokens: 0,
            },
            timings: Timings::default(),
        };
        let line = answered(&label, "Hi", &end, 1_700_000_000);
        assert_eq!(line["custom_id"], "r-1");
        assert_eq!(line["response"]["status_code"], 200);
        let body = &line["response"]["body"];
        assert_eq!(body["choices"][0]["message"], json!({"role": "assistant", "content": "Hi"}));
        assert_eq!(body["choices"][0]["finish_reason"], "length");
        assert_eq!(
            (&body["object"], &body["usage"]["total_tokens"]),
            (&json!("chat.completion"), &json!(5))
        );
        assert_eq!((&line["error"], line.get("line")), (&Value::Null, None));
        let label = Label::unnamed(Form::Completion, "3", 3);
        let line = answered(&label, "Hi", &end, 0);
        assert_eq!(line["response"]["body"]["choices"][0]["text"], "Hi");
        assert_eq!(line["response"]["body"]["object"], "text_completion");
        assert_eq!((&line["custom_id"], &line["line"]), (&json!("3"), &json!(3)));
    }
}
