//! Tools that a model can call, and its calls, in the form of OpenAI's chat API.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::tagged::Tagged;

/// A tool that a model can call: `{"type":"function","function":{"name",...}}`.
///
/// Chat templates show models the whole object, so all of it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tool(Map<String, Value>);

impl Tool {
    /// The function's name; `None` if this is no tool of a kind that this version knows.
    pub fn name(&self) -> Option<&str> {
        match self.0.get("type").and_then(Value::as_str) {
            Some("function") => self.0.get("function")?.get("name")?.as_str(),
            _ => None,
        }
    }

    /// All of it.
    pub fn object(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Its size in bytes, as JSON.
    pub fn bytes(&self) -> usize {
        crate::json_length(&self.0)
    }

    /// Checks that it is a function with a name. The error names a kind that is unknown.
    fn known(&self) -> Result<(), String> {
        match self.0.get("type").and_then(Value::as_str) {
            Some("function") if self.name().is_some() => Ok(()),
            Some("function") => Err("a tool's function needs a name".to_owned()),
            Some(kind) => Err(format!("unknown type `{kind}`, expected one of `function`")),
            None => Err("a tool needs a \"type\" that is a text".to_owned()),
        }
    }
}

/// Reads the tools of an order, and refuses kinds that are unknown.
pub(crate) fn known_tools<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Tool>, D::Error> {
    let tools = Vec::<Tool>::deserialize(from)?;
    tools.iter().try_for_each(Tool::known).map_err(serde::de::Error::custom)?;
    Ok(tools)
}

/// A model's call of a tool. The key `"type"` names the variant.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToolCall {
    /// A call of a function.
    Function {
        /// The call's id, which the result repeats.
        id: String,
        /// What is called.
        function: FunctionCall,
    },
    /// A kind of call that this version does not know, as it was written.
    #[serde(untagged)]
    Unknown(Map<String, Value>),
}

/// A call of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// The function's name.
    pub name: String,
    /// Its arguments: the text of a JSON object, which models can get wrong.
    pub arguments: String,
}

impl ToolCall {
    /// Its size in bytes, without what holds its parts together.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Function { id, function } => {
                id.len() + function.name.len() + function.arguments.len()
            }
            Self::Unknown(object) => crate::json_length(object),
        }
    }
}

impl Tagged for ToolCall {
    const KINDS: &'static [&'static str] = &["function"];

    fn read(kind: &str, mut object: Map<String, Value>) -> Result<Self, serde_json::Error> {
        let mut key = |name: &str| object.remove(name).unwrap_or_default();
        match kind {
            "function" => Ok(Self::Function {
                id: serde_json::from_value(key("id"))?,
                function: serde_json::from_value(key("function"))?,
            }),
            _ => Ok(Self::Unknown(object)),
        }
    }

    fn unknown(&self) -> Option<&Map<String, Value>> {
        if let Self::Unknown(object) = self { Some(object) } else { None }
    }
}

impl<'de> Deserialize<'de> for ToolCall {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::open(from)
    }
}
