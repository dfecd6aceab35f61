//! What a new owner makes of what the last one left.

use std::fs::{self, File, FileTimes};
use std::time::{Duration, SystemTime};

use threadrunner_core::{JobId, JobMeta, JobSpec, JobState, Output};
use threadrunner_workspace::{Options, Workspace, WorkspaceError};

use crate::support::{Fixture, job, now};

#[test]
fn an_abandoned_job_is_begun_three_times_and_then_fails_saying_so() {
    let mut f = Fixture::new();
    let id = f.submit("hi");
    for attempt in 1..=3 {
        assert_eq!(f.state(&id), JobState::Ready);
        let claimed = f.claim(&id);
        assert_eq!(claimed.spec().attempts, attempt);
        assert_eq!(f.ws.attempts_left(&claimed), 3 - attempt);
        drop(claimed);
        let recovered;
        (f, recovered) = f.reopen();
        let list = if attempt < 3 { &recovered.requeued } else { &recovered.failed };
        assert_eq!(*list, std::slice::from_ref(&id));
    }
    assert_eq!(f.state(&id), JobState::Failed);
    let text = f.reader().error_text(&id).unwrap();
    assert!(text.starts_with("the job was started 3 times and never ended"), "{text}");
}

#[test]
fn a_job_may_ask_for_its_own_number_of_attempts() {
    let mut f = Fixture::new();
    let id = f.ws.next_id(now());
    let mut once = job(&id, "hi");
    once.spec = JobSpec { max_attempts: Some(1), ..JobSpec::default() };
    f.ws.submit(once, now()).unwrap();
    f.sync();
    drop(f.claim(&id));
    let (f, recovered) = f.reopen();
    assert_eq!(recovered.failed, std::slice::from_ref(&id));
    assert!(f.reader().error_text(&id).unwrap().contains("started once"));
}

#[test]
fn the_partial_answer_of_an_abandoned_attempt_is_not_the_next_ones() {
    let mut f = Fixture::new();
    let id = f.submit("hi");
    f.claim(&id).append_partial("old").unwrap();
    let (mut f, _) = f.reopen();
    assert_eq!(f.reader().partial(&id, 0).unwrap().bytes, b"old");
    let mut claimed = f.claim(&id);
    assert_eq!(f.reader().partial(&id, 0).unwrap().bytes, b"");
    claimed.append_partial("new").unwrap();
    assert_eq!(f.reader().partial(&id, 0).unwrap().bytes, b"new");
    claimed.restart_partial().unwrap();
    claimed.append_partial("newer").unwrap();
    assert_eq!(f.reader().partial(&id, 0).unwrap().bytes, b"newer");
    drop(claimed);
}

#[test]
fn leftovers_of_submissions_go_after_a_day() {
    let f = Fixture::new();
    let writing = f.dir("input/writing");
    let old = FileTimes::new().set_modified(now() - Duration::from_secs(25 * 3600));
    let young = FileTimes::new().set_modified(now() - Duration::from_secs(23 * 3600));
    for (name, times) in [("1", old), ("2", young), ("a name", old), ("b name", young)] {
        let dir = writing.join(name);
        fs::create_dir_all(dir.join("images")).unwrap();
        fs::write(dir.join("images/1.png"), "x").unwrap();
        fs::write(dir.join("prompt.txt"), "hi").unwrap();
        File::open(&dir).unwrap().set_times(times).unwrap();
    }
    fs::create_dir(writing.join("7_7.gone")).unwrap();
    let (f, recovered) = f.reopen();
    assert_eq!(recovered.deleted, 3);
    assert_eq!(recovered.queued, []);
    let mut left: Vec<_> = fs::read_dir(f.dir("input/writing"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["2", "b name"]);
}

#[test]
fn deleting_leftovers_follows_no_links() {
    let f = Fixture::new();
    let outside = f.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let gone = f.dir("input/writing").join("1.gone");
    fs::create_dir(&gone).unwrap();
    std::os::unix::fs::symlink(&outside, gone.join("link")).unwrap();
    let (_f, recovered) = f.reopen();
    assert_eq!(recovered.deleted, 1);
    assert!(outside.join("precious").exists() && !gone.exists());
}

#[test]
fn one_job_that_cannot_be_recovered_keeps_no_other_from_it() {
    let mut f = Fixture::new();
    let ids = [f.submit("one"), f.submit("two"), f.submit("three")];
    for id in &ids {
        drop(f.claim(id));
    }
    let dir = |id: &JobId| f.dir("processing").join(id.as_str());
    // Two jobs with the same name: somebody copied one.
    fs::create_dir(f.dir("input/ready").join(ids[0].as_str())).unwrap();
    fs::write(f.dir("input/ready").join(ids[0].as_str()).join("prompt.txt"), "copy").unwrap();
    fs::write(dir(&ids[1]).join("job.json"), "{ torn").unwrap();
    let (f, recovered) = f.reopen();
    assert!(
        matches!(&recovered.troubles[..], [WorkspaceError::Exists { id, .. }] if *id == ids[0])
    );
    assert_eq!(recovered.failed, [ids[1].clone()]);
    assert_eq!(recovered.requeued, [ids[2].clone()]);
    assert_eq!(recovered.queued, [ids[0].clone(), ids[2].clone()]);
    assert!(f.reader().error_text(&ids[1]).unwrap().contains("job.json cannot be read"));
}

#[test]
fn a_job_deleted_by_hand_loses_no_other() {
    let mut f = Fixture::new();
    let ids: Vec<_> = ["a", "b", "c", "d"].iter().map(|prompt| f.submit(prompt)).collect();
    let running: Vec<_> = ids[..2].iter().map(|id| f.ws.claim(id, now()).unwrap()).collect();
    f.sync();
    fs::remove_dir_all(f.dir("processing").join(ids[0].as_str())).unwrap();
    for claimed in running {
        let id = claimed.id().clone();
        let completed = f.ws.complete(claimed, "answer", &[], JobMeta::default(), now());
        assert_eq!(completed.is_err(), id == ids[0]);
    }
    f.ws.cancel(&ids[2], now()).unwrap();
    f.ws.cancel(&ids[3], now()).unwrap();
    fs::remove_dir_all(f.dir("input/ready").join(ids[2].as_str())).unwrap();
    let mut synced = f.ws.sync();
    assert!(matches!(synced.take_error(&ids[2]), Some(WorkspaceError::NotFound { .. })));
    assert!(synced.failed.is_empty());
    assert_eq!(f.state(&ids[1]), JobState::Done);
    assert_eq!(f.state(&ids[3]), JobState::Failed);
}

#[test]
fn ids_go_on_when_the_clock_went_back() {
    let mut f = Fixture::new();
    let future = SystemTime::now() + Duration::from_secs(3600);
    let queued = f.ws.next_id(future);
    f.ws.submit(job(&queued, "hi"), future).unwrap();
    f.sync();
    let path = f.path().to_owned();
    let dir = f.close();
    let past = now() - Duration::from_secs(365 * 86_400);
    let (mut ws, recovered) = Workspace::open(&path, Options::default(), past).unwrap();
    assert_eq!(recovered.queued, std::slice::from_ref(&queued));
    let next = ws.next_id(past);
    assert!(queued < next, "{queued} {next}");
    drop(ws);
    drop(dir);
}

/// The directories' times are no help: a clock that is behind the ids changed them.
#[test]
fn ids_go_on_after_finished_jobs_of_a_future_that_is_over() {
    let mut f = Fixture::new();
    let future = SystemTime::now() + Duration::from_secs(365 * 86_400);
    let first = f.ws.next_id(future);
    f.ws.submit(job(&first, "hi"), future).unwrap();
    f.sync();
    let claimed = f.claim(&first);
    f.ws.complete(claimed, "x", &[], JobMeta::default(), now()).unwrap();
    f.sync();
    let mut newest = first;
    for _ in 0..3 {
        (f, _) = f.reopen();
        let id = f.ws.next_id(now());
        assert!(newest < id, "{newest} {id}");
        let claimed = f.ws.submit_claimed(job(&id, "hi"), now()).unwrap();
        f.ws.complete(claimed, "x", &[], JobMeta::default(), now()).unwrap();
        f.sync();
        assert_eq!(f.reader().resolve(&"last".into()).unwrap(), id);
        newest = id;
    }
}

/// Names of finished jobs are not read at startup; the times of the directories are enough.
#[test]
fn ids_go_on_after_those_of_finished_jobs_too() {
    let mut f = Fixture::new();
    let id = f.ws.next_id(SystemTime::now());
    let claimed = f.ws.submit_claimed(job(&id, "hi"), now()).unwrap();
    f.ws.complete(claimed, "x", &[], JobMeta::default(), now()).unwrap();
    f.sync();
    let (mut f, _) = f.reopen();
    assert!(id < f.ws.next_id(now()));
}

#[test]
fn the_end_of_an_earlier_attempt_is_not_taken_for_this_ones() {
    let mut f = Fixture::new();
    let id = f.submit("hi");
    let claimed = f.claim(&id);
    f.ws.complete(claimed, "answer", &[], JobMeta::default(), now()).unwrap();
    f.sync();
    let (done, running) = (f.dir("output"), f.dir("processing"));
    for (attempts, finished) in [(2, false), (1, true)] {
        let job = format!(r#"{{"v":1,"attempts":{attempts}}}"#);
        fs::write(done.join(id.as_str()).join("job.json"), job).unwrap();
        fs::rename(done.join(id.as_str()), running.join(id.as_str())).unwrap();
        let backup = running.join(id.as_str());
        let meta = fs::read(backup.join("meta.json")).unwrap();
        let recovered;
        (f, recovered) = f.reopen();
        assert_eq!(recovered.finished.contains(&id), finished);
        assert_eq!(recovered.requeued.contains(&id), !finished);
        if !finished {
            fs::rename(f.dir("input/ready").join(id.as_str()), done.join(id.as_str())).unwrap();
            fs::write(done.join(id.as_str()).join("meta.json"), meta).unwrap();
            fs::write(done.join(id.as_str()).join("result.txt"), "answer").unwrap();
        }
    }
    assert_eq!(f.reader().result(&id).unwrap(), b"answer");
}

#[test]
fn an_answer_is_whole_only_with_all_of_its_files() {
    for torn in [false, true] {
        let mut f = Fixture::new();
        let id = f.submit("hi");
        let claimed = f.claim(&id);
        let output = [Output::Embedding { embedding: vec![0.5] }];
        f.ws.complete(claimed, "", &output, JobMeta::default(), now()).unwrap();
        // The daemon dies before the sync.
        let file = f.dir("processing").join(id.as_str()).join("output.json");
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 1);
        if torn {
            fs::write(&file, "[").unwrap();
        }
        let (f, recovered) = f.reopen();
        assert_eq!(recovered.finished.contains(&id), !torn);
        assert_eq!(recovered.requeued.contains(&id), torn);
        if torn {
            assert!(!f.files(&id).contains(&"output.json".to_owned()), "{:?}", f.files(&id));
        } else {
            assert_eq!(f.reader().output(&id).unwrap(), output);
        }
    }
}

#[test]
fn a_job_whose_end_could_not_be_written_is_made_good_without_a_restart() {
    let mut f = Fixture::new();
    let (again, done) = (f.submit("again"), f.submit("done"));
    drop(f.claim(&again));
    let claimed = f.claim(&done);
    f.ws.complete(claimed, "an answer", &[], JobMeta::default(), now()).unwrap();
    // The rename fails because something is in its way.
    std::fs::create_dir(f.dir("output").join(done.as_str())).unwrap();
    assert_eq!(f.ws.sync().failed.len(), 1);
    std::fs::remove_dir(f.dir("output").join(done.as_str())).unwrap();
    for id in [&again, &done] {
        f.ws.recover_job(id, now()).unwrap();
    }
    f.sync();
    assert_eq!((f.state(&again), f.state(&done)), (JobState::Ready, JobState::Done));
    assert_eq!(f.text(&done, "result.txt"), "an answer");
    // A job that is no longer there needs nothing.
    f.ws.recover_job(&done, now()).unwrap();
    f.sync();
}
