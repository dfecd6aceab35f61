//! Bounds on a request, checked before it costs memory and time.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{Op, RequestId, invalid};
use crate::{Content, Failure, Message, Part, Role, Tool, ToolCall};

/// The maximum number of JSON values in a frame. In memory, each takes many times the bytes that it
/// takes in the frame.
const VALUES: usize = 1 << 18;
/// The values of frames up to this many bytes are not counted.
const SHORT: usize = 1 << 20;
/// The maximum length of a string other than those for the model, in bytes.
const TEXT: usize = 4096;
/// The maximum length of a request's id, in bytes. Every frame of the answer repeats it.
const ID: usize = 256;
/// The maximum length of a message about a bad request, in characters. It may quote the request.
const MESSAGE: usize = 1000;

/// The maximum number of parts and tool calls of all messages together.
const PARTS: usize = 4096;
/// The maximum length of an image's URL in bytes, as OpenAI has it for images.
const IMAGE: usize = 20 << 20;
/// The maximum number of tools, as OpenAI has it.
const TOOLS: usize = 128;
/// The maximum length of a tool as JSON, in bytes.
const TOOL: usize = 1 << 18;
/// The maximum length of a function's name in bytes, as OpenAI has it.
const FUNCTION: usize = 64;

/// Refuses a frame with more than [`VALUES`] values. Lets a frame that is not JSON pass; parsing it
/// reports that.
pub(super) fn check_frame(frame: &[u8]) -> Result<(), Failure> {
    let mut values = 0;
    if frame.len() > SHORT {
        let counted =
            serde_json::Deserializer::from_slice(frame).deserialize_any(Count(&mut values));
        if counted.is_err() && values > VALUES {
            return Err(invalid(format!("the frame holds more than {VALUES} values")));
        }
    }
    Ok(())
}

pub(super) fn check_id(id: &RequestId) -> Result<(), Failure> {
    match id {
        RequestId::Text(text) if text.len() > ID => {
            Err(invalid(format!("\"id\" has {} bytes, but may have at most {ID}", text.len())))
        }
        RequestId::Text(_) | RequestId::Number(_) => Ok(()),
    }
}

/// Refuses strings that are too long for a name or a path, except the texts for the model. Does not
/// look into lists and objects.
pub(super) fn check_texts(request: &Map<String, Value>) -> Result<(), Failure> {
    let texts = request.iter().filter(|(key, _)| *key != "prompt" && *key != "system");
    let long = |value: &Value| value.as_str().map(str::len).filter(|&length| length > TEXT);
    match texts.filter_map(|(key, value)| Some((key, long(value)?))).next() {
        Some((key, length)) => {
            let key: String = key.chars().take(60).collect();
            Err(invalid(format!("\"{key}\" has {length} bytes, but may have at most {TEXT}")))
        }
        None => Ok(()),
    }
}

/// Checks the messages and tools of a request.
pub(super) fn check_op(op: &Op) -> Result<(), Failure> {
    match op {
        Op::Simple(asked) | Op::Run(asked) | Op::Submit(asked) => {
            check_messages(&asked.messages, &asked.tools)
        }
        _ => Ok(()),
    }
}

/// Checks the messages and tools that a model is to read: their number, their sizes, and that calls
/// and results are where they belong. Images must be data URLs, because nothing is fetched.
///
/// # Errors
/// [`ErrorCode::InvalidRequest`](crate::ErrorCode::InvalidRequest).
pub fn check_messages(messages: &[Message], tools: &[Tool]) -> Result<(), Failure> {
    let parts = |message: &Message| match &message.content {
        Content::Text(_) => message.tool_calls().len(),
        Content::Parts(parts) => parts.len() + message.tool_calls().len(),
    };
    let parts: usize = messages.iter().map(parts).sum();
    if parts > PARTS {
        return Err(invalid(format!("\"messages\" hold {parts} parts, but may hold {PARTS}")));
    }
    messages.iter().try_for_each(check_message)?;
    if tools.len() > TOOLS {
        return Err(invalid(format!("{} tools, but there may be at most {TOOLS}", tools.len())));
    }
    for tool in tools {
        check_function(tool.name().unwrap_or_default())?;
        if tool.bytes() > TOOL {
            let (name, bytes) = (tool.name().unwrap_or_default(), tool.bytes());
            return Err(invalid(format!(
                "tool \"{name}\" has {bytes} bytes, but may have at most {TOOL}"
            )));
        }
    }
    Ok(())
}

fn check_message(message: &Message) -> Result<(), Failure> {
    for part in message.content.others() {
        let Part::ImageUrl { image_url } = part else { continue };
        let url = &image_url.url;
        if !url.starts_with("data:image/") {
            return Err(invalid(
                "\"image_url\": takes a data URL (`data:image/png;base64,...`); nothing is fetched"
                    .to_owned(),
            ));
        }
        if url.len() > IMAGE {
            let bytes = url.len();
            return Err(invalid(format!("an image has {bytes} bytes, but may have {IMAGE}")));
        }
    }
    if !message.tool_calls().is_empty() && message.role != Role::Assistant {
        return Err(invalid("\"tool_calls\": only the role `assistant` calls tools".to_owned()));
    }
    for call in message.tool_calls() {
        if let ToolCall::Function { id, function } = call {
            check_short("a tool call's \"id\"", id)?;
            check_function(&function.name)?;
        }
    }
    let more = message.more.as_deref();
    let call = more.and_then(|more| more.tool_call_id.as_ref());
    if call.is_some() != (message.role == Role::Tool) {
        return Err(invalid(
            "\"tool_call_id\": a message of the role `tool` needs it, and no other has one"
                .to_owned(),
        ));
    }
    let name = more.and_then(|more| more.name.as_ref());
    call.into_iter()
        .chain(name)
        .try_for_each(|text| check_short("\"tool_call_id\" or \"name\"", text))
}

fn check_short(what: &str, text: &str) -> Result<(), Failure> {
    match text.len() {
        ..=ID => Ok(()),
        bytes => Err(invalid(format!("{what} has {bytes} bytes, but may have at most {ID}"))),
    }
}

fn check_function(name: &str) -> Result<(), Failure> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    match (1..=FUNCTION).contains(&name.len()) && name.bytes().all(allowed) {
        true => Ok(()),
        false => {
            let shown: String = name.chars().take(FUNCTION).collect();
            Err(invalid(format!(
                "a function's name is 1 to {FUNCTION} letters, digits, '_' and '-', not {shown:?}"
            )))
        }
    }
}

/// Cuts the failure's message to [`MESSAGE`] characters and an ellipsis.
pub(super) fn shorten(mut failure: Failure) -> Failure {
    if let Some((end, _)) = failure.message.char_indices().nth(MESSAGE) {
        failure.message.truncate(end);
        failure.message.push('…');
    }
    failure
}

/// Counts JSON values, and fails at the first one too many.
struct Count<'a>(&'a mut usize);

impl Count<'_> {
    fn one<E: Error>(self) -> Result<(), E> {
        *self.0 += 1;
        if *self.0 > VALUES { Err(E::custom("too many values")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Count<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.one()
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.one()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.one()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.one()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.one()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.one()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        while values.next_element_seed(Count(self.0))?.is_some() {}
        self.one()
    }

    fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        while values.next_key::<IgnoredAny>()?.is_some() {
            values.next_value_seed(Count(self.0))?;
        }
        self.one()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Request;
    use super::*;
    use crate::ErrorCode;

    fn refusal(frame: &str) -> (Option<RequestId>, Failure) {
        Request::parse(frame.as_bytes()).unwrap_err()
    }

    #[test]
    fn very_many_values_are_refused_wherever_they_are() {
        let many = "0,".repeat(VALUES + SHORT);
        let keys: String = (0..=VALUES).map(|n| format!("\"{n}\":0,")).collect();
        for frame in [
            format!(r#"{{"v":1,"op":"ps","x":[{many}0]}}"#),
            format!(r#"{{"v":1,"op":"ps","x":{{{keys}"":0}}}}"#),
            format!(r#"{{"v":1,"op":"ps","x":[{}0]}}"#, "[],".repeat(VALUES)),
        ] {
            let (_, failure) = refusal(&(frame + &" ".repeat(SHORT)));
            assert_eq!(failure.code, ErrorCode::InvalidRequest);
            assert!(failure.message.contains("values"), "{failure}");
        }
        let prompt = "word, ".repeat(SHORT);
        let long = format!(r#"{{"v":1,"op":"run","prompt":"{prompt}","messages":[]}}"#);
        Request::parse(long.as_bytes()).unwrap();
    }

    #[test]
    fn messages_and_tools_are_bounded_and_in_their_places() {
        let image = |url: &str| {
            format!(
                r#"{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"{url}"}}}}]}}"#
            )
        };
        let tool = |name: &str| format!(r#"{{"type":"function","function":{{"name":"{name}"}}}}"#);
        let call =
            r#""tool_calls":[{"type":"function","id":"1","function":{"name":"f","arguments":""}}]"#;
        let text = r#"{"type":"text","text":""}"#;
        let small = image("data:image/png;base64,AA==");
        let parse = |messages: &str, tools: &str| {
            let frame =
                format!(r#"{{"v":1,"op":"run","messages":[{messages}],"tools":[{tools}]}}"#);
            Request::parse(frame.as_bytes()).map_err(|(_, failure)| failure.message)
        };
        parse(&small, &tool("get_weather")).unwrap();
        parse(&format!(r#"{{"role":"assistant",{call}}},{{"role":"tool","tool_call_id":"1","content":"rain"}}"#), "").unwrap();
        for (messages, tools, said) in [
            (image("https://example.org/a.png"), String::new(), "nothing is fetched"),
            (
                image(&format!("data:image/png;base64,{}", "A".repeat(IMAGE))),
                String::new(),
                "an image has",
            ),
            (
                format!(
                    r#"{{"role":"user","content":[{}{text},{{"type":"image_url","image_url":{{"url":"data:image/"}}}}]}}"#,
                    format!("{text},").repeat(PARTS)
                ),
                String::new(),
                "4098 parts",
            ),
            (
                small.clone(),
                format!("{}{}", format!("{},", tool("f")).repeat(TOOLS), tool("f")),
                "129 tools",
            ),
            (small.clone(), tool("a b"), "not \"a b\""),
            (small.clone(), r#"{"type":"web_search"}"#.to_owned(), "unknown type `web_search`"),
            (small.clone(), r#"{"type":"function","function":{}}"#.to_owned(), "needs a name"),
            (format!(r#"{{"role":"user","content":"x",{call}}}"#), String::new(), "only the role"),
            (r#"{"role":"tool","content":"x"}"#.to_owned(), String::new(), "needs it"),
            (
                r#"{"role":"user","content":"x","tool_call_id":"1"}"#.to_owned(),
                String::new(),
                "no other",
            ),
        ] {
            let failure = parse(&messages, &tools).unwrap_err();
            assert!(failure.contains(said), "{failure}");
        }
    }

    #[test]
    fn long_ids_and_names_are_refused_and_not_repeated() {
        let long = "x".repeat(TEXT + 1);
        let (id, failure) = refusal(&format!(r#"{{"v":1,"op":"ps","id":"{long}"}}"#));
        assert_eq!((id, failure.code), (None, ErrorCode::InvalidRequest));
        for frame in [
            format!(r#"{{"v":1,"op":"load","model":"{long}"}}"#),
            format!(r#"{{"v":1,"op":"{long}"}}"#),
            format!(r#"{{"v":1,"op":"ps","{long}":"{long}"}}"#),
            format!(r#"{{"v":"{long}","op":"ps"}}"#),
            format!(r#"{{"v":1,"op":"jobs","states":["{long}"]}}"#),
        ] {
            let (_, failure) = refusal(&frame);
            assert!(failure.message.len() < 2 * MESSAGE, "{}", failure.message.len());
        }
        let said = format!(r#"{{"v":1,"op":"run","prompt":"{long}","system":"{long}"}}"#);
        Request::parse(said.as_bytes()).unwrap();
    }
}
