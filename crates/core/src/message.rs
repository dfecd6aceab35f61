//! The messages of a conversation.

use serde::{Deserialize, Deserializer, Serialize};

use crate::content::{Content, Part};
use crate::open_enum::{find, open_enum, parse};
use crate::output::Output;
use crate::tagged::Tagged;
use crate::tool::{Tool, ToolCall};

open_enum! {
    /// The author of a message.
    pub enum Role {
        /// Instructions.
        System = "system" | "developer",
        /// The user.
        User = "user",
        /// The model.
        Assistant = "assistant",
        /// A tool that the model called.
        Tool = "tool",
    }
}

open_enum! {
    /// A kind of input beside text.
    pub enum InputKind {
        /// Images in messages.
        Images = "images",
        /// Tools that the model can call, its calls, and their results.
        Tools = "tools",
    }
}

/// One message of a conversation. Written as in OpenAI's chat API.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Keys")]
pub struct Message {
    /// The author.
    pub role: Role,
    /// What it says.
    pub content: Content,
    /// What few messages have.
    pub more: Option<Box<More>>,
}

/// What a message has beside its content.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct More {
    /// For an author of several: the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the model thought before it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The tools that the model calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// For a tool's result: the id of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A message that has only a content.
    pub fn new(role: Role, content: impl Into<Content>) -> Self {
        Self { role, content: content.into(), more: None }
    }

    /// An answer as a message: its text, thoughts and calls. A vector says nothing to a model.
    pub fn answer(text: String, outputs: Vec<Output>) -> Self {
        let mut more = More::default();
        for output in outputs {
            match output {
                Output::Reasoning { text } => {
                    more.reasoning_content.get_or_insert_default().push_str(&text);
                }
                Output::ToolCalls { tool_calls } => more.tool_calls.extend(tool_calls),
                Output::Embedding { .. } | Output::Unknown(_) => {}
            }
        }
        let more = (more != More::default()).then(|| Box::new(more));
        Self { role: Role::Assistant, content: text.into(), more }
    }

    /// The tools that the model calls.
    pub fn tool_calls(&self) -> &[ToolCall] {
        self.more.as_ref().map_or(&[], |more| &more.tool_calls)
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.content.is_empty() && self.tool_calls().is_empty()
    }

    /// Its size in bytes, without what holds its parts together.
    pub fn bytes(&self) -> usize {
        let more = self.more.as_deref().map_or(0, |more| {
            let texts = [&more.name, &more.reasoning_content, &more.tool_call_id];
            let calls = more.tool_calls.iter().map(ToolCall::bytes);
            calls.chain(texts.into_iter().flatten().map(String::len)).sum()
        });
        self.content.bytes() + more
    }

    /// The kinds of input that a model must take to read it.
    fn needs(&self) -> impl Iterator<Item = InputKind> {
        let part = |part: &Part| match part {
            Part::Text { .. } => None,
            Part::ImageUrl { .. } => Some(InputKind::Images),
            Part::Unknown(_) => Some(InputKind::Unknown),
        };
        let tools = self.role == Role::Tool || !self.tool_calls().is_empty();
        self.content.others().filter_map(part).chain(tools.then_some(InputKind::Tools))
    }

    /// Checks an order's message: whatever a model would not understand is named.
    fn known(&self) -> Result<(), String> {
        self.content.others().try_for_each(Tagged::known)?;
        self.tool_calls().iter().try_for_each(Tagged::known)
    }
}

/// The kinds of input that a model must take to read these messages and tools.
pub fn needs<'a>(
    messages: &'a [Message],
    tools: &[Tool],
) -> impl Iterator<Item = InputKind> + use<'a> {
    let tools = (!tools.is_empty()).then_some(InputKind::Tools);
    messages.iter().flat_map(Message::needs).chain(tools)
}

/// Reads a conversation that the model must answer. Refuses unknown roles and parts, which the
/// model would not understand.
pub(crate) fn known_messages<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Message>, D::Error> {
    let read = |keys: Keys| {
        let role = find::<Role, D::Error>(&keys.role)?;
        let message = keys.message(role).map_err(serde::de::Error::custom)?;
        message.known().map_err(serde::de::Error::custom)?;
        Ok(message)
    };
    Vec::<Keys>::deserialize(from)?.into_iter().map(read).collect()
}

/// A [`Message`] as it is read.
#[derive(Deserialize)]
struct Keys {
    role: String,
    content: Option<Content>,
    name: Option<String>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<ToolCall>>,
    tool_call_id: Option<String>,
}

impl Keys {
    fn message(self, role: Role) -> Result<Message, &'static str> {
        let Self { content, name, reasoning_content, tool_call_id, .. } = self;
        let tool_calls = self.tool_calls.unwrap_or_default();
        // A message that only calls tools says nothing.
        let content = match content {
            None if tool_calls.is_empty() => return Err("missing field `content`"),
            content => content.unwrap_or_default(),
        };
        let more = More { name, reasoning_content, tool_calls, tool_call_id };
        let more = (more != More::default()).then(|| Box::new(more));
        Ok(Message { role, content, more })
    }
}

impl TryFrom<Keys> for Message {
    type Error = &'static str;

    fn try_from(keys: Keys) -> Result<Self, Self::Error> {
        let role = parse(&keys.role).unwrap_or(Role::Unknown);
        keys.message(role)
    }
}

impl Serialize for Message {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        /// A [`Message`] as it is written.
        #[derive(Serialize)]
        struct Written<'a> {
            role: Role,
            content: Option<&'a Content>,
            #[serde(flatten)]
            more: &'a More,
        }
        #[derive(Serialize)]
        struct Plain<'a> {
            role: Role,
            content: &'a Content,
        }
        let Self { role, content, more } = self;
        match more {
            None => Plain { role: *role, content }.serialize(to),
            Some(more) => {
                let silent = content.is_empty() && !more.tool_calls.is_empty();
                let content = (!silent).then_some(content);
                Written { role: *role, content, more }.serialize(to)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn call(name: &str) -> Value {
        json!({"id": "c1", "type": "function", "function": {"name": name, "arguments": "{}"}})
    }

    #[test]
    fn a_plain_message_costs_one_word_more_than_its_text_and_role() {
        assert!(size_of::<Message>() <= size_of::<(Role, String)>() + size_of::<usize>());
        let plain = Message::new(Role::User, "Hi");
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"role":"user","content":"Hi"}"#);
    }

    #[test]
    fn messages_are_those_of_openai() {
        for message in [
            json!({"role": "assistant", "content": null, "tool_calls": [call("weather")]}),
            json!({"role": "tool", "content": "rain", "tool_call_id": "c1"}),
            json!({"role": "user", "content": "Hi", "name": "ann"}),
            json!({"role": "assistant", "content": "So.", "reasoning_content": "Hm."}),
        ] {
            let read: Message = serde_json::from_value(message.clone()).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), message);
        }
        let newer: Message =
            serde_json::from_value(json!({"role": "developer", "content": "x"})).unwrap();
        assert_eq!(newer, Message::new(Role::System, "x"));
        let nothing = serde_json::from_value::<Message>(json!({"role": "user", "content": null}));
        assert!(nothing.is_err());
    }

    #[test]
    fn an_order_names_what_it_does_not_know_and_a_record_keeps_it() {
        for (message, word) in [
            (json!({"role": "cat", "content": ""}), "cat"),
            (json!({"role": "user", "content": [{"type": "smell"}]}), "smell"),
            (json!({"role": "assistant", "tool_calls": [{"type": "spell"}]}), "spell"),
        ] {
            serde_json::from_value::<Message>(message.clone()).unwrap();
            let refused = known_messages(json!([message])).unwrap_err().to_string();
            assert!(refused.contains(word) && refused.contains(" one of "), "{refused}");
        }
    }

    #[test]
    fn it_is_known_what_a_model_must_take() {
        let image = json!([{"type": "image_url", "image_url": {"url": "data:,"}}]);
        let needs = |messages: Value| {
            let messages: Vec<Message> = serde_json::from_value(messages).unwrap();
            super::needs(&messages, &[]).collect::<Vec<_>>()
        };
        assert_eq!(needs(json!([{"role": "user", "content": "Hi"}])), []);
        assert_eq!(needs(json!([{"role": "user", "content": image}])), [InputKind::Images]);
        let calls = json!({"role": "assistant", "tool_calls": [call("f")]});
        assert_eq!(needs(json!([calls])), [InputKind::Tools]);
        let result = json!({"role": "tool", "content": "rain", "tool_call_id": "c1"});
        assert_eq!(needs(json!([result])), [InputKind::Tools]);
    }

    #[test]
    fn an_answer_is_a_message_with_its_thoughts_and_calls() {
        assert_eq!(Message::answer("Hi".into(), vec![]), Message::new(Role::Assistant, "Hi"));
        let calls: Output =
            serde_json::from_value(json!({"type": "tool_calls", "tool_calls": [call("f")]}))
                .unwrap();
        let thought = Output::Reasoning { text: "Hm.".into() };
        let message = Message::answer(String::new(), vec![thought, calls]);
        assert_eq!(
            serde_json::to_value(message).unwrap(),
            json!({"role": "assistant", "content": null, "reasoning_content": "Hm.",
                   "tool_calls": [call("f")]})
        );
    }
}
