//! Disks that do not answer: nothing but the jobs that need them waits.

use threadrunner_core::JobStatus;
use threadrunner_home::SessionsConfig;

use super::*;
use crate::jobs::Change;
use crate::models::PATIENCE;
use crate::models::tests::{asked, eventually};

fn path_of(story: &Story, name: &str) -> ModelRef {
    let path = Some(story.home.models_dir.join(name).canonicalize().unwrap());
    ModelRef { backend: BackendKind::Llama, path, draft: None }
}

fn with_models(config: &str) -> Story {
    let config = Config::parse(config, std::path::Path::new("config.toml")).unwrap();
    let story = Story::with(config);
    for name in ["good.gguf", "hung.gguf"] {
        std::fs::write(story.home.models_dir.join(name), "GGUF").unwrap();
    }
    story
}

#[tokio::test]
async fn a_disk_that_hangs_stops_neither_ps_nor_jobs_of_other_models_nor_the_end() {
    let mut story = with_models("backend = \"llama\"\nmodel = \"hung\"\n");
    let good = path_of(&story, "good.gguf");
    let (process, mut heard) = EngineProcess::heard(EngineId(7));
    story.add(process, &good, true);
    // A job of another program, whose model is the one on that disk.
    let id = put(&story, 0, "5");
    story.owner.stores.list();
    let (job, workspace) = (story.job(good), story.served[0].id);
    let Story { owner, hub, catalog, disk, served, .. } = story;
    let mut changes = owner.changes.subscribe();
    let start = Instant::now();
    let owner = tokio::spawn(owner.run());
    let client = tokio::spawn(async move { catalog.resolve_soon(asked(Some("hung"))).await });
    eventually(|| disk.hangs() == 2).await;
    assert!(hub.ps().await.unwrap().running.is_empty());
    hub.submit_detached(job).await.unwrap();
    let Some(Command::Generate(_)) = heard.recv().await else { panic!("it begins") };
    assert_eq!(hub.ps().await.unwrap().running.len(), 1);
    // The job that waits for its model can be canceled.
    assert_eq!(hub.locate(id.clone()).await.unwrap(), Some(workspace));
    hub.end(workspace, id.clone(), Ending::Canceled).await.unwrap();
    let canceled = |change: &Change| change.id == id && change.state == Some(JobStatus::Canceled);
    while !canceled(&changes.recv().await.unwrap()) {}
    // Another one is left to the next daemon.
    let six = put_into(&served[0], "6", None);
    served[0].archive.look(six.clone()).await.unwrap();
    hub.stop(true).await.unwrap();
    drop(hub);
    owner.await.unwrap();
    assert!(start.elapsed() < 2 * PATIENCE, "{:?}", start.elapsed());
    assert_eq!(disk.hangs(), 2, "one for the job, one for the client");
    assert_eq!(served[0].reader.locate(&six).unwrap().0, JobState::Ready);
    assert!(client.await.unwrap().is_err());
    disk.let_go();
}

#[tokio::test]
async fn queued_jobs_wait_for_a_disk_that_hangs_and_begin_when_it_is_back() {
    let mut story = with_models("backend = \"llama\"\n");
    let hung = path_of(&story, "hung.gguf");
    story.owner.fleet.know_size(&hung, SIZE, ModelFiles::of(&hung));
    let spec = JobSpec { model: Some(hung.clone()), ..JobSpec::default() };
    let job = put_into(&story.served[0], "1", Some(&spec));
    story.owner.stores.list();
    let queued = |owner: &Owner, id: &JobId| {
        owner.live.get(id).is_some_and(|live| matches!(live.stage, Stage::Queued(_)))
    };
    story.until(|owner| queued(owner, &job)).await;
    let disk = Arc::clone(&story.disk);
    eventually(|| disk.hangs() == 1).await;
    // It is late, and still nothing is known of the model.
    let late = Instant::now() + PATIENCE;
    story.owner.time(late);
    story.owner.dispatch();
    assert!(queued(&story.owner, &job) && !story.owner.fleet.has_engine(&hung));
    let other = story.submit();
    assert!(matches!(story.owner.live[&other].stage, Stage::Claiming));
    disk.let_go();
    story.until(|owner| owner.fleet.has_engine(&hung)).await;
    story.until(|owner| !queued(owner, &job)).await;
}

#[tokio::test]
async fn a_loaded_model_whose_disk_hangs_goes_on_with_what_it_has_loaded() {
    let mut story = with_models("backend = \"llama\"\n");
    let hung = path_of(&story, "hung.gguf");
    story.add(EngineProcess::heard(EngineId(7)).0, &hung, true);
    let id = story.submit_to(hung.clone());
    story.until(|owner| matches!(owner.live[&id].stage, Stage::Running(_))).await;
    // What is known of the model is old, and looking anew hangs.
    story.owner.models.doubt(&hung);
    assert!(!story.owner.knows(&hung));
    story.owner.time(Instant::now() + PATIENCE);
    assert!(story.owner.knows(&hung));
    story.disk.let_go();
}

#[tokio::test]
async fn the_states_of_sessions_are_prepared_before_a_model_is_loaded() {
    let state_bytes = 1 << 20;
    let sessions = SessionsConfig { state_bytes };
    let mut story = Story::with_states(Config::default(), sessions);
    let id = story.submit();
    assert!(matches!(story.owner.live[&id].stage, Stage::Storing), "its engine is not started yet");
    story.until(|owner| owner.fleet.has_engine(&model())).await;
    let state = story.owner.fleet.engine(&model()).unwrap().state().unwrap();
    assert!(state.path.is_dir() && state.max_bytes == state_bytes);
    story.until(|owner| matches!(owner.live[&id].stage, Stage::Claimed(_))).await;
}
