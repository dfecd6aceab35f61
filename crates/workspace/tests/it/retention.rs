//! Which ended jobs are kept.

use std::fs::{File, FileTimes};
use std::time::Duration;

use threadrunner_core::{ErrorCode, Failure, JobId, JobState};
use threadrunner_workspace::{NotKept, Retention};

use crate::support::{Fixture, now};

const HOUR: Duration = Duration::from_secs(3600);

/// A job that ended this long ago, with or without an answer.
fn ended(fixture: &mut Fixture, ago: Duration, answer: Option<&str>) -> JobId {
    let id = fixture.submit("prompt");
    let job = fixture.claim(&id);
    let meta = job.meta().clone();
    let state = match answer {
        Some(text) => {
            fixture.ws.complete(job, text, &[], meta, now()).unwrap();
            JobState::Done
        }
        None => {
            let failure = Failure::new(ErrorCode::Inference, "no");
            fixture.ws.fail(job, &failure, meta, now()).unwrap();
            JobState::Failed
        }
    };
    fixture.sync();
    let dir = File::open(fixture.dir(state.directory()).join(id.as_str())).unwrap();
    dir.set_times(FileTimes::new().set_modified(now() - ago)).unwrap();
    id
}

fn not_kept(fixture: &Fixture, retention: Retention) -> NotKept {
    fixture.reader().not_kept(&retention, now()).unwrap()
}

#[test]
fn without_a_limit_all_are_kept() {
    let mut f = Fixture::new();
    ended(&mut f, HOUR * 1000, Some("a"));
    let retention = Retention { keep_failed: true, ..Retention::default() };
    assert_eq!(not_kept(&f, retention), NotKept::default());
}

#[test]
fn by_age_the_older_go_and_it_is_known_when_the_next_is_old() {
    let mut f = Fixture::new();
    let old = ended(&mut f, HOUR * 5, Some("a"));
    let failed = ended(&mut f, HOUR * 4, None);
    ended(&mut f, HOUR * 2, Some("b"));
    ended(&mut f, HOUR, Some("c"));
    let retention = Retention { max_age: Some(HOUR * 3), ..Retention::default() };
    let found = not_kept(&f, retention.clone());
    assert_eq!(found.jobs, [old.clone(), failed]);
    assert_eq!(found.next, Some(HOUR + Duration::from_millis(1)));
    let found = not_kept(&f, Retention { keep_failed: true, ..retention });
    assert_eq!(found.jobs, [old]);
}

#[test]
fn by_number_the_oldest_go_and_queued_ones_do_not_count() {
    let mut f = Fixture::new();
    let first = ended(&mut f, HOUR, Some("a"));
    let failed = ended(&mut f, HOUR, None);
    let second = ended(&mut f, HOUR, Some("b"));
    ended(&mut f, HOUR, Some("c"));
    f.submit("waits");
    let retention = Retention { max_count: Some(2), ..Retention::default() };
    let found = not_kept(&f, retention.clone());
    assert_eq!(found, NotKept { jobs: vec![first.clone(), failed], next: None });
    let found = not_kept(&f, Retention { max_count: Some(1), keep_failed: true, ..retention });
    assert_eq!(found.jobs, [first, second]);
}

#[test]
fn by_bytes_the_oldest_go_until_the_others_fit() {
    let mut f = Fixture::new();
    let megabyte = "x".repeat(1 << 20);
    let first = ended(&mut f, HOUR, Some(&megabyte));
    let second = ended(&mut f, HOUR, Some(&megabyte));
    ended(&mut f, HOUR, Some(&megabyte));
    let most =
        |megabytes: u64| Retention { max_bytes: Some(megabytes << 20), ..Retention::default() };
    assert!(not_kept(&f, most(4)).jobs.is_empty());
    assert_eq!(not_kept(&f, most(3)).jobs, std::slice::from_ref(&first));
    assert_eq!(not_kept(&f, most(2)).jobs, [first, second]);
    assert_eq!(not_kept(&f, most(0)).jobs.len(), 3);
}

#[test]
fn one_that_just_ended_is_spared_until_its_time() {
    let mut f = Fixture::new();
    let minute = Duration::from_secs(60);
    let old = ended(&mut f, minute * 2, Some("a"));
    ended(&mut f, minute / 2, Some("b"));
    let retention = Retention { max_count: Some(0), spared: minute, ..Retention::default() };
    let found = not_kept(&f, retention);
    assert_eq!(found.jobs, [old]);
    assert_eq!(found.next, Some(minute / 2 + Duration::from_millis(1)));
}
