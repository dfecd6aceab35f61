//! One step: what the backend is to do, and what came of it.

use crate::{
    BackendError, ErrorCode, Failure, ModelBackend, Parameters, Plan, Sampled, SeqId, TokenId,
};

/// Something the backend is to do before a forward pass.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Begin a sequence.
    Open {
        /// The sequence.
        seq: SeqId,
        /// How to sample.
        params: Parameters,
        /// What will be fed.
        prompt: Vec<TokenId>,
    },
    /// Let a sequence begin with the first tokens of another, and forget what it had.
    Copy {
        /// Whose cells.
        from: SeqId,
        /// Who shares them from now on.
        to: SeqId,
        /// How many.
        tokens: u32,
    },
    /// Forget all but the first tokens of a sequence.
    Trim {
        /// The sequence.
        seq: SeqId,
        /// How many to keep.
        keep: u32,
    },
    /// Forget a sequence.
    Close {
        /// The sequence.
        seq: SeqId,
    },
}

/// What the backend is to do: changes in order, then a forward pass unless it is empty.
#[derive(Debug, Default, PartialEq)]
pub struct Step {
    /// Before the forward pass.
    pub changes: Vec<Change>,
    /// The forward pass.
    pub forward: Plan,
    /// Whether interactive requests take part in it.
    pub interactive: bool,
}

/// What came of a [`Step`].
#[derive(Debug)]
pub struct Outcome {
    /// Sequences that could not be opened or trimmed. The backend has forgotten them, and they
    /// were left out of the forward pass.
    pub refused: Vec<(SeqId, Failure)>,
    /// Sequences that could not be made to begin like another. They have nothing cached, and were
    /// left out of the forward pass.
    pub not_copied: Vec<SeqId>,
    /// What the forward pass sampled.
    pub forward: Result<Vec<Sampled>, BackendError>,
}

impl Step {
    /// Lets `backend` do it.
    pub fn carry_out(&mut self, backend: &mut dyn ModelBackend) -> Outcome {
        let (mut refused, mut not_copied) = (Vec::new(), Vec::new());
        for change in self.changes.drain(..) {
            let (seq, done) = match change {
                Change::Open { seq, params, prompt } => (seq, backend.open(seq, &params, &prompt)),
                Change::Copy { to, .. } if gone(&refused, to) => continue,
                Change::Copy { from, to, tokens } => {
                    let copied = match gone(&refused, from) {
                        true => Err(Failure::new(ErrorCode::Internal, "it is gone").into()),
                        false => backend.copy(from, to, tokens),
                    };
                    match copied {
                        Err(BackendError::Request(_)) => {
                            not_copied.push(to);
                            continue;
                        }
                        copied => (to, copied),
                    }
                }
                Change::Trim { seq, keep } => {
                    (seq, backend.trim(seq, keep).inspect_err(|_| backend.close(seq)))
                }
                Change::Close { seq } => {
                    backend.close(seq);
                    continue;
                }
            };
            match done {
                Ok(()) => {}
                Err(broken @ BackendError::Broken(_)) => {
                    return Outcome { refused, not_copied, forward: Err(broken) };
                }
                Err(error) => refused.push((seq, error.into_failure())),
            }
        }
        self.forward
            .feeds
            .retain(|feed| !gone(&refused, feed.seq) && !not_copied.contains(&feed.seq));
        let mut sampled = Vec::new();
        let forward = if self.forward.feeds.is_empty() {
            Ok(())
        } else {
            backend.forward(&self.forward, &mut sampled)
        };
        Outcome { refused, not_copied, forward: forward.map(|()| sampled) }
    }
}

fn gone(refused: &[(SeqId, Failure)], seq: SeqId) -> bool {
    refused.iter().any(|(gone, _)| *gone == seq)
}
