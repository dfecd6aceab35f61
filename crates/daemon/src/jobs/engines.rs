//! Handles what engines tell the owner: events, and exits.

use std::collections::HashMap;
use std::time::Instant;

use threadrunner_core::engine_protocol::{Command, EngineRequestId, Event};
use threadrunner_core::protocol::{KeptModel, Unloaded};
use threadrunner_core::{
    BackendKind, ErrorCode, Failure, FinishReason, JobId, ModelId, ModelRef, Timings, Usage,
};

use super::live::{Live, Stage, milliseconds};
use super::owner::Owner;
use super::view::{Done, End, Phase};
use crate::engine::{Engine, EngineId, EngineMessage, Exit, LoadState};
use crate::store::too_long;

impl Owner {
    /// Handles what an engine sends, or that it has exited.
    pub(super) fn engine(&mut self, id: EngineId, message: EngineMessage) {
        let speaks_of_sizes = match &message {
            EngineMessage::Events(events) => self.sizes.heard(id, events),
            EngineMessage::Exited(exit) => self.sizes.gone(id, &exit.how),
        };
        if speaks_of_sizes {
            return;
        }
        let exited = matches!(message, EngineMessage::Exited(_));
        self.engine_said(id, message);
        if exited {
            // Its memory is not free before this.
            self.leaving.remove(&id);
            // And until now it may have written session states.
            self.states.engine_ended();
        }
    }

    fn engine_said(&mut self, id: EngineId, message: EngineMessage) {
        // An engine that was told to exit may still send events; they are ignored.
        let Some(model) = self.processes.get(&id).cloned() else { return };
        match message {
            EngineMessage::Events(events) => {
                let mut gets_on = false;
                for event in events {
                    match self.engine_event(id, &model, event) {
                        Ok(progress) => gets_on |= progress,
                        Err(what) => self.end_engine(&model, &what),
                    }
                    if !self.processes.contains_key(&id) {
                        return;
                    }
                }
                let awaited = self.requests.awaits(id);
                if gets_on && let Some(engine) = self.engines.get_mut(&model) {
                    engine.heard(awaited, Instant::now());
                }
            }
            EngineMessage::Exited(exit) => self.engine_exited(&model, &exit),
        }
    }

    /// Handles an event. Returns whether it is progress of a request.
    ///
    /// # Errors
    /// If the engine may not send the event. The text continues a sentence that begins with "it".
    fn engine_event(
        &mut self,
        engine: EngineId,
        model: &ModelRef,
        event: Event,
    ) -> Result<bool, String> {
        let mut progress = true;
        match event {
            Event::Loading { fraction } => self.engine_loading(model, fraction)?,
            Event::Ready { model: info, engine: built, stream } => {
                self.must_load(model, "ready")?;
                if let Some(engine) = self.engines.get_mut(model) {
                    engine.set_knows_stream(stream);
                }
                let ready = LoadState::Ready(Box::new((*info, built)));
                for id in self.set_engine(model, ready) {
                    self.start(&id);
                }
            }
            Event::LoadFailed { failure } => {
                self.must_load(model, "load_failed")?;
                self.load_failed(model, &failure, false);
            }
            // It concerns no request, so it is not progress.
            Event::Unknown => {
                progress = false;
                if self.engines.get_mut(model).is_some_and(|engine| !engine.surprises()) {
                    return Err("sent too many unknown events".to_owned());
                }
            }
            Event::Sized { .. } => return Err("sent `sized` without being asked".to_owned()),
            Event::Prefill { id, done, total } => {
                let job = self.requests.heard(id, engine, 0)?;
                if let Some(live) = self.live.get(job).filter(|live| live.runs(id)) {
                    live.set_phase(Phase::Prefill { done, total });
                }
                progress = self.requests.read(id, done);
            }
            Event::Text { id, text } => {
                let job = self.requests.heard(id, engine, text.len())?.clone();
                self.text(&job, id, &text);
                progress = !text.is_empty();
            }
            Event::Finished { id, finish_reason, usage, timings } => {
                let job = self.requests.end(id, engine)?;
                if let Some(engine) = self.engines.get_mut(model) {
                    engine.count(&usage);
                }
                if self.leave_engine(model, &job, id) {
                    self.finish(&job, finish_reason, usage, timings);
                }
            }
            Event::Failed { id, failure } => {
                let job = self.requests.end(id, engine)?;
                if self.leave_engine(model, &job, id) {
                    let failure = self.told_to_session(&job, failure);
                    self.fail_claimed(&job, failure);
                }
            }
        }
        Ok(progress)
    }

    /// Checks that an engine is still loading, so that it may send the event `what`.
    fn must_load(&self, model: &ModelRef, what: &str) -> Result<(), String> {
        match self.engines.get(model).and_then(Engine::loading) {
            Some(_) => Ok(()),
            None => Err(format!("sent `{what}` after it had loaded the model")),
        }
    }

    /// Rewords a failure if the job is a turn of a session that has outgrown the context.
    fn told_to_session(&self, id: &JobId, failure: Failure) -> Failure {
        let session = match self.live.get(id).map(|live| &live.stage) {
            // The first turn follows no other: it is the prompt that is too long.
            Some(Stage::Running(run)) if run.meta.parent.is_some() => run.spec.session.as_ref(),
            _ => None,
        };
        match session {
            Some(session) if failure.code == ErrorCode::ContextExceeded => {
                too_long(session, &failure)
            }
            _ => failure,
        }
    }

    /// Sets an engine's load state. Returns the jobs that it was given.
    fn set_engine(&mut self, model: &ModelRef, state: LoadState) -> Vec<JobId> {
        let Some(engine) = self.engines.get_mut(model) else { return Vec::new() };
        engine.set(state, Instant::now());
        engine.jobs()
    }

    fn engine_loading(&mut self, model: &ModelRef, fraction: f32) -> Result<(), String> {
        self.must_load(model, "loading")?;
        let name = model.name();
        let gets_on = self.engines.get_mut(model).map(|it| it.get_on(fraction, Instant::now()));
        if gets_on == Some(false) {
            return Err("sent too many `loading` events".to_owned());
        }
        for id in self.set_engine(model, LoadState::Loading(fraction)) {
            if let Some(live) = self.live.get(&id) {
                live.set_phase(Phase::Loading { model: name.clone(), fraction });
            }
        }
        Ok(())
    }

    /// Ends the engine of a model that cannot be loaded. Its jobs fail; with `may_load`, the model
    /// was not to blame, and they only lose an attempt.
    pub(super) fn load_failed(&mut self, model: &ModelRef, failure: &Failure, may_load: bool) {
        tracing::warn!(model = model.name(), %failure, "cannot load the model");
        for id in self.set_engine(model, LoadState::Failed(failure.clone())) {
            // A job whose claim is still under way later finds no engine, and asks for another.
            let claimed =
                matches!(self.live.get(&id).map(|live| &live.stage), Some(Stage::Claimed(_)));
            if claimed && !may_load {
                self.fail_claimed(&id, failure.clone());
            } else {
                // Costs a claimed job an attempt, and does nothing to one whose claim is under way.
                self.lose_attempt(&id, failure);
            }
        }
        self.forget_engine(model);
    }

    fn engine_exited(&mut self, model: &ModelRef, exit: &Exit) {
        let how = &exit.how;
        tracing::warn!(model = model.name(), how, "the engine exited unexpectedly");
        let died_loading = self.engines.get(model).and_then(Engine::loading).is_some();
        if died_loading {
            let failure = Failure::new(
                ErrorCode::ModelLoad,
                format!("the engine died while loading {}: it {how}", path_of(model)),
            )
            .hint("the file may be damaged, or need more memory than is available");
            self.load_failed(model, &failure, exit.was_killed);
            return;
        }
        let Some(engine) = self.forget_engine(model) else { return };
        let failure = engine_died(how);
        for id in engine.jobs() {
            self.lose_attempt(&id, &failure);
        }
    }

    /// Retries a job whose engine died, or fails it with `failure` if it has no attempts left or an
    /// attached client has seen some of its text.
    pub(super) fn lose_attempt(&mut self, id: &JobId, failure: &Failure) {
        let Some(live) = self.live.get_mut(id) else { return };
        let spec = match &live.stage {
            Stage::Running(run) => &run.spec,
            Stage::Claimed(work) => &work.spec,
            _ => return,
        };
        let usual = self.stores[live.workspace].settings().max_attempts;
        let most = spec.max_attempts.unwrap_or(usual);
        let shown = live.view.as_ref().is_some_and(|view| !view.borrow().text.is_empty());
        // Text that an attached client was sent cannot be taken back from its pipe.
        if spec.attempts >= most || (live.attached && shown) {
            let message = format!("{} (attempt {} of {most})", failure.message, spec.attempts);
            self.fail_claimed(id, Failure { message, ..failure.clone() });
            return;
        }
        live.stage = Stage::Releasing;
        if let Some(view) = &live.view {
            view.send_modify(|view| {
                view.attempt += 1;
                view.earlier = std::mem::take(&mut view.text);
                view.phase = Phase::Queued { position: 0 };
            });
        }
        self.stores[live.workspace].release(id.clone(), true);
    }

    /// Sends a claimed job to its engine, which has loaded the model.
    pub(super) fn start(&mut self, id: &JobId) {
        let Some(live) = self.live.get_mut(id) else { return };
        let Some(engine) = self.engines.get_mut(&live.model) else { return };
        let stage = std::mem::replace(&mut live.stage, Stage::Storing);
        let Stage::Claimed(work) = stage else {
            live.stage = stage;
            return;
        };
        engine.keep(work.spec.keep_alive);
        self.next_request += 1;
        let (generate, run) =
            work.into_request(EngineRequestId(self.next_request), live.submitted, live.followed);
        let (max_tokens, context) = (generate.params.max_tokens, engine.context());
        self.requests.add(run.request, id.clone(), engine.id(), max_tokens, context);
        engine.asked(Instant::now());
        live.stage = Stage::Running(Box::new(run));
        live.view(id);
        // If this fails, the engine is gone, and its task says so next.
        engine.send(Command::Generate(Box::new(generate)));
        let model = live.model.clone();
        self.note_last_model(&model);
    }

    /// Records which model was used last, if that has changed.
    fn note_last_model(&mut self, model: &ModelRef) {
        let Some(path) = &model.path else { return };
        if model.backend == BackendKind::Llama && self.last_model.as_ref() != Some(path) {
            self.last_model = Some(path.clone());
            if let Err(error) = threadrunner_home::note_last_model(&self.home, path) {
                tracing::warn!(%error, "cannot record the model used last");
            }
        }
    }

    fn text(&mut self, id: &JobId, request: EngineRequestId, text: &str) {
        let Some(live) = self.live.get_mut(id).filter(|live| live.runs(request)) else { return };
        live.view(id).send_modify(|view| {
            view.phase = Phase::Decode;
            view.text.push_str(text);
        });
        self.flush_soon(id);
    }

    /// Frees the slot that a request had in its engine. Returns whether the job still runs that
    /// request.
    fn leave_engine(&mut self, model: &ModelRef, job: &JobId, request: EngineRequestId) -> bool {
        let live = self.live.get(job);
        let running = live.is_some_and(|live| live.runs(request));
        // A job that was canceled and has begun again since holds the slot anew.
        let begun_again = !running && live.is_some_and(Live::in_engine);
        if !begun_again && let Some(engine) = self.engines.get_mut(model) {
            engine.end(job, Instant::now());
        }
        running
    }

    fn finish(&mut self, id: &JobId, finish_reason: FinishReason, usage: Usage, timings: Timings) {
        if finish_reason == FinishReason::Canceled {
            // The daemon did not ask for this: a job that it cancels has ended already.
            let failure = Failure::new(ErrorCode::Canceled, "the engine canceled the job");
            self.fail_claimed(id, failure);
            return;
        }
        let Some(live) = self.live.get_mut(id) else { return };
        let Stage::Running(run) = &mut live.stage else { return };
        let timings = Timings {
            queue_ms: run.timings.queue_ms,
            load_ms: run.timings.load_ms,
            total_ms: milliseconds(live.submitted, Instant::now()),
            ..timings
        };
        let mut meta = std::mem::take(&mut run.meta);
        meta.duration_s = Some(run.since.elapsed().as_secs_f64());
        meta.set_model(model_id(&self.engines, &live.model));
        meta.finish_reason = Some(finish_reason);
        meta.usage = Some(usage);
        meta.timings = Some(timings);
        let done = Done { model: live.model.name(), finish_reason, usage, timings };
        live.stage = Stage::Ending(End::Done(Box::new(done)));
        let text = live.view.as_ref().map(|view| view.borrow().text.clone()).unwrap_or_default();
        self.unflushed.remove(id);
        self.stores[live.workspace].complete(id.clone(), text, meta);
    }

    /// Unloads a model, even if it is busy or pinned; with `None`, all models that are neither.
    /// Returns the names of the unloaded models and, with `None`, the models kept. A model without
    /// a draft model stands for all of its engines, whatever their draft models.
    pub(super) fn unload(&mut self, model: Option<&ModelRef>) -> Unloaded {
        let chosen: Vec<_> = match model {
            Some(model) => {
                let loaded = self.engines.keys().filter(|loaded| loaded.is_as_asked(model));
                loaded.cloned().collect()
            }
            None => self
                .engines
                .values()
                .filter(|engine| engine.jobs().is_empty() && !engine.is_pinned())
                .map(|engine| engine.model().clone())
                .collect(),
        };
        for model in &chosen {
            tracing::info!(model = model.name(), "unloaded: requested");
            if let Some(engine) = self.forget_engine(model) {
                for job in engine.jobs() {
                    self.lose_attempt(&job, &engine_died("was unloaded"));
                }
            }
        }
        let mut models: Vec<_> = chosen.iter().map(ModelRef::name).collect();
        models.sort();
        let kept = |engine: &Engine| KeptModel {
            name: engine.model().name(),
            pinned: engine.is_pinned(),
            running: u32::try_from(engine.jobs().len()).unwrap_or(u32::MAX),
        };
        let mut kept: Vec<_> = match model {
            Some(_) => Vec::new(),
            None => self.engines.values().map(kept).collect(),
        };
        kept.sort();
        Unloaded { models, kept }
    }
}

pub(super) fn engine_died(how: &str) -> Failure {
    Failure::new(ErrorCode::EngineDied, format!("the engine died: it {how}"))
        .hint("the daemon keeps running; its log has the engine's last output")
}

/// What a model is, as far as its engine has said.
pub(super) fn model_id(engines: &HashMap<ModelRef, Engine>, model: &ModelRef) -> ModelId {
    engines.get(model).map_or_else(|| model.id(None), Engine::model_id)
}

pub(super) fn path_of(model: &ModelRef) -> String {
    match &model.path {
        Some(path) => path.display().to_string(),
        None => model.name(),
    }
}
