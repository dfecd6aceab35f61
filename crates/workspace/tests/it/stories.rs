//! Jobs on their way through a workspace.

use crate::support::{Fixture, job, now};
use threadrunner_core::{
    ErrorCode, Failure, JobMeta, JobOutcome, JobState, JobStatus, Output, Timestamp,
};
use threadrunner_workspace::{Attempt, Durability, Options, Workspace, WorkspaceError};

#[test]
fn a_job_goes_from_submission_to_its_answer() {
    let mut f = Fixture::new();
    let id = f.submit("Why is the sky blue?");
    assert_eq!(f.state(&id), JobState::Ready);
    let record = f.reader().record(&id).unwrap();
    assert_eq!((record.attempts, &*record.prompt_start), (0, "Why is the sky blue?"));
    assert_eq!(
        record.meta.submitted_at.as_ref().map(Timestamp::as_str),
        Some("2026-01-01T00:00:00.000000Z")
    );

    let mut claimed = f.claim(&id);
    assert_eq!((f.state(&id), claimed.prompt()), (JobState::Processing, "Why is the sky blue?"));
    assert_eq!(f.reader().record(&id).unwrap().attempts, 1);
    claimed.append_partial("Rayleigh ").unwrap();
    assert_eq!(f.reader().partial(&id, 0).unwrap().bytes, b"Rayleigh ");
    claimed.append_partial("scattering").unwrap();
    assert_eq!(f.reader().partial(&id, 9).unwrap().bytes, b"scattering");

    let meta = JobMeta { model: Some("m".into()), ..claimed.meta().clone() };
    f.ws.complete(claimed, "Rayleigh scattering", &[], meta, now()).unwrap();
    f.sync();
    assert_eq!(f.state(&id), JobState::Done);
    assert_eq!(f.reader().result(&id).unwrap(), b"Rayleigh scattering");
    assert_eq!(f.reader().partial(&id, 9).unwrap().bytes, b"scattering");
    let record = f.reader().record(&id).unwrap();
    assert_eq!(record.meta.status, Some(JobOutcome::Done));
    assert_eq!(record.meta.artifacts, ["result.txt"]);
    assert_eq!(f.files(&id), ["job.json", "meta.json", "prompt.txt", "result.txt"]);
}

#[test]
fn what_an_answer_holds_beside_its_text_is_in_a_file_of_its_own() {
    let mut f = Fixture::new();
    let thought = Output::Reasoning { text: "Hm.".into() };
    let vector = Output::Embedding { embedding: vec![0.5, -0.1] };
    for (text, output, is_text) in [
        ("So.", vec![thought.clone()], true),
        ("", vec![thought.clone()], true),
        ("See.", vec![vector.clone()], true),
        ("", vec![thought, vector], false),
    ] {
        let id = f.submit("hi");
        let claimed = f.claim(&id);
        f.ws.complete(claimed, text, &output, JobMeta::default(), now()).unwrap();
        f.sync();
        let reader = f.reader();
        assert_eq!(reader.answer(&id).unwrap(), (text.as_bytes().to_vec(), output.clone()));
        assert_eq!(reader.output(&id).unwrap(), output);
        assert_eq!(f.text(&id, "result.txt"), text);
        let record = reader.record(&id).unwrap();
        assert_eq!(record.meta.artifacts, ["result.txt", "output.json"]);
        match reader.result(&id) {
            Ok(result) => assert!(is_text && result == text.as_bytes()),
            Err(error) => {
                let failure = error.into_failure();
                assert_eq!((failure.code, is_text), (ErrorCode::NoText, false));
                let said = "its answer is not text (reasoning and embedding)";
                assert!(failure.message.contains(said), "{failure}");
            }
        }
    }
}

#[test]
fn submitting_and_claiming_at_once_shares_one_sync() {
    let mut f = Fixture::new();
    let id = f.ws.next_id(now());
    let claimed = f.ws.submit_claimed(job(&id, "hi"), now()).unwrap();
    f.sync();
    assert_eq!(f.state(&id), JobState::Processing);
    f.ws.complete(claimed, "answer", &[], JobMeta::default(), now()).unwrap();
    f.sync();
    assert_eq!(f.reader().result(&id).unwrap(), b"answer");
}

#[test]
fn what_is_prepared_is_not_seen_before_the_sync() {
    let mut f = Fixture::new();
    let id = f.ws.next_id(now());
    f.ws.submit(job(&id, "hi"), now()).unwrap();
    assert!(matches!(f.reader().locate(&id), Err(WorkspaceError::NotFound { .. })));
    f.sync();
    assert_eq!(f.state(&id), JobState::Ready);
}

#[test]
fn operations_on_one_job_in_one_group_happen_in_order() {
    let mut f = Fixture::new();
    let id = f.ws.next_id(now());
    f.ws.submit(job(&id, "hi"), now()).unwrap();
    let claimed = f.ws.claim(&id, now()).unwrap();
    f.ws.complete(claimed, "yes", &[], JobMeta::default(), now()).unwrap();
    let synced = f.ws.sync();
    let states: Vec<_> = synced.done.into_iter().map(|(_, state)| state.unwrap()).collect();
    assert_eq!(states, [JobState::Ready, JobState::Processing, JobState::Done]);
}

#[test]
fn a_failed_job_says_why_and_can_be_retried() {
    let mut f = Fixture::new();
    let id = f.submit("hi");
    let mut claimed = f.claim(&id);
    claimed.append_partial("half").unwrap();
    let failure = Failure::new(ErrorCode::Inference, "no luck").hint("try again");
    let meta = claimed.meta().clone();
    f.ws.fail(claimed, &failure, meta, now()).unwrap();
    f.sync();
    assert_eq!(f.state(&id), JobState::Failed);
    assert_eq!(f.reader().error_text(&id).unwrap(), "no luck\ntry again\n");
    assert_eq!(f.reader().partial(&id, 0).unwrap().bytes, b"half");
    let record = f.reader().record(&id).unwrap();
    assert_eq!((record.meta.status, record.meta.error), (Some(JobOutcome::Failed), Some(failure)));

    f.ws.retry(&id).unwrap();
    f.sync();
    let record = f.reader().record(&id).unwrap();
    assert_eq!((record.state, record.attempts, record.meta.status), (JobStatus::Queued, 0, None));
    let claimed = f.claim(&id);
    assert_eq!(claimed.spec().attempts, 1);
    assert_eq!(f.files(&id), ["job.json", "meta.json", "prompt.txt"]);
    f.ws.complete(claimed, "better", &[], JobMeta::default(), now()).unwrap();
    f.sync();
    assert_eq!(f.files(&id), ["job.json", "meta.json", "prompt.txt", "result.txt"]);
}

#[test]
fn a_released_job_is_queued_and_its_attempt_counts_only_where_asked() {
    let mut f = Fixture::new();
    let id = f.submit("hi");
    for (attempt, attempts) in [(Attempt::Counted, 1), (Attempt::Forgotten, 1)] {
        let claimed = f.claim(&id);
        f.ws.release(claimed, attempt).unwrap();
        f.sync();
        let record = f.reader().record(&id).unwrap();
        assert_eq!((record.state, record.attempts), (JobStatus::Queued, attempts));
    }
}

#[test]
fn a_queued_job_is_canceled_and_a_finished_one_removed() {
    let mut f = Fixture::new();
    let id = f.submit("hi");
    f.ws.cancel(&id, now()).unwrap();
    f.sync();
    let record = f.reader().record(&id).unwrap();
    assert_eq!(
        (record.state, record.meta.status),
        (JobStatus::Canceled, Some(JobOutcome::Canceled))
    );
    f.ws.remove(&id).unwrap();
    f.sync();
    assert!(matches!(f.reader().locate(&id), Err(WorkspaceError::NotFound { .. })));
    assert_eq!(std::fs::read_dir(f.dir("input/writing")).unwrap().count(), 0);
}

#[test]
fn each_state_refuses_what_is_not_for_it() {
    let mut f = Fixture::new();
    let id = f.submit("hi");
    let wrong = |result: Result<(), WorkspaceError>, is: JobState| match result {
        Err(WorkspaceError::WrongState { state, .. }) => assert_eq!(state, is),
        other => panic!("{other:?}"),
    };
    wrong(f.ws.retry(&id), JobState::Ready);
    wrong(f.ws.remove(&id), JobState::Ready);
    let claimed = f.claim(&id);
    wrong(f.ws.cancel(&id, now()), JobState::Processing);
    wrong(f.ws.claim(&id, now()).map(drop), JobState::Processing);
    wrong(f.ws.remove(&id), JobState::Processing);
    f.ws.complete(claimed, "", &[], JobMeta::default(), now()).unwrap();
    f.sync();
    wrong(f.ws.retry(&id), JobState::Done);
    wrong(f.ws.claim(&id, now()).map(drop), JobState::Done);
    assert!(matches!(
        f.ws.submit(job(&id, "again"), now()),
        Err(WorkspaceError::Exists { state: JobState::Done, .. })
    ));
}

#[test]
fn one_owner_at_a_time() {
    let f = Fixture::new();
    let error = Workspace::open(f.path(), Options::default(), now()).unwrap_err();
    assert!(matches!(error, WorkspaceError::Locked { .. }), "{error}");
    let path = f.path().to_owned();
    let dir = f.close();
    Workspace::open(&path, Options::default(), now()).unwrap();
    drop(dir);
}

#[test]
fn relaxed_workspaces_do_the_same_without_syncs() {
    let mut f = Fixture::with(Options { durability: Durability::Relaxed, ..Options::default() });
    let id = f.submit("hi");
    let claimed = f.claim(&id);
    f.ws.complete(claimed, "ok", &[], JobMeta::default(), now()).unwrap();
    f.sync();
    assert_eq!(f.reader().result(&id).unwrap(), b"ok");
}
