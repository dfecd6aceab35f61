//! What was said in a session: read from the jobs that are its turns.

use threadrunner_core::{ErrorCode, Failure, JobId, Message, SessionName, Turn};
use threadrunner_workspace::Reader;

use super::expand::expand;

/// The most bytes of a conversation: beyond what any model reads, and within a frame however JSON
/// writes them.
const MAX_BYTES: usize = 8 << 20;

/// What was said before a turn.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    /// The turn that it comes after.
    pub(super) last: Option<JobId>,
    pub(super) messages: Vec<Message>,
}

impl Conversation {
    /// What was said up to `head`, or up to the turn before it where that is to be replaced.
    pub(super) fn before(
        name: &SessionName,
        head: Option<JobId>,
        replaced: Option<&JobId>,
        reader: &Reader,
    ) -> Result<Self, Failure> {
        if let Some(replaced) = replaced
            && head.as_ref() != Some(replaced)
        {
            return Err(not_the_last(name, replaced));
        }
        let Some(head) = head else { return Ok(Self::default()) };
        let mut chain = reader.chain(&head)?;
        if let Some(missing) = chain.missing {
            return Err(Failure::new(
                ErrorCode::JobNotFound,
                format!(
                    "session '{name}' cannot go on: job {missing}, which is a turn of it, is gone"
                ),
            )
            .hint(format!(
                "`threadrunner sessions show {name}` has what is left; begin another session"
            )));
        }
        if replaced.is_some() {
            chain.turns.pop();
        }
        let mut messages = Vec::new();
        let mut bytes = 0;
        for id in &chain.turns {
            for message in read_turn(id, reader)?.into_messages() {
                bytes += message.content.len();
                messages.push(message);
            }
            if bytes > MAX_BYTES {
                return Err(too_long(
                    name,
                    &Failure::new(
                        ErrorCode::ContextExceeded,
                        format!("it has more than {MAX_BYTES} bytes"),
                    ),
                ));
            }
        }
        Ok(Self { last: chain.turns.pop(), messages })
    }
}

/// What a turn says: its job's own texts, as the model read them.
pub(crate) fn read_turn(id: &JobId, reader: &Reader) -> Result<Turn, Failure> {
    let mut spec = reader.spec(id)?;
    let mut prompt = text(reader.prompt(id)?);
    let answer = text(reader.result(id)?);
    expand(&mut prompt, &mut spec, reader)?;
    Ok(Turn { messages: spec.messages, prompt, answer })
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Why a turn cannot take the place of another.
pub(super) fn not_the_last(name: &SessionName, replaced: &JobId) -> Failure {
    Failure::new(
        ErrorCode::WrongState,
        format!("job {replaced} is not, or not any more, the last turn of session '{name}'"),
    )
    .hint(format!("`threadrunner sessions show {name}` has what was said since"))
}

/// A conversation that the model cannot read any more: nothing of it is left out silently.
pub(crate) fn too_long(name: &SessionName, why: &Failure) -> Failure {
    Failure::new(
        ErrorCode::ContextExceeded,
        format!("session '{name}' has grown too long: {}", why.message),
    )
    .hint(format!(
        "`threadrunner sessions undo {name}` takes its last turn back; or begin another session, or \
         raise `context` in [engine] of config.toml. `threadrunner sessions export {name}` has all \
         that was said"
    ))
}
