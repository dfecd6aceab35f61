//! Instructions (system messages) for templates that have no place for them.
//!
//! Some templates refuse system messages, others drop them silently. As in llama.cpp, instructions
//! are then put before the user's next message.

use threadrunner_core::{Message, Role, Tool};

use super::{ChatTemplate, TemplateError};

/// A text that no template contains.
const PROBE: &str = "threadrunner-5f1c2a";

impl ChatTemplate {
    /// Renders the conversation, including its instructions, ending where the assistant's turn
    /// begins.
    pub(in crate::llama) fn render(
        &self,
        messages: &[Message],
        tools: &[Tool],
    ) -> Result<String, TemplateError> {
        let is_system = |message: &Message| message.role == Role::System;
        let Some(last) = messages.iter().rposition(is_system) else {
            return self.render_as_is(messages, tools);
        };
        if !self.has_place_for_system() {
            return self.render_as_is(&in_the_users_turns(messages, 0), tools);
        }
        match self.render_as_is(messages, tools) {
            // It may accept instructions only at the beginning.
            Err(TemplateError::Refused(_)) if last > 0 => {
                self.render_as_is(&in_the_users_turns(messages, 1), tools)
            }
            rendered => rendered,
        }
    }

    /// Whether a system message appears in the rendered text. Tried once.
    fn has_place_for_system(&self) -> bool {
        *self.has_place_for_system.get_or_init(|| {
            let said = |role, text: &str| Message::new(role, text);
            let probe = [said(Role::System, PROBE), said(Role::User, "Hello")];
            match self.render_as_is(&probe, &[]) {
                Ok(text) => text.contains(PROBE),
                Err(TemplateError::Refused(_)) => false,
                // A broken template will fail on the conversation too, and report why.
                Err(TemplateError::Broken(_) | TemplateError::Panics) => true,
            }
        })
    }
}

/// Puts the instructions from message `from` on before the user's next message. Those that no user
/// message follows become user messages themselves.
fn in_the_users_turns(messages: &[Message], from: usize) -> Vec<Message> {
    let mut merged = messages[..from].to_vec();
    let mut waiting: Vec<String> = Vec::new();
    for message in &messages[from..] {
        match message.role {
            Role::System => {
                if !message.content.is_empty() {
                    waiting.push(message.content.to_string());
                }
            }
            Role::User => {
                let mut message = message.clone();
                if !waiting.is_empty() {
                    message.content =
                        message.content.after(&std::mem::take(&mut waiting).join("\n"));
                }
                merged.push(message);
            }
            Role::Assistant | Role::Tool | Role::Unknown => {
                if !waiting.is_empty() {
                    merged.push(user(&mut waiting));
                }
                merged.push(message.clone());
            }
        }
    }
    if !waiting.is_empty() {
        merged.push(user(&mut waiting));
    }
    merged
}

fn user(texts: &mut Vec<String>) -> Message {
    Message::new(Role::User, std::mem::take(texts).join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<Message> {
        let said = |line: &str| {
            let (role, content) = line.split_once(' ').unwrap_or((line, ""));
            let role = match role {
                "s" => Role::System,
                "u" => Role::User,
                _ => Role::Assistant,
            };
            Message::new(role, content)
        };
        text.split('|').map(said).collect()
    }

    #[test]
    fn instructions_go_before_what_the_user_says_next() {
        for (from, messages, merged) in [
            (0, "s be brief|u hi", "u be brief\nhi"),
            (0, "s a|s b|u hi|a yes|u bye", "u a\nb\nhi|a yes|u bye"),
            (0, "u hi|a yes|s now in French|u bye", "u hi|a yes|u now in French\nbye"),
            (0, "s alone", "u alone"),
            (0, "s a|a yes|u hi", "u a|a yes|u hi"),
            (0, "s|u hi", "u hi"),
            (1, "s a|u hi|s b|u bye", "s a|u hi|u b\nbye"),
        ] {
            assert_eq!(in_the_users_turns(&said(messages), from), said(merged), "{messages}");
        }
    }
}
