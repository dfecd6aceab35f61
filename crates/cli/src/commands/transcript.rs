//! Formats a conversation as text.

use std::fmt::Write;

use serde::Serialize;
use threadrunner_core::protocol::Conversation;
use threadrunner_core::{Message, Role, SessionName, ToolCall};

use crate::args::ExportFormat;
use crate::output;

/// A conversation in the form that chat programs exchange.
#[derive(Debug, Serialize)]
struct Exported<'a> {
    session: &'a SessionName,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    messages: Vec<Message>,
}

/// Formats a conversation for reading on the terminal, if standard output is one, with the user's
/// text quoted. With `plain`, the Markdown of answers stays as it is.
pub(super) fn shown(conversation: &Conversation, plain: bool) -> String {
    reading(conversation, |text, said| output::for_terminal(text, plain || !said))
}

/// Formats a conversation for reading. `fitted` makes a text fit the terminal; its flag tells what a
/// model said.
fn reading(conversation: &Conversation, fitted: impl Fn(String, bool) -> String) -> String {
    let mut text = String::new();
    for message in messages(conversation) {
        if !text.is_empty() {
            text.push('\n');
        }
        let mark = match message.role {
            Role::User => "> ",
            Role::System => "# ",
            Role::Assistant | Role::Tool | Role::Unknown => "",
        };
        let mut whole = String::new();
        for line in said(&message).trim_end().lines() {
            // Writing to a `String` never fails.
            let _ = writeln!(whole, "{}", format!("{mark}{line}").trim_end());
        }
        text.push_str(&fitted(whole, message.role == Role::Assistant));
    }
    text
}

/// Formats a conversation for other programs.
pub(super) fn exported(conversation: &Conversation, format: ExportFormat) -> String {
    match format {
        ExportFormat::Json => json(conversation),
        ExportFormat::Markdown => markdown(conversation),
    }
}

fn json(conversation: &Conversation) -> String {
    let record = &conversation.record;
    let exported = Exported {
        session: &record.session,
        model: record.model.clone(),
        messages: messages(conversation),
    };
    // Cannot fail: it is plain data with string keys.
    let mut text = serde_json::to_string_pretty(&exported).unwrap_or_default();
    text.push('\n');
    text
}

fn markdown(conversation: &Conversation) -> String {
    let mut text = format!("# {}\n", conversation.record.session);
    for message in messages(conversation) {
        let heading = match message.role {
            Role::System => "Instructions",
            Role::User => "Question",
            Role::Assistant => "Answer",
            Role::Tool => "Result",
            Role::Unknown => "Message",
        };
        let _ = write!(text, "\n## {heading}\n\n{}\n", said(&message).trim_end());
    }
    text
}

/// What a message says, with its calls of tools as lines of their own.
fn said(message: &Message) -> String {
    let mut text = message.content.to_string();
    for call in message.tool_calls() {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let _ = match call {
            ToolCall::Function { function, .. } => {
                writeln!(text, "[{}({})]", function.name, function.arguments)
            }
            ToolCall::Unknown(_) => writeln!(text, "[unknown]"),
        };
    }
    text
}

/// Returns all messages in order, the system message first.
fn messages(conversation: &Conversation) -> Vec<Message> {
    let system = conversation.record.system.iter();
    let system = system.map(|text| Message::new(Role::System, text.clone()));
    let said = conversation.conversation.iter().flat_map(|turn| {
        let asked =
            (!turn.prompt.is_empty()).then(|| Message::new(Role::User, turn.prompt.clone()));
        let answered = Message::answer(turn.answer.clone(), turn.output.clone());
        turn.messages.iter().cloned().chain(asked).chain([answered])
    });
    system.chain(said).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation() -> Conversation {
        serde_json::from_value(serde_json::json!({
            "session": "work", "workspace": "default", "turns": 1, "system": "Be brief.",
            "model": "small",
            "conversation": [{"job": "1", "prompt": "Why?\n\nTell me.", "answer": "So.\n"}],
        }))
        .unwrap()
    }

    #[test]
    fn for_reading_the_question_is_quoted() {
        assert_eq!(
            reading(&conversation(), |text, _| text),
            "# Be brief.\n\n> Why?\n>\n> Tell me.\n\nSo.\n"
        );
    }

    #[test]
    fn the_export_has_all_messages_in_their_order() {
        let json: serde_json::Value =
            serde_json::from_str(&exported(&conversation(), ExportFormat::Json)).unwrap();
        assert_eq!(json["model"], "small");
        let roles = json["messages"].as_array().unwrap().iter().map(|it| it["role"].clone());
        assert_eq!(roles.collect::<Vec<_>>(), ["system", "user", "assistant"]);
        assert_eq!(
            exported(&conversation(), ExportFormat::Markdown),
            "# work\n\n## Instructions\n\nBe brief.\n\n## Question\n\nWhy?\n\nTell me.\n\n\
             ## Answer\n\nSo.\n"
        );
    }
}
