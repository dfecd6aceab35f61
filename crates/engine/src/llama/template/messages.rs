//! Messages as Hugging Face gives them to templates: text as a string, other content as a list of
//! parts, and the arguments of a call as an object.

use minijinja::Value;
use serde_json::{Map, Value as Json};
use threadrunner_core::{Content, Message, More, Part, Tool, ToolCall};

/// A message as templates see it. Keys that it does not have are not in it.
pub(super) fn value(message: &Message) -> Value {
    let mut keys =
        vec![("role", Value::from(message.role.as_str())), ("content", content(&message.content))];
    if let Some(more) = message.more.as_deref() {
        let More { name, reasoning_content, tool_calls, tool_call_id } = more;
        let texts = [
            ("name", name),
            ("reasoning_content", reasoning_content),
            ("tool_call_id", tool_call_id),
        ];
        let texts = texts.into_iter().filter_map(|(key, text)| Some((key, text.as_ref()?)));
        keys.extend(texts.map(|(key, text)| (key, Value::from(text.as_str()))));
        if !tool_calls.is_empty() {
            keys.push(("tool_calls", tool_calls.iter().map(call).collect()));
        }
    }
    Value::from_pairs(keys)
}

fn content(content: &Content) -> Value {
    match content {
        Content::Text(text) => Value::from(text.as_str()),
        Content::Parts(parts) => parts.iter().map(part).collect(),
    }
}

/// A part. A template only marks the place of an image.
fn part(part: &Part) -> Value {
    match part {
        Part::Text { text } => Value::from_pairs([("type", "text"), ("text", text.as_str())]),
        Part::ImageUrl { .. } => Value::from_pairs([("type", "image")]),
        Part::Unknown(object) => of_object(object),
    }
}

fn call(call: &ToolCall) -> Value {
    match call {
        ToolCall::Function { id, function } => {
            let arguments = match serde_json::from_str(&function.arguments) {
                Ok(Json::Object(object)) => of_object(&object),
                // The model got them wrong.
                _ => Value::from(function.arguments.as_str()),
            };
            let name = Value::from(function.name.as_str());
            let function = Value::from_pairs([("name", name), ("arguments", arguments)]);
            Value::from_pairs([
                ("type", Value::from("function")),
                ("id", Value::from(id.as_str())),
                ("function", function),
            ])
        }
        ToolCall::Unknown(object) => of_object(object),
    }
}

/// The tools as templates see them: undefined if there are none, which templates test for.
pub(super) fn tools(tools: &[Tool]) -> Value {
    match tools {
        [] => Value::UNDEFINED,
        tools => tools.iter().map(|tool| of_object(tool.object())).collect(),
    }
}

fn of_object(object: &Map<String, Json>) -> Value {
    Value::from_pairs(object.iter().map(|(key, value)| (key.as_str(), of_json(value))))
}

fn of_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(values) => values.iter().map(of_json).collect(),
        Json::Object(object) => of_object(object),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ChatTemplate, SpecialTokens};
    use super::*;
    use serde_json::json;

    fn shown(message: serde_json::Value) -> serde_json::Value {
        let message: Message = serde_json::from_value(message).unwrap();
        let template = "{{ messages[0] | tojson }}";
        let template = ChatTemplate::compile(template, SpecialTokens::default(), str::to_owned);
        serde_json::from_str(&template.unwrap().render(&[message], &[]).unwrap()).unwrap()
    }

    #[test]
    fn messages_are_as_hugging_face_gives_them_to_templates() {
        for same in [
            json!({"role": "user", "content": "Hi"}),
            json!({"role": "user", "content": "Hi", "name": "ann"}),
            json!({"role": "tool", "content": "rain", "tool_call_id": "c1"}),
            json!({"role": "assistant", "content": "So.", "reasoning_content": "Hm."}),
        ] {
            assert_eq!(shown(same.clone()), same);
        }
        let image =
            json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}});
        let text = json!({"type": "text", "text": "What is this?"});
        assert_eq!(
            shown(json!({"role": "user", "content": [image, text]})),
            json!({"role": "user", "content": [{"type": "image"}, text]})
        );
        let call = |arguments| json!({"type": "function", "id": "1", "function": {"name": "f", "arguments": arguments}});
        let calls = [json!("{\"city\": \"Rome\"}"), json!("[1"), json!("3")].map(call);
        let parsed = [json!({"city": "Rome"}), json!("[1"), json!("3")].map(call);
        assert_eq!(
            shown(json!({"role": "assistant", "content": null, "tool_calls": calls})),
            json!({"role": "assistant", "content": "", "tool_calls": parsed})
        );
    }
}
