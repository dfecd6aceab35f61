//! Hooks, the programs that are due when a job has ended.

use std::fs;

use threadrunner_core::{ErrorCode, Failure, HookOutcome, JobId, JobSpec};
use threadrunner_workspace::NewJob;

use crate::support::{Fixture, job, now};

fn hooked(fixture: &mut Fixture) -> JobId {
    let id = fixture.ws.next_id(now());
    let spec = JobSpec { on_done: Some("/bin/true".into()), ..JobSpec::default() };
    fixture.ws.expect_hook(&id).unwrap();
    fixture.ws.submit(NewJob { spec, ..job(&id, "Hello") }, now()).unwrap();
    fixture.sync();
    id
}

fn cancel(fixture: &mut Fixture, id: &JobId) {
    fixture.ws.cancel(id, now()).unwrap();
    fixture.sync();
}

fn outcome() -> HookOutcome {
    HookOutcome { program: "/bin/true".into(), exit_code: Some(0), ..HookOutcome::default() }
}

#[test]
fn a_hook_is_due_until_it_has_run_also_after_a_restart() {
    let mut fixture = Fixture::new();
    let id = hooked(&mut fixture);
    assert!(fixture.ws.begin_hook(&id).unwrap().is_none(), "the job has not ended");
    assert!(!fixture.ws.end_hook(&id, &outcome()).unwrap());
    cancel(&mut fixture, &id);
    let (mut fixture, _) = fixture.reopen();
    assert_eq!(fixture.ws.expected_hooks().unwrap(), std::slice::from_ref(&id));
    let hook = fixture.ws.begin_hook(&id).unwrap().unwrap();
    assert_eq!((hook.status.as_str(), hook.program.to_str()), ("canceled", Some("/bin/true")));
    assert_eq!(hook.directory, fixture.dir("failed").join(id.as_str()));
    assert!(fixture.ws.end_hook(&id, &outcome()).unwrap());
    assert!(fixture.ws.expected_hooks().unwrap().is_empty());
    assert_eq!(fixture.reader().record(&id).unwrap().on_done, Some(outcome()));
}

#[test]
fn what_an_earlier_run_left_is_gone_when_the_job_runs_again() {
    let mut fixture = Fixture::new();
    let id = hooked(&mut fixture);
    cancel(&mut fixture, &id);
    drop(fixture.ws.begin_hook(&id).unwrap());
    fixture.ws.end_hook(&id, &outcome()).unwrap();
    fixture.ws.retry(&id).unwrap();
    fixture.sync();
    let claimed = fixture.claim(&id);
    let failure = Failure::new(ErrorCode::Inference, "no luck");
    let meta = claimed.meta().clone();
    fixture.ws.fail(claimed, &failure, meta, now()).unwrap();
    fixture.sync();
    assert_eq!(fixture.reader().record(&id).unwrap().on_done, None);
    assert!(fixture.files(&id).iter().all(|name| !name.starts_with("on_done")));
}

#[test]
fn the_hook_of_a_job_that_is_gone_is_forgotten() {
    let mut fixture = Fixture::new();
    let id = hooked(&mut fixture);
    fs::remove_dir_all(fixture.dir("input/ready").join(id.as_str())).unwrap();
    assert!(fixture.ws.begin_hook(&id).is_err());
    assert!(fixture.ws.end_hook(&id, &outcome()).unwrap());
    assert!(fixture.ws.expected_hooks().unwrap().is_empty());
}

#[test]
fn a_log_is_never_written_through_a_link() {
    let mut fixture = Fixture::new();
    let id = hooked(&mut fixture);
    cancel(&mut fixture, &id);
    let elsewhere = fixture.path().join("precious");
    fs::write(&elsewhere, "gold").unwrap();
    let log = fixture.dir("failed").join(id.as_str()).join("on_done.log");
    std::os::unix::fs::symlink(&elsewhere, &log).unwrap();
    drop(fixture.ws.begin_hook(&id).unwrap());
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "gold");
    assert!(log.symlink_metadata().unwrap().is_file());
}
