//! A live job, queued or running, as its owner keeps it.

use std::time::Instant;

use threadrunner_core::engine_protocol::{EngineRequestId, Generate, Input};
use threadrunner_core::{
    CacheName, ErrorCode, Failure, JobId, JobMeta, JobSpec, Message, ModelRef, Priority, Role,
    Timings,
};
use tokio::sync::{oneshot, watch};

use super::hub::Ending;
use super::queue::{Lane, Ticket};
use super::view::{End, JobView, Phase, ViewReader, ViewSender};
use crate::store::WorkspaceId;

/// A job that is queued or running.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) workspace: WorkspaceId,
    pub(super) model: ModelRef,
    pub(super) priority: Priority,
    /// Its first tag, which decides which jobs it takes turns with.
    pub(super) tag: Option<Box<str>>,
    /// Whether it is canceled if the client that waits for it goes away.
    pub(super) attached: bool,
    /// Whether a client reads its text as it is generated, or has done so.
    pub(super) followed: bool,
    pub(super) submitted: Instant,
    pub(super) deadline: Option<Instant>,
    /// Whether it would survive a crash.
    pub(super) durable: bool,
    /// Where to send its id once it would survive a crash.
    pub(super) tell: Option<oneshot::Sender<Result<JobId, Failure>>>,
    /// What its readers see; created when first needed.
    pub(super) view: Option<ViewSender>,
    /// Why it will end, if it could not be ended at once.
    pub(super) ending: Option<Ending>,
    pub(super) stage: Stage,
}

/// How far a live job is. Each stage holds only what it needs.
#[derive(Debug)]
pub(super) enum Stage {
    /// Being written to disk, to be queued next.
    Storing,
    /// In `ready`, until the usual model of its workspace is looked up.
    Resolving,
    /// In `ready`, held until other jobs have ended.
    Held,
    /// In the queue.
    Queued(Ticket),
    /// Being moved to `processing`, to be claimed next.
    Claiming,
    /// Claimed, and waiting for its engine to load the model.
    Claimed(Box<Work>),
    /// Running in its engine.
    Running(Box<Run>),
    /// Being moved back to `ready`, to be queued next.
    Releasing,
    /// Its end is being written.
    Ending(End),
}

impl Stage {
    /// Whether the job is in `ready` and nothing is being done to it.
    pub(super) fn is_at_rest(&self) -> bool {
        matches!(self, Self::Resolving | Self::Held | Self::Queued(_))
    }
}

/// What a claimed job holds.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) prompt: String,
    pub(super) spec: JobSpec,
    pub(super) meta: JobMeta,
    /// The engine's name for the cached state of its session.
    pub(super) state: Option<CacheName>,
    /// When it was claimed.
    pub(super) since: Instant,
}

/// What a running job holds.
#[derive(Debug)]
pub(super) struct Run {
    /// Its id in the engine protocol.
    pub(super) request: EngineRequestId,
    pub(super) spec: JobSpec,
    pub(super) meta: JobMeta,
    pub(super) since: Instant,
    /// The daemon's part of the timings.
    pub(super) timings: Timings,
    /// Bytes of the answer that are on disk.
    pub(super) flushed: usize,
}

impl Live {
    /// Adds a reader of the job's view.
    pub(super) fn watch(&mut self, id: &JobId) -> ViewReader {
        match &self.view {
            Some(view) => view.subscribe(),
            None => {
                let (view, reader) = watch::channel(JobView::queued(id.clone(), 0, self.durable));
                self.view = Some(view);
                reader
            }
        }
    }

    /// The owner's end of the view. Creates the view if needed, since the answer has to go
    /// somewhere.
    pub(super) fn view(&mut self, id: &JobId) -> &ViewSender {
        self.view
            .get_or_insert_with(|| watch::channel(JobView::queued(id.clone(), 0, self.durable)).0)
    }

    /// Sets the phase that readers see.
    pub(super) fn set_phase(&self, phase: Phase) {
        if let Some(view) = &self.view {
            view.send_if_modified(|view| {
                let changed = view.phase != phase;
                view.phase = phase;
                changed
            });
        }
    }

    /// Tells its readers that the job is left to the next daemon.
    pub(super) fn keep_for_the_next_daemon(&mut self) {
        if let Some(view) = self.view.take() {
            view.send_modify(|view| view.end = Some(End::Failed(kept())));
        }
    }

    /// Which jobs it takes turns with in the queue.
    pub(super) fn lane(&self) -> Lane<'_> {
        Lane { model: &self.model, priority: self.priority, tag: self.tag.as_deref() }
    }

    /// Whether it runs as this request, and not one of an earlier attempt.
    pub(super) fn runs(&self, request: EngineRequestId) -> bool {
        matches!(&self.stage, Stage::Running(run) if run.request == request)
    }

    /// Whether it holds a slot in its engine.
    pub(super) fn in_engine(&self) -> bool {
        matches!(self.stage, Stage::Claiming | Stage::Claimed(_) | Stage::Running(_))
    }
}

impl Work {
    /// Splits into the engine's request and what the owner keeps.
    pub(super) fn into_request(
        self,
        request: EngineRequestId,
        submitted: Instant,
        followed: bool,
    ) -> (Generate, Run) {
        let now = Instant::now();
        let timings = Timings {
            queue_ms: milliseconds(submitted, now),
            load_ms: milliseconds(self.since, now),
            ..Timings::default()
        };
        let input = if self.spec.raw {
            Input::Raw(self.prompt)
        } else {
            let messages = conversation(&self.spec, self.prompt);
            Input::Chat { messages, tools: self.spec.tools.clone() }
        };
        let generate = Generate {
            id: request,
            input,
            params: self.spec.params.clone(),
            priority: self.spec.priority,
            session: self.state,
            stream: followed,
        };
        let (spec, meta) = (self.spec, self.meta);
        (generate, Run { request, spec, meta, since: now, timings, flushed: 0 })
    }
}

/// The system message, the conversation so far and the prompt, as far as there are any.
fn conversation(spec: &JobSpec, prompt: String) -> Vec<Message> {
    let system = spec.system.iter().map(|text| Message::new(Role::System, text.clone()));
    let prompt = (!prompt.is_empty()).then(|| Message::new(Role::User, prompt));
    system.chain(spec.messages.iter().cloned()).chain(prompt).collect()
}

/// Milliseconds from `start` to `end`; 0 if `end` comes first.
pub(super) fn milliseconds(start: Instant, end: Instant) -> f64 {
    end.saturating_duration_since(start).as_secs_f64() * 1e3
}

/// What clients are told about a job that is left to the next daemon.
pub(super) fn kept() -> Failure {
    Failure::new(ErrorCode::ShuttingDown, "the daemon is ending; the job is kept")
        .hint("it runs when the daemon starts again: `threadrunner follow last`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_is_system_then_messages_then_prompt() {
        let earlier = Message::new(Role::Assistant, "hi");
        let spec = JobSpec {
            system: Some("be brief".into()),
            messages: vec![earlier],
            ..JobSpec::default()
        };
        let roles: Vec<_> = conversation(&spec, "ho".into()).iter().map(|m| m.role).collect();
        assert_eq!(roles, [Role::System, Role::Assistant, Role::User]);
        assert_eq!(conversation(&spec, String::new()).len(), 2);
    }
}
