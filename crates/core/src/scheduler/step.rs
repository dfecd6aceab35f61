//! One step: what the backend should do ([`Step`], [`Change`]), and the result ([`Outcome`]).

use std::time::Duration;

use super::sequence::count;
use super::{ParkedStates, SavedStates};
use crate::{
    BackendError, CacheName, Draft, DraftRequest, ErrorCode, Failure, ModelBackend, Parameters,
    Plan, Sampled, SeqId, TokenId,
};

/// Something for the backend to do before a forward pass.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Open a sequence.
    Open {
        /// The sequence.
        seq: SeqId,
        /// How to sample.
        params: Parameters,
        /// The tokens that will be fed.
        prompt: Vec<TokenId>,
    },
    /// Make a sequence begin with the first tokens of another; free what it had.
    Copy {
        /// The sequence that has the cells.
        from: SeqId,
        /// The sequence that shares them from now on.
        to: SeqId,
        /// The number of tokens.
        tokens: u32,
    },
    /// Free all but the first tokens of a sequence.
    Trim {
        /// The sequence.
        seq: SeqId,
        /// The number of tokens to keep.
        keep: u32,
    },
    /// Make a sequence with nothing cached begin with a session's saved state.
    Restore {
        /// The sequence.
        seq: SeqId,
        /// The session.
        session: CacheName,
        /// The tokens in the saved state.
        tokens: Vec<TokenId>,
        /// The number of tokens to keep.
        keep: u32,
    },
    /// Save what a sequence has cached as the state of a session.
    Save {
        /// The sequence.
        seq: SeqId,
        /// The session.
        session: CacheName,
        /// The tokens that the sequence has cached.
        tokens: Vec<TokenId>,
    },
    /// Copy what a sequence has cached to memory outside the cache.
    Park {
        /// The sequence.
        seq: SeqId,
        /// The number to store it under.
        number: u64,
    },
    /// Make a sequence with nothing cached begin with a parked state.
    Unpark {
        /// The sequence.
        seq: SeqId,
        /// The parked state's number.
        number: u64,
        /// The number of tokens in the parked state.
        tokens: u32,
        /// The number of tokens to keep.
        keep: u32,
    },
    /// Delete a parked state.
    Discard {
        /// The parked state's number.
        number: u64,
    },
    /// Close a sequence.
    Close {
        /// The sequence.
        seq: SeqId,
    },
}

/// What the backend should do: changes in order, then drafts, then a forward pass unless it is
/// empty.
#[derive(Debug, Default, PartialEq)]
pub struct Step {
    /// Changes to make first.
    pub changes: Vec<Change>,
    /// The sequences of the forward pass for which the draft model should guess. Its guesses are
    /// added to the forward pass.
    pub drafting: Vec<DraftRequest>,
    /// The forward pass.
    pub forward: Plan,
    /// Whether the forward pass includes interactive requests.
    pub interactive: bool,
}

/// The result of a [`Step`].
#[derive(Debug)]
pub struct Outcome {
    /// Sequences that could not be opened or trimmed. The backend has closed them, and the forward
    /// pass left them out.
    pub refused: Vec<(SeqId, Failure)>,
    /// Sequences that could not share another's cells. They have nothing cached, and the forward
    /// pass left them out.
    pub not_copied: Vec<SeqId>,
    /// Sequences that could not be restored. They have nothing cached, and the forward pass left
    /// them out.
    pub not_restored: Vec<SeqId>,
    /// Numbers of states that could not be parked or restored.
    pub lost: Vec<u64>,
    /// Sequences in which the draft model cannot guess.
    pub not_drafted: Vec<SeqId>,
    /// How long the draft model took.
    pub drafting: Duration,
    /// The tokens that the forward pass sampled.
    pub forward: Result<Vec<Sampled>, BackendError>,
}

impl Step {
    /// Whether the changes take negligible time, because none of them reads or writes cells.
    pub fn only_computes(&self) -> bool {
        use Change::{Park, Restore, Save, Unpark};
        let moves_cells = |change: &Change| {
            matches!(change, Restore { .. } | Save { .. } | Park { .. } | Unpark { .. })
        };
        !self.changes.iter().any(moves_cells)
    }

    /// Carries out the step on `backend`, without any stored states.
    pub fn carry_out(&mut self, backend: &mut dyn ModelBackend) -> Outcome {
        self.carry_out_with(backend, &mut (), &mut ParkedStates::default())
    }

    /// Carries out the step on `backend`, with the saved `states` of sessions and the `parked`
    /// states.
    pub fn carry_out_with(
        &mut self,
        backend: &mut dyn ModelBackend,
        states: &mut dyn SavedStates,
        parked: &mut ParkedStates,
    ) -> Outcome {
        let (mut refused, mut not_copied, mut not_restored) = (Vec::new(), Vec::new(), Vec::new());
        let mut lost = Vec::new();
        for change in self.changes.drain(..) {
            let (seq, done) = match change {
                Change::Open { seq, params, prompt } => (seq, backend.open(seq, &params, &prompt)),
                Change::Copy { to, .. } if gone(&refused, to) => continue,
                Change::Copy { from, to, tokens } => {
                    let lost = gone(&refused, from) || not_restored.contains(&from);
                    let copied = match lost || not_copied.contains(&from) {
                        true => Err(Failure::new(ErrorCode::Internal, "it is gone").into()),
                        false => backend.copy(from, to, tokens),
                    };
                    (to, or_nothing(backend, to, copied, &mut not_copied))
                }
                Change::Trim { seq, keep } => {
                    (seq, backend.trim(seq, keep).inspect_err(|_| backend.close(seq)))
                }
                Change::Restore { seq, .. } if gone(&refused, seq) => continue,
                Change::Restore { seq, session, tokens, keep } => {
                    let state = states.read(&session, &tokens);
                    let restored =
                        restore(backend, seq, state.as_deref(), count(tokens.len()), keep);
                    (seq, or_nothing(backend, seq, restored, &mut not_restored))
                }
                Change::Save { seq, session, tokens } => {
                    let there = !gone(&refused, seq) && !not_copied.contains(&seq);
                    // What is not saved is recomputed when it is needed.
                    if there && let Ok(Some(state)) = backend.save(seq, states.most_bytes()) {
                        states.write(&session, &tokens, &state);
                    }
                    continue;
                }
                Change::Park { seq, number } => {
                    let there = !gone(&refused, seq) && !not_copied.contains(&seq);
                    match there.then(|| backend.save(seq, usize::MAX)) {
                        Some(Ok(Some(state))) => parked.put(number, state),
                        None | Some(Ok(None) | Err(_)) => lost.push(number),
                    }
                    continue;
                }
                Change::Unpark { seq, .. } if gone(&refused, seq) => continue,
                Change::Unpark { seq, number, tokens, keep } => {
                    let restored = restore(backend, seq, parked.get(number), tokens, keep);
                    if restored.is_err() {
                        parked.forget(number);
                        lost.push(number);
                    }
                    (seq, or_nothing(backend, seq, restored, &mut not_restored))
                }
                Change::Discard { number } => {
                    parked.forget(number);
                    continue;
                }
                Change::Close { seq } => {
                    backend.close(seq);
                    continue;
                }
            };
            match done {
                Ok(()) => {}
                Err(broken @ BackendError::Broken(_)) => {
                    return Outcome {
                        refused,
                        not_copied,
                        not_restored,
                        lost,
                        not_drafted: Vec::new(),
                        drafting: Duration::ZERO,
                        forward: Err(broken),
                    };
                }
                Err(error) => refused.push((seq, error.into_failure())),
            }
        }
        self.forward.feeds.retain(|feed| {
            !gone(&refused, feed.seq)
                && !not_copied.contains(&feed.seq)
                && !not_restored.contains(&feed.seq)
        });
        let (not_drafted, drafting) = self.add_guesses(backend);
        let mut sampled = Vec::new();
        let forward = if self.forward.feeds.is_empty() {
            Ok(())
        } else {
            backend.forward(&self.forward, &mut sampled)
        };
        let forward = forward.map(|()| sampled);
        Outcome { refused, not_copied, not_restored, lost, not_drafted, drafting, forward }
    }

    /// Asks the draft model and adds its guesses to the forward pass. Returns the sequences in
    /// which it cannot guess, and how long it took.
    fn add_guesses(&mut self, backend: &mut dyn ModelBackend) -> (Vec<SeqId>, Duration) {
        let feeds = &mut self.forward.feeds;
        self.drafting.retain(|request| feeds.iter().any(|feed| feed.seq == request.seq));
        if self.drafting.is_empty() {
            return (Vec::new(), Duration::ZERO);
        }
        let drafted = backend.draft(&self.drafting);
        let mut not_drafted = Vec::new();
        for (request, draft) in self.drafting.iter().zip(drafted.drafts) {
            let feed = feeds.iter_mut().find(|feed| feed.seq == request.seq);
            match (draft, feed) {
                (Draft::Tokens(tokens), Some(feed)) => {
                    feed.drafts = tokens.len().min(request.n);
                    feed.tokens.extend_from_slice(&tokens[..feed.drafts]);
                }
                (Draft::Never, _) => not_drafted.push(request.seq),
                (Draft::Reading, _) | (Draft::Tokens(_), None) => {}
            }
        }
        (not_drafted, drafted.took)
    }
}

fn restore(
    backend: &mut dyn ModelBackend,
    seq: SeqId,
    state: Option<&[u8]>,
    tokens: u32,
    keep: u32,
) -> Result<(), BackendError> {
    let state = state.ok_or_else(|| Failure::new(ErrorCode::Internal, "the state is gone"))?;
    backend.restore(seq, tokens, state)?;
    if keep < tokens { backend.trim(seq, keep) } else { Ok(()) }
}

/// Makes a sequence that could not be given its cells continue with none, even if it had some
/// before.
fn or_nothing(
    backend: &mut dyn ModelBackend,
    seq: SeqId,
    begun: Result<(), BackendError>,
    with_nothing: &mut Vec<SeqId>,
) -> Result<(), BackendError> {
    match begun {
        Err(BackendError::Request(_)) => {
            with_nothing.push(seq);
            backend.trim(seq, 0).inspect_err(|_| backend.close(seq))
        }
        begun => begun,
    }
}

fn gone(refused: &[(SeqId, Failure)], seq: SeqId) -> bool {
    refused.iter().any(|(gone, _)| *gone == seq)
}
