//! Handles what engines tell the owner: events, and exits.

use std::time::Instant;

use threadrunner_core::engine_protocol::{Command, EngineRequestId, Event};
use threadrunner_core::protocol::Unloaded;
use threadrunner_core::{
    BackendKind, ErrorCode, Failure, FinishReason, JobId, ModelRef, Output, Timings, Usage,
};

use super::fleet::Estimate;
use super::hub::ToUnload;
use super::live::{Live, Stage, milliseconds};
use super::owner::Owner;
use super::view::{Done, End, Phase, ViewSender};
use crate::engine::{EngineId, EngineMessage, Exit, LoadState};
use crate::store::too_long;

impl Owner {
    /// Handles what an engine sends, or that it has exited.
    pub(super) fn engine(&mut self, id: EngineId, message: EngineMessage) {
        let estimate = match &message {
            EngineMessage::Events(events) => self.fleet.estimated(id, events),
            EngineMessage::Exited(exit) => self.fleet.no_estimate(id, &exit.how),
        };
        match estimate {
            None => {}
            Some(Estimate::Awaited) => return,
            Some(Estimate::Given) => return self.processes.release(id),
            Some(Estimate::Failed) => {
                self.processes.kill(id);
                return self.processes.release(id);
            }
        }
        let exited = matches!(message, EngineMessage::Exited(_));
        self.engine_said(id, message);
        if exited {
            // Its memory is not free before this.
            self.fleet.exited(id);
            // And until now it may have written session states.
            self.disk.engine_ended();
        }
    }

    fn engine_said(&mut self, id: EngineId, message: EngineMessage) {
        // An engine that was told to exit may still send events; they are ignored.
        let Some(model) = self.fleet.model_of(id).cloned() else { return };
        match message {
            EngineMessage::Events(events) => {
                let mut gets_on = false;
                for event in events {
                    match self.engine_event(id, &model, event) {
                        Ok(progress) => gets_on |= progress,
                        Err(what) => self.end_engine(&model, &what),
                    }
                    if self.fleet.model_of(id).is_none() {
                        return;
                    }
                }
                let awaited = self.requests.awaits(id);
                if gets_on {
                    self.fleet.heard(&model, awaited, Instant::now());
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
                if !self.fleet.loaded(model, *info, built, stream, Instant::now()) {
                    return Err(was_loaded("ready"));
                }
                for id in self.show(model, LoadState::Ready) {
                    self.start(&id);
                }
            }
            Event::LoadFailed { failure } => {
                if self.fleet.loading(model).is_none() {
                    return Err(was_loaded("load_failed"));
                }
                self.load_failed(model, &failure, false);
            }
            // It concerns no request, so it is not progress.
            Event::Unknown => {
                progress = false;
                self.surprised_by(model)?;
            }
            Event::Sized { .. } => return Err("sent `sized` without being asked".to_owned()),
            Event::Prefill { id, done, total } => {
                let job = self.requests.heard(id, engine, 0)?;
                if let Some(live) = self.live.get(job).filter(|live| live.runs(id)) {
                    live.set_phase(Phase::Prefill { done, total });
                }
                progress = self.requests.read(id, done) && !self.requests.is_canceled(id);
            }
            Event::Text { id, text } => {
                let job = self.requests.heard(id, engine, text.len())?.clone();
                self.text(&job, id, &text);
                progress = !text.is_empty() && !self.requests.is_canceled(id);
            }
            Event::Output { id, output } => {
                let kind = output.kind();
                let job = self.requests.heard(id, engine, output.bytes())?.clone();
                progress = !self.requests.is_canceled(id);
                let gives = self.fleet.ready(model).is_some_and(|ready| ready.gives(kind));
                if !output.is_known() {
                    self.surprised_by(model)?;
                } else if gives {
                    self.output(&job, id, output);
                } else {
                    return Err(format!("sent {kind}, which its `ready` does not mention"));
                }
            }
            Event::Finished { id, finish_reason, usage, timings } => {
                let job = self.requests.end(id, engine)?;
                if let Some(ready) = self.fleet.ready(model) {
                    ready.count(&usage);
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

    /// Counts what an engine sends that this daemon does not know.
    fn surprised_by(&mut self, model: &ModelRef) -> Result<(), String> {
        match self.fleet.engine_mut(model).is_some_and(|engine| !engine.surprises()) {
            true => Err("sent too many unknown events".to_owned()),
            false => Ok(()),
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

    /// Shows those who wait for a model how its engine gets on. Returns the jobs that it was given.
    fn show(&self, model: &ModelRef, state: LoadState) -> Vec<JobId> {
        let Some(engine) = self.fleet.engine(model) else { return Vec::new() };
        self.processes.show(engine.id(), state);
        engine.jobs()
    }

    fn engine_loading(&mut self, model: &ModelRef, fraction: f32) -> Result<(), String> {
        let loading = self.fleet.loading(model).ok_or_else(|| was_loaded("loading"))?;
        if !loading.get_on(fraction, Instant::now()) {
            return Err("sent too many `loading` events".to_owned());
        }
        let name = model.name();
        for id in self.show(model, LoadState::Loading(fraction)) {
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
        for id in self.show(model, LoadState::Failed(failure.clone())) {
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
        self.deaths.died(model, Instant::now());
        if self.fleet.loading(model).is_some() {
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
                view.output.clear();
                view.phase = Phase::Queued { position: 0 };
            });
        }
        self.stores[live.workspace].release(id.clone(), true);
    }

    /// Sends a claimed job to its engine, which has loaded the model. Fails it if the model does not
    /// take what it asks.
    pub(super) fn start(&mut self, id: &JobId) {
        let Some(live) = self.live.get_mut(id) else { return };
        if !self.fleet.has_engine(&live.model) {
            return;
        }
        let stage = std::mem::replace(&mut live.stage, Stage::Storing);
        let Stage::Claimed(work) = stage else {
            live.stage = stage;
            return;
        };
        if let Err(failure) = self.fleet.takes(&live.model, &work.spec) {
            live.stage = Stage::Claimed(work);
            return self.fail_claimed(id, failure);
        }
        let Some(engine) = self.fleet.engine_mut(&live.model) else { return };
        engine.keep(work.spec.keep_alive);
        engine.asked(Instant::now());
        let engine = engine.id();
        let (generate, run) =
            work.into_request(self.requests.next(), live.submitted, live.followed);
        let context = self.fleet.ready(&live.model).map_or(0, |ready| ready.context());
        let max_tokens = generate.params.max_tokens;
        self.requests.add(run.request, id.clone(), engine, max_tokens, context);
        live.stage = Stage::Running(Box::new(run));
        live.view(id);
        // If this fails, the engine is gone, and its task says so next.
        self.processes.send(engine, Command::Generate(Box::new(generate)));
        let model = live.model.clone();
        self.note_last_model(&model);
    }

    /// Records which model was used last, if that has changed.
    fn note_last_model(&mut self, model: &ModelRef) {
        let Some(path) = &model.path else { return };
        if model.backend == BackendKind::Llama && self.last_model.as_ref() != Some(path) {
            self.last_model = Some(path.clone());
            self.disk.note_last_model(path.clone());
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

    fn output(&mut self, id: &JobId, request: EngineRequestId, output: Output) {
        let Some(live) = self.live.get_mut(id).filter(|live| live.runs(request)) else { return };
        live.view(id).send_modify(|view| {
            view.phase = Phase::Decode;
            output.add_to(&mut view.output);
        });
    }

    /// Frees the slot that a request had in its engine. Returns whether the job still runs that
    /// request.
    fn leave_engine(&mut self, model: &ModelRef, job: &JobId, request: EngineRequestId) -> bool {
        let live = self.live.get(job);
        let running = live.is_some_and(|live| live.runs(request));
        // A job that was canceled and has begun again since holds the slot anew.
        let begun_again = !running && live.is_some_and(Live::in_engine);
        if !begun_again {
            self.fleet.end(model, job, Instant::now());
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
        let total_ms = milliseconds(live.submitted, Instant::now());
        let timings = measured(timings, &run.timings, total_ms);
        let mut meta = std::mem::take(&mut run.meta);
        meta.duration_s = Some(run.since.elapsed().as_secs_f64());
        meta.set_model(self.fleet.id_of(&live.model));
        meta.finish_reason = Some(finish_reason);
        meta.usage = Some(usage);
        meta.timings = Some(timings);
        let done = Done { model: live.model.name(), finish_reason, usage, timings };
        live.stage = Stage::Ending(End::Done(Box::new(done)));
        let said = |view: &ViewSender| {
            let view = view.borrow();
            (view.text.clone(), view.output.clone())
        };
        let (text, output) = live.view.as_ref().map(said).unwrap_or_default();
        self.unflushed.jobs.remove(id);
        self.stores[live.workspace].complete(id.clone(), text, output, meta);
    }

    /// Unloads a model, even if it is busy or pinned; with `None`, all models that are neither.
    /// Returns the names of the unloaded models and, with `None`, the models kept. A model without
    /// a draft model stands for all of its engines, whatever their draft models.
    pub(super) fn unload(&mut self, which: &ToUnload) -> Unloaded {
        let chosen = self.fleet.to_unload(which);
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
        let kept = match which {
            ToUnload::Model(_) => Vec::new(),
            ToUnload::Idle(backend) => self.fleet.kept(*backend),
        };
        Unloaded { models, kept }
    }
}

/// The timings that an engine reports, cut to the time that it had, with those that the daemon
/// measured.
fn measured(said: Timings, ours: &Timings, total_ms: f64) -> Timings {
    let in_engine = (total_ms - ours.queue_ms).max(0.0);
    let prefill_ms = said.prefill_ms.min(in_engine);
    Timings {
        queue_ms: ours.queue_ms,
        load_ms: ours.load_ms,
        prefill_ms,
        decode_ms: said.decode_ms.min(in_engine - prefill_ms),
        total_ms,
        ..said
    }
}

fn was_loaded(event: &str) -> String {
    format!("sent `{event}` after it had loaded the model")
}

pub(super) fn engine_died(how: &str) -> Failure {
    Failure::new(ErrorCode::EngineDied, format!("the engine died: it {how}"))
        .hint("the daemon keeps running; its log has the engine's last output")
}

pub(super) fn path_of(model: &ModelRef) -> String {
    match &model.path {
        Some(path) => path.display().to_string(),
        None => model.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_not_believed_to_have_taken_longer_than_it_had() {
        let ours = Timings { queue_ms: 10.0, load_ms: 5.0, ..Timings::default() };
        for (prefill_ms, decode_ms, cut) in
            [(20.0, 60.0, (20.0, 60.0)), (20.0, 3e10, (20.0, 70.0)), (3e10, 3e10, (90.0, 0.0))]
        {
            let said = Timings { prefill_ms, decode_ms, ..Timings::default() };
            let timings = measured(said, &ours, 100.0);
            assert_eq!((timings.prefill_ms, timings.decode_ms), cut);
            assert_eq!((timings.queue_ms, timings.load_ms, timings.total_ms), (10.0, 5.0, 100.0));
        }
    }
}
