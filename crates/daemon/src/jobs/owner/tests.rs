//! The owner, event by event, in orders that processes and disks rarely produce.

mod disks;
mod hostile;
mod kinds;

use std::sync::Arc;
use std::time::SystemTime;

use tempfile::TempDir;
use threadrunner_core::engine_protocol::{
    Command, EngineInfo, EngineOptions, EngineRequestId, Event, Load,
};
use threadrunner_core::{
    BackendKind, FinishReason, JobMeta, JobSpec, JobState, KeepAlive, ModelInfo, ModelRef,
    Priority, Timings, Usage,
};
use threadrunner_home::{ModelConfig, SessionsConfig};
use threadrunner_workspace::{Options, Workspace};
use tokio::sync::oneshot;

use super::super::fleet::Started;
use super::super::hub::{JobName, Order};
use super::super::inbox::Next;
use super::super::live::Stage;
use super::super::{Awaited, Ending, NewJob};
use super::*;
use crate::engine::{EngineMessage, EngineProcess, Exit, LoadState};
use crate::model_files::ModelFiles;
use crate::models::tests::{Disk, eventually};
use crate::models::{FoundModel, ModelCatalog};
use crate::store::Store;
use crate::workspaces::Served;

/// An owner that the test feeds each event. Its engines are programs that exit at once; the test
/// also sends their events.
struct Story {
    owner: Owner,
    hub: Hub,
    home: Home,
    catalog: ModelCatalog,
    disk: Arc<Disk>,
    served: Vec<Served>,
    _directory: TempDir,
}

/// The size of an engine in bytes: far more than the processes of these tests take.
const SIZE: u64 = 1 << 40;

fn model() -> ModelRef {
    ModelRef { backend: BackendKind::Dummy, path: None, draft: None }
}

/// A model as it is on disk now.
fn found(model: &ModelRef) -> FoundModel {
    let (files, settings) = (ModelFiles::of(model), ModelConfig::default());
    FoundModel { model: model.clone(), files, settings }
}

fn ready(info: ModelInfo) -> Event {
    Event::Ready { model: Box::new(info), engine: EngineInfo::default(), stream: true }
}

fn finished(id: u64, finish_reason: FinishReason) -> Event {
    let (usage, timings) = (Usage::default(), Timings::default());
    Event::Finished { id: EngineRequestId(id), finish_reason, usage, timings }
}

fn exited(how: &str, was_killed: bool) -> EngineMessage {
    EngineMessage::Exited(Exit { how: how.to_owned(), was_killed })
}

impl Story {
    fn new() -> Self {
        Self::with(Config::default())
    }

    /// A story with this configuration and room for four engines. No states of sessions are kept.
    fn with(config: Config) -> Self {
        let sessions = SessionsConfig { state_bytes: 0 };
        Self::with_states(config, sessions)
    }

    fn with_states(config: Config, sessions: SessionsConfig) -> Self {
        let memory_budget = threadrunner_home::MemoryBudget::Bytes(4 * SIZE);
        let config = Config { memory_budget, sessions, ..config };
        let directory = tempfile::tempdir().unwrap();
        let home = Home::resolve(directory.path(), |name| {
            (name == "THREADRUNNER_HOME").then(|| directory.path().into())
        })
        .unwrap();
        home.create().unwrap();
        let (events, from_stores) = mpsc::channel(64);
        let mut stores = Stores::default();
        let mut served = Vec::new();
        for settings in config.workspaces(&home) {
            let (workspace, _) =
                Workspace::open(&settings.path, Options::default(), SystemTime::now()).unwrap();
            let (id, settings) = (stores.next_id(), Arc::new(settings));
            let reader = workspace.reader();
            let events = events.clone();
            let (store, _) =
                Store::start(id, Arc::clone(&settings), workspace, Vec::new(), events).unwrap();
            served.push(Served::new(id, settings, reader, store.archive()));
            stores.push(store);
        }
        let disk = Disk::new(&home, &config);
        let usual = config.backend.unwrap_or(BackendKind::Dummy);
        let catalog = ModelCatalog::on(disk.clone(), Some(usual));
        let (binary, models) = ("true".into(), catalog.clone());
        let (owner, hub) =
            Owner::new(home.clone(), config, binary, models, stores, (events, from_stores));
        Self { owner, hub, home, catalog, disk, served, _directory: directory }
    }

    fn submit(&mut self) -> JobId {
        self.submit_to(model())
    }

    fn submit_to(&mut self, model: ModelRef) -> JobId {
        // As if it had been asked for before.
        self.owner.fleet.know_size(&model, SIZE, ModelFiles::of(&model));
        let (reply, _) = oneshot::channel();
        let job = Box::new(self.job(model));
        self.owner.order(Order::SubmitDetached { job, reply });
        // Ids ascend, so the new job has the largest.
        self.owner.live.keys().max().unwrap().clone()
    }

    fn job(&self, model: ModelRef) -> NewJob {
        NewJob {
            id: None,
            workspace: self.served[0].id,
            prompt: "Hello".to_owned(),
            model: found(&model),
            spec: JobSpec { model: Some(model), ..JobSpec::default() },
            meta: JobMeta::default(),
        }
    }

    /// Adds a loaded engine that was started at `started` and works on a job.
    fn busy_engine(&mut self, model: &ModelRef, started: Instant) -> EngineId {
        let load = Load::new(model.clone(), EngineOptions::default());
        let (id, pid) = self.owner.processes.start(load).unwrap();
        self.loaded(id, pid, model, started, true);
        self.owner.fleet.begin(model, JobId::parse("1").unwrap());
        id
    }

    /// Adds a loaded engine around any process.
    fn add(&mut self, process: EngineProcess, model: &ModelRef, knows_stream: bool) -> EngineId {
        let (id, pid) = (process.id, process.pid);
        self.owner.processes.play(process);
        self.loaded(id, pid, model, Instant::now(), knows_stream);
        id
    }

    fn loaded(&mut self, id: EngineId, pid: u32, model: &ModelRef, at: Instant, stream: bool) {
        let started = Started {
            id,
            pid,
            files: ModelFiles::default(),
            usual: KeepAlive::Forever,
            pinned: false,
            reserved: SIZE,
            shrunk: false,
            granted: SIZE,
            state: None,
        };
        let info = ModelInfo { n_seq_max: 4, ..ModelInfo::default() };
        self.owner.fleet.started(model, started, at);
        assert!(self.owner.fleet.loaded(model, info, EngineInfo::default(), stream, at));
    }

    /// Feeds the owner the events of the workspaces' threads until `wanted` holds.
    async fn until(&mut self, wanted: impl Fn(&Owner) -> bool) {
        while !wanted(&self.owner) {
            match self.owner.inbox.stored().await {
                Next::Store(workspace, event) => self.owner.noted(workspace, *event),
                Next::Disk(news) => self.owner.disk_news(*news),
                _ => panic!("nothing else is awaited"),
            }
            self.owner.dispatch();
        }
    }

    /// Feeds the owner an event of its first engine.
    fn says(&mut self, event: Event) {
        self.owner.engine(EngineId(1), EngineMessage::Events(vec![event]));
        self.owner.dispatch();
    }

    /// Submits a job that runs as request 1 of the first engine.
    async fn running(&mut self) -> JobId {
        self.running_in(ModelInfo { n_seq_max: 4, ..ModelInfo::default() }).await
    }

    /// The same, in an engine that describes its model like this.
    async fn running_in(&mut self, info: ModelInfo) -> JobId {
        let id = self.submit();
        self.until(|owner| matches!(owner.live[&id].stage, Stage::Claimed(_))).await;
        self.says(ready(info));
        assert!(matches!(self.owner.live[&id].stage, Stage::Running(_)));
        id
    }

    fn jobs_in_engine(&self) -> Vec<JobId> {
        self.owner.fleet.engine(&model()).unwrap().jobs()
    }
}

#[tokio::test]
async fn a_job_whose_claim_comes_after_the_end_of_the_grace_time_is_put_back() {
    let mut story = Story::new();
    let id = story.submit();
    assert!(matches!(story.owner.live[&id].stage, Stage::Claiming));
    let (reply, _) = oneshot::channel();
    story.owner.order(Order::Stop { now: true, reply });
    story.owner.time(Instant::now());
    story.until(|owner| !matches!(owner.live[&id].stage, Stage::Claiming)).await;
    assert!(matches!(story.owner.live[&id].stage, Stage::Releasing));
    story.until(Owner::is_done).await;
    assert_eq!(story.served[0].reader.locate(&id).unwrap().0, JobState::Ready);
}

#[tokio::test]
async fn an_engine_is_told_whether_an_answer_is_followed_and_when_somebody_begins_to() {
    for knows_stream in [true, false] {
        let mut story = Story::new();
        let (process, mut heard) = EngineProcess::heard(EngineId(7));
        story.add(process, &model(), knows_stream);
        let id = story.submit();
        story.until(|owner| matches!(owner.live[&id].stage, Stage::Running(_))).await;
        let Some(Command::Generate(generate)) = heard.recv().await else { panic!("it begins") };
        assert!(!generate.stream, "it is detached");
        for awaited in [Awaited::End, Awaited::Text, Awaited::Text] {
            let job = JobName { workspace: story.served[0].id, id: id.clone() };
            let (reply, _) = oneshot::channel();
            story.owner.order(Order::Watch { job, awaited, reply });
        }
        let told = heard.try_recv().ok();
        assert_eq!(told, knows_stream.then_some(Command::Stream { id: generate.id }));
        assert!(heard.try_recv().is_err(), "it is told once");
    }
}

#[tokio::test]
async fn the_model_that_was_asked_last_is_noted_for_those_who_name_none() {
    let mut story = Story::new();
    let note = story.home.cache_dir.join("last_model");
    for (number, path) in [(7, "/m/a.gguf"), (8, "/m/b.gguf"), (9, "/m/a.gguf")] {
        let model = ModelRef { backend: BackendKind::Llama, path: Some(path.into()), draft: None };
        if !story.owner.fleet.has_engine(&model) {
            story.add(EngineProcess::heard(EngineId(number)).0, &model, true);
        }
        let id = story.submit_to(model);
        story.until(|owner| matches!(owner.live[&id].stage, Stage::Running(_))).await;
        eventually(|| std::fs::read_to_string(&note).is_ok_and(|noted| noted == path)).await;
    }
}

#[tokio::test]
async fn a_job_retried_before_its_engine_let_go_of_it_keeps_its_place() {
    let mut story = Story::new();
    let id = story.running().await;
    story.owner.end_early(&id, Ending::Canceled);
    story.until(|owner| owner.live.is_empty()).await;
    assert_eq!(story.jobs_in_engine(), std::slice::from_ref(&id));
    story.served[0].archive.retry(id.clone()).await.unwrap();
    let runs = |owner: &Owner| {
        owner.live.get(&id).is_some_and(|live| matches!(live.stage, Stage::Running(_)))
    };
    story.until(runs).await;
    story.says(finished(1, FinishReason::Canceled));
    assert_eq!(story.jobs_in_engine(), std::slice::from_ref(&id));
    story.says(finished(2, FinishReason::Stop));
    assert!(story.jobs_in_engine().is_empty());
    story.until(|owner| owner.live.is_empty()).await;
    assert_eq!(story.served[0].reader.locate(&id).unwrap().0, JobState::Done);
}

#[tokio::test]
async fn an_engine_that_fails_to_load_when_it_was_loaded_takes_no_job_with_it() {
    let mut story = Story::new();
    let id = story.running().await;
    let failure = threadrunner_core::Failure::new(threadrunner_core::ErrorCode::ModelLoad, "no");
    story.says(Event::LoadFailed { failure });
    assert!(matches!(story.owner.live[&id].stage, Stage::Releasing));
    story.until(|owner| matches!(owner.live[&id].stage, Stage::Claimed(_))).await;
}

#[tokio::test]
async fn a_claimed_job_whose_engine_is_gone_and_finds_no_room_waits_in_the_queue() {
    let mut story = Story::new();
    let id = story.submit();
    story.owner.engine(EngineId(1), exited("is gone", false));
    for name in ["a", "b", "c", "d"] {
        let model = ModelRef { backend: BackendKind::Llama, path: Some(name.into()), draft: None };
        story.busy_engine(&model, Instant::now());
    }
    story.until(|owner| matches!(owner.live[&id].stage, Stage::Queued(_))).await;
    assert_eq!(story.served[0].reader.locate(&id).unwrap().0, JobState::Ready);
    assert_eq!(story.served[0].reader.spec(&id).unwrap().attempts, 0);
}

#[tokio::test]
async fn who_is_killed_while_it_loads_costs_an_attempt_and_who_dies_of_it_the_job() {
    for was_killed in [true, false] {
        let mut story = Story::new();
        let id = story.submit();
        story.until(|owner| matches!(owner.live[&id].stage, Stage::Claimed(_))).await;
        let engine = story.owner.fleet.engine(&model()).unwrap().id();
        story.owner.engine(engine, exited("was ended", was_killed));
        let stage = &story.owner.live[&id].stage;
        assert_eq!(matches!(stage, Stage::Releasing), was_killed, "{stage:?}");
        assert_eq!(matches!(stage, Stage::Ending(_)), !was_killed, "{stage:?}");
    }
}

#[tokio::test]
async fn a_job_that_is_on_its_way_to_the_disk_is_found_and_its_id_is_taken() {
    let mut story = Story::new();
    let id = story.submit();
    let (reply, mut located) = oneshot::channel();
    story.owner.order(Order::Locate { id: id.clone(), reply });
    assert_eq!(located.try_recv().unwrap(), Some(WorkspaceId(0)));
    let job = NewJob { id: Some(id.clone()), ..story.job(model()) };
    let (reply, mut answer) = oneshot::channel();
    story.owner.order(Order::SubmitDetached { job: Box::new(job), reply });
    let failure = answer.try_recv().unwrap().unwrap_err();
    assert_eq!(failure.code, threadrunner_core::ErrorCode::JobExists);
    assert!(story.owner.live.contains_key(&id));
}

/// Submits a job with only a prompt, as another program would.
fn put(story: &Story, workspace: usize, id: &str) -> JobId {
    put_into(&story.served[workspace], id, None)
}

fn put_into(served: &Served, id: &str, spec: Option<&JobSpec>) -> JobId {
    let ready = served.settings.path.join("input/ready");
    let aside = ready.join("aside");
    std::fs::create_dir(&aside).unwrap();
    std::fs::write(aside.join("prompt.txt"), "Hello").unwrap();
    if let Some(spec) = spec {
        std::fs::write(aside.join("job.json"), serde_json::to_vec(spec).unwrap()).unwrap();
    }
    std::fs::rename(aside, ready.join(id)).unwrap();
    JobId::parse(id).unwrap()
}

#[tokio::test]
async fn a_job_of_another_program_runs_with_its_workspaces_model_and_defaults() {
    let text = "backend = \"llama\"\nmodel = \"general\"\n[workspaces.code]\nmodel = \"coder\"\n\
                priority = \"batch\"\nsystem = \"be brief\"\ndefaults = { seed = 7 }\n";
    let config = Config::parse(text, std::path::Path::new("config.toml")).unwrap();
    let mut story = Story::with(config);
    for name in ["general.gguf", "coder.gguf"] {
        let file = story.home.models_dir.join(name);
        std::fs::write(&file, "GGUF").unwrap();
        let path = Some(file.canonicalize().unwrap());
        let model = ModelRef { backend: BackendKind::Llama, path, draft: None };
        story.owner.fleet.know_size(&model, SIZE, ModelFiles::of(&model));
    }
    let id = put(&story, 1, "5");
    story.owner.stores.list();
    let claimed = |owner: &Owner| {
        owner.live.get(&id).is_some_and(|live| matches!(live.stage, Stage::Claimed(_)))
    };
    story.until(claimed).await;
    let live = &story.owner.live[&id];
    assert_eq!((live.model.name().as_str(), live.priority), ("coder", Priority::Batch));
    let Stage::Claimed(work) = &live.stage else { panic!("{live:?}") };
    assert_eq!(work.spec.system.as_deref(), Some("be brief"));
    assert_eq!(work.spec.params.seed, Some(7));
    assert_eq!(work.spec.priority, Priority::Batch);
}

#[tokio::test]
async fn a_job_with_the_id_of_one_that_is_live_elsewhere_ends_and_leaves_that_one_alone() {
    let config = Config::parse("[workspaces.code]\n", std::path::Path::new("config.toml"));
    let mut story = Story::with(config.unwrap());
    let id = story.running().await;
    put(&story, 1, id.as_str());
    let reader = story.served[1].reader.clone();
    story.owner.stores.list();
    let state = || reader.locate(&id).unwrap().0;
    story.until(|_| state() == JobState::Failed).await;
    let live = &story.owner.live[&id];
    assert_eq!(live.workspace, WorkspaceId(0));
    assert!(matches!(live.stage, Stage::Running(_)));
}

#[tokio::test]
async fn the_engine_that_works_longest_makes_way_for_a_model_that_has_waited_long_enough() {
    let mut story = Story::new();
    let now = Instant::now();
    let ago = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
    let named =
        |name: &str| ModelRef { backend: BackendKind::Llama, path: Some(name.into()), draft: None };
    let mut first = None;
    for (name, started) in [("b", 50), ("a", 60), ("c", 40), ("d", 35)] {
        let id = story.busy_engine(&named(name), ago(started));
        first = first.or((name == "a").then_some(id));
    }
    let waits = story.submit_to(named("e"));
    story.until(|owner| matches!(owner.live[&waits].stage, Stage::Queued(_))).await;
    story.owner.dispatch();
    let before = story.submit_to(named("a"));
    assert!(matches!(story.owner.live[&before].stage, Stage::Claiming));
    // As if it had been queued half a minute ago.
    story.owner.fleet.wait_since(&named("e"), SIZE, ago(31));
    story.owner.dispatch();
    let after = story.submit_to(named("a"));
    assert!(matches!(story.owner.live[&after].stage, Stage::Storing));
    // It finishes what it has begun.
    let works = JobId::parse("1").unwrap();
    story.owner.fleet.end(&named("a"), &works, now);
    story.owner.dispatch();
    assert!(matches!(story.owner.live[&waits].stage, Stage::Queued(_)));
    story.owner.fleet.end(&named("a"), &before, now);
    story.owner.dispatch();
    assert!(!story.owner.fleet.has_engine(&named("a")));
    assert!(story.owner.fleet.has_engine(&named("b")));
    // Its memory is not free until its process has exited.
    assert!(matches!(story.owner.live[&waits].stage, Stage::Queued(_)));
    story.owner.engine(first.unwrap(), exited("exited", false));
    story.owner.dispatch();
    assert!(matches!(story.owner.live[&waits].stage, Stage::Claiming));
}

#[tokio::test]
async fn a_model_that_takes_more_than_there_is_is_refused_and_nobody_makes_way() {
    let mut story = Story::new();
    let named =
        |name: &str| ModelRef { backend: BackendKind::Llama, path: Some(name.into()), draft: None };
    story.busy_engine(&named("a"), Instant::now());
    story.owner.fleet.know_size(&named("b"), 5 * SIZE, ModelFiles::of(&named("b")));
    let job = story.job(named("b"));
    let (reply, mut answer) = oneshot::channel();
    story.owner.order(Order::SubmitDetached { job: Box::new(job), reply });
    let failure = answer.try_recv().unwrap().unwrap_err();
    assert_eq!(failure.code, threadrunner_core::ErrorCode::ModelTooLarge);
    assert!(story.owner.live.is_empty() && story.owner.fleet.has_engine(&named("a")));
}

#[tokio::test]
async fn a_model_is_asked_for_its_size_before_it_is_loaded() {
    let mut story = Story::new();
    let model = ModelRef { backend: BackendKind::Llama, path: Some("a".into()), draft: None };
    let view = story.owner.load(found(&model), true, None);
    story.owner.dispatch();
    assert!(!story.owner.fleet.has_engine(&model) && story.owner.fleet.is_asked(&model));
    let memory = threadrunner_core::Memory { weights: SIZE, ..Default::default() };
    story.says(Event::Sized { wanted: memory, least: memory });
    assert!(story.owner.fleet.engine(&model).unwrap().is_pinned());
    let failure = threadrunner_core::Failure::new(threadrunner_core::ErrorCode::ModelLoad, "no");
    story.owner.engine(EngineId(2), EngineMessage::Events(vec![Event::LoadFailed { failure }]));
    assert!(matches!(view.borrow().state, LoadState::Failed(_)));
}
