//! A conversation, by name.
//!
//! A session names the last job of a chain. Each turn's job names the turn before it as its
//! `parent`, so following the parents gives the conversation. The messages are stored only in the
//! jobs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{CacheName, JobId, Message, Output, Role};

/// The version of the session file that this program writes. Newer versions are refused, never
/// guessed at.
pub const SESSION_VERSION: u32 = 1;

/// The name of a session: 1 to 64 of `A`–`Z`, `a`–`z`, `0`–`9`, `.`, `_` and `-`, not beginning
/// with a dot. So a name is never a path or a hidden file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionName(Box<str>);

/// Why a text is not a session name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is not a session name: a name is 1 to {} letters, digits, '.', '_' and '-', and does \
     not begin with a dot",
    SessionName::MAX_LEN
)]
pub struct InvalidSessionName {
    /// The text given, truncated for use in a message.
    pub text: String,
}

impl SessionName {
    /// The maximum length of a name, in bytes.
    pub const MAX_LEN: usize = 64;

    /// Checks `text` against the rule for names.
    ///
    /// # Errors
    /// [`InvalidSessionName`] if it breaks the rule.
    pub fn parse(text: &str) -> Result<Self, InvalidSessionName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let named = (1..=Self::MAX_LEN).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(allowed);
        if named {
            Ok(Self(text.into()))
        } else {
            Err(InvalidSessionName { text: text.chars().take(Self::MAX_LEN).collect() })
        }
    }

    /// The name as written on disk and on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionName({})", self.0)
    }
}

impl FromStr for SessionName {
    type Err = InvalidSessionName;
    fn from_str(text: &str) -> Result<Self, InvalidSessionName> {
        Self::parse(text)
    }
}

impl TryFrom<String> for SessionName {
    type Error = InvalidSessionName;
    fn try_from(text: String) -> Result<Self, InvalidSessionName> {
        Self::parse(&text)
    }
}

impl From<SessionName> for String {
    fn from(name: SessionName) -> Self {
        name.0.into()
    }
}

/// The content of a session's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFile {
    /// The format's version: [`SESSION_VERSION`].
    pub v: u32,
    /// The last turn that was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<JobId>,
    /// Turns that were submitted and have not ended, in the order in which they are answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<JobId>,
    /// The engines' name for its cached state.
    pub state: CacheName,
}

/// How a submitted turn stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnStanding {
    /// It has not ended, or its state is unknown for now.
    Open,
    /// It has an answer.
    Done,
    /// It failed, was canceled or removed: it is not part of the conversation.
    Void,
}

impl SessionFile {
    /// A session without turns.
    pub fn new(state: CacheName) -> Self {
        Self { v: SESSION_VERSION, head: None, pending: Vec::new(), state }
    }

    /// The turn submitted last, whether or not it was answered.
    pub fn last(&self) -> Option<&JobId> {
        self.pending.last().or(self.head.as_ref())
    }

    /// The pending turn directly before `turn`, if any. For a turn that is not pending, the last
    /// pending one.
    pub fn before(&self, turn: &JobId) -> Option<&JobId> {
        let at = self.pending.iter().position(|id| id == turn).unwrap_or(self.pending.len());
        self.pending.get(at.checked_sub(1)?)
    }

    /// Moves the head over the turns that are done, in order, up to the first open one, and removes
    /// void turns. With `until`, stops before that turn. Returns whether anything changed.
    pub fn settle(
        &mut self,
        until: Option<&JobId>,
        mut stands: impl FnMut(&JobId) -> TurnStanding,
    ) -> bool {
        let (mut waits, mut reached, before) = (false, false, self.pending.len());
        let head = &mut self.head;
        self.pending.retain(|id| {
            reached |= until == Some(id);
            if reached {
                return true;
            }
            match stands(id) {
                TurnStanding::Void => false,
                TurnStanding::Done if !waits => {
                    *head = Some(id.clone());
                    false
                }
                TurnStanding::Open | TurnStanding::Done => {
                    waits = true;
                    true
                }
            }
        });
        self.pending.len() != before
    }
}

/// What one turn adds to a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// Messages that it came with, before its prompt.
    pub messages: Vec<Message>,
    /// The prompt.
    pub prompt: String,
    /// The answer.
    pub answer: String,
    /// What the answer holds beside its text.
    pub output: Vec<Output>,
}

impl Turn {
    /// The turn as messages for the model.
    pub fn into_messages(self) -> impl Iterator<Item = Message> {
        let asked = (!self.prompt.is_empty()).then(|| Message::new(Role::User, self.prompt));
        let answered = Message::answer(self.answer, self.output);
        self.messages.into_iter().chain(asked).chain([answered])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> JobId {
        JobId::parse(&number.to_string()).unwrap()
    }

    fn session(pending: &[u32]) -> SessionFile {
        let pending = pending.iter().copied().map(id).collect();
        SessionFile { pending, ..SessionFile::new("s".into()) }
    }

    #[test]
    fn a_name_is_never_a_path_nor_hidden() {
        for name in ["a", "A.b_c-1", "-", "_", &"x".repeat(64)] {
            assert_eq!(SessionName::parse(name).unwrap().as_str(), name);
        }
        for name in ["", ".", "..", ".a", "a/b", "a b", "ä", "a\0", "a\n", &"x".repeat(65)] {
            assert!(SessionName::parse(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_head_moves_over_what_was_answered_and_not_over_what_failed() {
        use TurnStanding::{Done, Open, Void};
        let mut session = session(&[1, 2, 3, 4]);
        let stands = |id: &JobId| match id.as_str() {
            "1" => Done,
            "2" => Void,
            "3" => Open,
            _ => Done,
        };
        assert!(session.settle(None, stands));
        assert_eq!(session.head, Some(id(1)));
        // A turn answered out of order waits for the ones before it.
        assert_eq!(session.pending, [id(3), id(4)]);
        assert!(!session.settle(None, stands));
        assert!(session.settle(None, |_| Done));
        assert_eq!((session.head, session.pending), (Some(id(4)), Vec::new()));
    }

    #[test]
    fn only_what_goes_before_a_turn_is_settled_for_it() {
        let mut session = session(&[1, 2, 3]);
        assert!(session.settle(Some(&id(2)), |_| TurnStanding::Void));
        assert_eq!(session.pending, [id(2), id(3)]);
        assert_eq!(session.head, None);
        assert_eq!(session.before(&id(3)), Some(&id(2)));
        assert_eq!(session.before(&id(2)), None);
        assert_eq!(session.before(&id(9)), Some(&id(3)));
    }

    #[test]
    fn a_turn_is_its_messages_its_prompt_and_its_answer() {
        let said = Message::new(Role::System, "be brief");
        let turn =
            Turn { messages: vec![said], prompt: "ho".into(), answer: "hi".into(), output: vec![] };
        let roles: Vec<_> = turn.clone().into_messages().map(|message| message.role).collect();
        assert_eq!(roles, [Role::System, Role::User, Role::Assistant]);
        assert_eq!(Turn { prompt: String::new(), ..turn }.into_messages().count(), 2);
    }
}
