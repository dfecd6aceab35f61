//! The owner event by event, in orders that processes and disks seldom choose.

use std::time::SystemTime;

use tempfile::TempDir;
use threadrunner_core::engine_protocol::{EngineInfo, Event};
use threadrunner_core::{
    BackendKind, FinishReason, JobMeta, JobSpec, JobState, ModelInfo, Timings, Usage,
};
use threadrunner_workspace::{Options, Reader, Workspace};
use tokio::sync::oneshot;

use super::super::hub::Order;
use super::super::live::Stage;
use super::super::{Ending, NewJob};
use super::*;
use crate::engine::EngineMessage;
use crate::store::Archive;

/// An owner that is told each event by the test. Its engines are programs that end at once; what
/// they say is the test's as well.
struct Story {
    owner: Owner,
    reader: Reader,
    archive: Archive,
    _directory: TempDir,
}

fn model() -> ModelRef {
    ModelRef { backend: BackendKind::Dummy, path: None }
}

fn finished(id: u64, finish_reason: FinishReason) -> Event {
    let (usage, timings) = (Usage::default(), Timings::default());
    Event::Finished { id, finish_reason, usage, timings }
}

impl Story {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::resolve(directory.path(), |name| {
            (name == "THREADRUNNER_HOME").then(|| directory.path().into())
        })
        .unwrap();
        home.create().unwrap();
        let (workspace, _) =
            Workspace::open(&home.workspace, Options::default(), SystemTime::now()).unwrap();
        let reader = workspace.reader();
        let (events, from_store) = mpsc::channel(64);
        let (store, _) = Store::start(workspace, Vec::new(), events).unwrap();
        let archive = store.archive();
        let (owner, _) = Owner::new(home, Config::default(), "true".into(), store, from_store);
        Self { owner, reader, archive, _directory: directory }
    }

    fn submit(&mut self) -> JobId {
        let job = NewJob {
            prompt: "Hello".to_owned(),
            model: model(),
            spec: JobSpec { model: Some(model()), ..JobSpec::default() },
            meta: JobMeta::default(),
        };
        let (reply, _) = oneshot::channel();
        self.owner.order(Order::SubmitDetached { job: Box::new(job), reply });
        self.owner.live.keys().next().unwrap().clone()
    }

    /// Tells the owner what the workspace's thread has done, until `wanted` is so.
    async fn until(&mut self, wanted: impl Fn(&Owner) -> bool) {
        while !wanted(&self.owner) {
            let event = self.owner.from_store.recv().await.unwrap();
            self.owner.noted(event);
            self.owner.dispatch();
        }
    }

    /// Tells the owner what its first engine says.
    fn says(&mut self, event: Event) {
        self.owner.engine(EngineId(1), EngineMessage::Events(vec![event]));
        self.owner.dispatch();
    }

    /// A job that runs as request 1 of the first engine.
    async fn running(&mut self) -> JobId {
        let id = self.submit();
        self.until(|owner| matches!(owner.live[&id].stage, Stage::Claimed(_))).await;
        let info = ModelInfo { n_seq_max: 4, ..ModelInfo::default() };
        self.says(Event::Ready { model: info, engine: EngineInfo::default() });
        assert!(matches!(self.owner.live[&id].stage, Stage::Running(_)));
        id
    }

    fn jobs_in_engine(&self) -> Vec<JobId> {
        self.owner.engines[&model()].jobs()
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
    assert_eq!(story.reader.locate(&id).unwrap().0, JobState::Ready);
}

#[tokio::test]
async fn a_job_retried_before_its_engine_let_go_of_it_keeps_its_place() {
    let mut story = Story::new();
    let id = story.running().await;
    story.owner.end_early(&id, Ending::Canceled);
    story.until(|owner| owner.live.is_empty()).await;
    assert_eq!(story.jobs_in_engine(), std::slice::from_ref(&id));
    story.archive.retry(id.clone()).await.unwrap();
    let runs = |owner: &Owner| {
        owner.live.get(&id).is_some_and(|live| matches!(live.stage, Stage::Running(_)))
    };
    story.until(runs).await;
    story.says(finished(1, FinishReason::Canceled));
    assert_eq!(story.jobs_in_engine(), std::slice::from_ref(&id));
    story.says(finished(2, FinishReason::Stop));
    assert!(story.jobs_in_engine().is_empty());
    story.until(|owner| owner.live.is_empty()).await;
    assert_eq!(story.reader.locate(&id).unwrap().0, JobState::Done);
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
    let how = "is gone".to_owned();
    story.owner.engine(EngineId(1), EngineMessage::Exited { how });
    for name in ["a", "b", "c", "d"] {
        let model = ModelRef { backend: BackendKind::Llama, path: Some(name.into()) };
        let busy = story.owner.ensure_engine(&model).unwrap();
        busy.begin(JobId::parse("1").unwrap());
    }
    story.until(|owner| matches!(owner.live[&id].stage, Stage::Queued(_))).await;
    assert_eq!(story.reader.locate(&id).unwrap().0, JobState::Ready);
    assert_eq!(story.reader.spec(&id).unwrap().attempts, 0);
}
