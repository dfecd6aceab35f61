//! The messages of a conversation.

use serde::{Deserialize, Deserializer, Serialize};

use crate::open_enum::{known, open_enum};

open_enum! {
    /// The author of a message.
    pub enum Role {
        /// Instructions.
        System = "system",
        /// The user.
        User = "user",
        /// The model.
        Assistant = "assistant",
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The author.
    pub role: Role,
    /// The text.
    pub content: String,
}

/// Reads a conversation that the model must answer. Refuses unknown roles, which the model would
/// not understand.
pub(crate) fn known_roles<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Message>, D::Error> {
    #[derive(Deserialize)]
    struct Known {
        #[serde(deserialize_with = "known")]
        role: Role,
        content: String,
    }
    let messages = Vec::<Known>::deserialize(from)?;
    Ok(messages.into_iter().map(|Known { role, content }| Message { role, content }).collect())
}
