//! The history of a session, read from the jobs that are its turns.

use threadrunner_core::{ErrorCode, Failure, JobId, Message, SessionName, Turn};
use threadrunner_workspace::Reader;

use super::expand::expand;

/// The maximum size of a conversation in bytes: more than any model reads, and small enough to fit
/// in a frame however JSON escapes it.
const MAX_BYTES: usize = 8 << 20;

/// What was said before a turn.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    /// The turn that it follows.
    pub(super) last: Option<JobId>,
    pub(super) messages: Vec<Message>,
}

impl Conversation {
    /// Reads what was said up to `head`, or up to the turn before it if `head` is to be replaced.
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
                    "session '{name}' cannot continue: job {missing}, one of its turns, is gone"
                ),
            )
            .hint(format!(
                "`threadrunner sessions show {name}` shows what is left; start another session"
            )));
        }
        if replaced.is_some() {
            chain.turns.pop();
        }
        let mut messages = Vec::new();
        let mut bytes = 0;
        for id in &chain.turns {
            for message in read_turn(id, reader)?.into_messages() {
                bytes += message.bytes();
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

/// Reads a turn: its job's own texts, as the model read them.
pub(crate) fn read_turn(id: &JobId, reader: &Reader) -> Result<Turn, Failure> {
    let mut spec = reader.spec(id)?;
    let mut prompt = text(reader.prompt(id)?);
    let (answer, output) = reader.answer(id)?;
    expand(&mut prompt, &mut spec, reader)?;
    Ok(Turn { messages: spec.messages, prompt, answer: text(answer), output })
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// The failure for a turn that cannot replace another.
pub(super) fn not_the_last(name: &SessionName, replaced: &JobId) -> Failure {
    Failure::new(
        ErrorCode::WrongState,
        format!("job {replaced} is not, or no longer, the last turn of session '{name}'"),
    )
    .hint(format!("`threadrunner sessions show {name}` shows what was said since"))
}

/// The failure for a conversation that the model can no longer read. It is never cut silently.
pub(crate) fn too_long(name: &SessionName, why: &Failure) -> Failure {
    Failure::new(
        ErrorCode::ContextExceeded,
        format!("session '{name}' has grown too long: {}", why.message),
    )
    .hint(format!(
        "`threadrunner sessions undo {name}` undoes its last turn; or start another session, or \
         raise `context` in [engine] of config.toml. `threadrunner sessions export {name}` prints \
         the whole conversation"
    ))
}
