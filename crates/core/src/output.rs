//! What an answer holds beside its text.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::open_enum::open_enum;
use crate::tagged::Tagged;
use crate::tool::ToolCall;

open_enum! {
    /// A kind of [`Output`].
    pub enum OutputKind {
        /// What the model thought before it answered.
        Reasoning = "reasoning",
        /// Calls of tools.
        ToolCalls = "tool_calls",
        /// A vector.
        Embedding = "embedding",
    }
}

/// A piece of an answer that is not its text. The key `"type"` names the variant.
///
/// An answer is text, which is streamed, and any number of these, which come whole.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Output {
    /// What the model thought before it answered.
    Reasoning {
        /// The thoughts.
        text: String,
    },
    /// Calls of tools, which the client carries out.
    ToolCalls {
        /// The calls.
        tool_calls: Vec<ToolCall>,
    },
    /// A vector.
    Embedding {
        /// Its elements.
        embedding: Vec<f32>,
    },
    /// A kind of output that this version does not know, as it was written.
    #[serde(untagged)]
    Unknown(Map<String, Value>),
}

impl Output {
    /// Its kind.
    pub fn kind(&self) -> OutputKind {
        match self {
            Self::Reasoning { .. } => OutputKind::Reasoning,
            Self::ToolCalls { .. } => OutputKind::ToolCalls,
            Self::Embedding { .. } => OutputKind::Embedding,
            Self::Unknown(_) => OutputKind::Unknown,
        }
    }

    /// Its size in bytes, as JSON.
    pub fn bytes(&self) -> usize {
        crate::json_length(self)
    }

    /// The tools that it calls.
    pub fn tool_calls(&self) -> &[ToolCall] {
        if let Self::ToolCalls { tool_calls } = self { tool_calls } else { &[] }
    }

    /// Whether this version knows all of it.
    pub fn is_known(&self) -> bool {
        let unknown = |call: &ToolCall| matches!(call, ToolCall::Unknown(_));
        self.kind() != OutputKind::Unknown && !self.tool_calls().iter().any(unknown)
    }

    /// Adds an output to those of an answer: thoughts to the thoughts just before them, calls to
    /// the calls.
    pub fn add_to(self, outputs: &mut Vec<Self>) {
        match (outputs.last_mut(), self) {
            (Some(Self::Reasoning { text }), Self::Reasoning { text: more }) => {
                text.push_str(&more)
            }
            (Some(Self::ToolCalls { tool_calls }), Self::ToolCalls { tool_calls: more }) => {
                tool_calls.extend(more);
            }
            (_, output) => outputs.push(output),
        }
    }
}

/// The kinds of these outputs in words, for a message: `tool_calls and embedding`.
pub fn kinds_of(outputs: &[Output]) -> String {
    let mut words: Vec<&str> = outputs.iter().map(|output| output.kind().as_str()).collect();
    words.dedup();
    words.join(" and ")
}

impl Tagged for Output {
    const KINDS: &'static [&'static str] = &["reasoning", "tool_calls", "embedding"];

    fn read(kind: &str, mut object: Map<String, Value>) -> Result<Self, serde_json::Error> {
        let mut key = |name: &str| object.remove(name).unwrap_or_default();
        Ok(match kind {
            "reasoning" => Self::Reasoning { text: serde_json::from_value(key("text"))? },
            "tool_calls" => {
                Self::ToolCalls { tool_calls: serde_json::from_value(key("tool_calls"))? }
            }
            "embedding" => Self::Embedding { embedding: serde_json::from_value(key("embedding"))? },
            _ => Self::Unknown(object),
        })
    }

    fn unknown(&self) -> Option<&Map<String, Value>> {
        if let Self::Unknown(object) = self { Some(object) } else { None }
    }
}

impl<'de> Deserialize<'de> for Output {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::open(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn outputs_of_a_kind_that_follow_each_other_are_one() {
        let thought = |text: &str| Output::Reasoning { text: text.to_owned() };
        let call =
            json!({"type": "function", "id": "a", "function": {"name": "f", "arguments": "{}"}});
        let calls = json!({"type": "tool_calls", "tool_calls": [call]});
        let calls: Output = serde_json::from_value(calls).unwrap();
        let mut outputs = Vec::new();
        for output in [thought("Hm"), thought("m."), calls.clone(), calls, thought("So.")] {
            output.add_to(&mut outputs);
        }
        assert_eq!(outputs.len(), 3);
        assert_eq!(outputs[0], thought("Hmm."));
        assert!(matches!(&outputs[1], Output::ToolCalls { tool_calls } if tool_calls.len() == 2));
        assert_eq!(kinds_of(&outputs), "reasoning and tool_calls and reasoning");
    }

    #[test]
    fn every_kind_is_written_as_it_is_called() {
        for kind in OutputKind::ALL {
            assert!(Output::KINDS.contains(&kind.as_str()));
        }
        assert_eq!(Output::KINDS.len(), OutputKind::ALL.len());
    }
}
