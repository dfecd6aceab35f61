//! Conversations: chains of jobs, and the file that names the last.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use threadrunner_core::{
    JobId, JobMeta, JobSpec, JobState, SessionFile, SessionName, TurnStanding,
};
use threadrunner_workspace::{NewJob, Options, Workspace, WorkspaceError};

use crate::faults::{Fault, Faulty, Luck};
use crate::support::{Fixture, job, memory_dir, now};

fn name(text: &str) -> SessionName {
    SessionName::parse(text).unwrap()
}

/// Asks for a turn: updates the session's file and submits the job.
fn ask(fixture: &mut Fixture, session: &mut SessionFile) -> JobId {
    let id = fixture.ws.next_id(now());
    session.pending.push(id.clone());
    let spec = JobSpec { session: Some(name("s")), ..JobSpec::default() };
    fixture.ws.stage_session(&name("s"), session);
    fixture.ws.submit(NewJob { spec, ..job(&id, "Hello") }, now()).unwrap();
    fixture.sync();
    id
}

fn answer(fixture: &mut Fixture, id: &JobId, parent: Option<&JobId>) {
    let claimed = fixture.claim(id);
    let meta = JobMeta { parent: parent.cloned(), ..claimed.meta().clone() };
    fixture.ws.complete(claimed, "Hi", &[], meta, now()).unwrap();
    fixture.sync();
}

#[test]
fn a_turn_is_noted_before_its_job_is_there_and_nobody_else_may_read_it() {
    let mut fixture = Fixture::new();
    let mut session = SessionFile::new("state".into());
    let id = ask(&mut fixture, &mut session);
    assert_eq!(fixture.reader().session_file(&name("s")).unwrap(), Some(session));
    assert_eq!(fixture.reader().session_names().unwrap(), [name("s")]);
    let file = fixture.path().join(".sessions/s.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fixture.reader().record(&id).unwrap().session, Some(name("s")));
}

#[test]
fn what_ended_without_being_written_down_is_seen_all_the_same() {
    let mut fixture = Fixture::new();
    let mut session = SessionFile::new("state".into());
    let first = ask(&mut fixture, &mut session);
    answer(&mut fixture, &first, None);
    let canceled = ask(&mut fixture, &mut session);
    fixture.ws.cancel(&canceled, now()).unwrap();
    fixture.sync();
    let open = ask(&mut fixture, &mut session);
    // As after the daemon was killed: the head was not moved.
    let (mut fixture, _) = fixture.reopen();
    assert_eq!(fixture.reader().session_file(&name("s")).unwrap(), Some(session.clone()));
    let seen = fixture.reader().session(&name("s")).unwrap().unwrap();
    assert_eq!((seen.head, seen.pending), (Some(first.clone()), vec![open.clone()]));
    answer(&mut fixture, &open, Some(&first));
    let seen = fixture.reader().session(&name("s")).unwrap().unwrap();
    assert_eq!((seen.head.as_ref(), seen.pending.len()), (Some(&open), 0));
    let chain = fixture.reader().chain(&open).unwrap();
    assert_eq!((chain.turns, chain.missing), (vec![first, open], None));
}

#[test]
fn a_chain_whose_job_is_gone_says_so_and_one_tied_into_a_loop_ends() {
    let mut fixture = Fixture::new();
    let (first, second) = (fixture.submit("a"), fixture.submit("b"));
    answer(&mut fixture, &first, Some(&second));
    answer(&mut fixture, &second, Some(&first));
    let chain = fixture.reader().chain(&second).unwrap();
    assert_eq!(chain.turns, [first.clone(), second.clone()]);
    assert_eq!(chain.missing, Some(second.clone()));
    fixture.ws.remove(&first).unwrap();
    fixture.sync();
    let chain = fixture.reader().chain(&second).unwrap();
    assert_eq!((chain.turns, chain.missing), (vec![second], Some(first.clone())));
    assert_eq!(fixture.reader().turn_standing(&first), TurnStanding::Void);
}

#[test]
fn a_session_of_which_nothing_is_left_is_none() {
    let mut fixture = Fixture::new();
    let mut session = SessionFile::new("state".into());
    let id = ask(&mut fixture, &mut session);
    fixture.ws.cancel(&id, now()).unwrap();
    fixture.sync();
    assert_eq!(fixture.reader().session(&name("s")).unwrap(), None);
    session.pending.clear();
    fixture.ws.stage_session(&name("s"), &session);
    assert!(fixture.ws.publish_sessions().is_empty());
    assert!(fixture.reader().session_names().unwrap().is_empty());
}

#[test]
fn a_turn_that_cannot_be_noted_is_not_accepted_and_harms_no_other_job() {
    let mut fixture = Fixture::new();
    let mut session = SessionFile::new("state".into());
    // A file where the directory should be.
    fs::write(fixture.path().join(".sessions"), "in the way").unwrap();
    let (turn, other) = (fixture.ws.next_id(now()), fixture.ws.next_id(now()));
    session.pending.push(turn.clone());
    fixture.ws.stage_session(&name("s"), &session);
    fixture.ws.submit(job(&turn, "a turn"), now()).unwrap();
    fixture.ws.submit(job(&other, "another job"), now()).unwrap();
    let mut synced = fixture.ws.sync();
    assert!(synced.take_error(&turn).is_some());
    assert!(synced.take_error(&other).is_none());
    assert_eq!(synced.unwritten.len(), 1);
    assert!(matches!(fixture.reader().locate(&turn), Err(WorkspaceError::NotFound { .. })));
    assert_eq!(fixture.state(&other), JobState::Ready);
    // It is written as soon as that is possible.
    fs::remove_file(fixture.path().join(".sessions")).unwrap();
    assert!(fixture.ws.publish_sessions().is_empty());
    assert_eq!(fixture.reader().session_file(&name("s")).unwrap(), Some(session));
}

#[test]
fn a_file_of_a_newer_version_is_refused_and_so_is_one_that_is_none() {
    let fixture = Fixture::new();
    let directory = fixture.path().join(".sessions");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("new.json"), r#"{"v":2,"state":"x","head":"1"}"#).unwrap();
    fs::write(directory.join("bad.json"), "{").unwrap();
    std::os::unix::fs::symlink("/etc/hostname", directory.join("link.json")).unwrap();
    for session in ["new", "bad", "link"] {
        let read = fixture.reader().session(&name(session));
        assert!(matches!(read, Err(WorkspaceError::UnfitSession { .. })), "{session}: {read:?}");
    }
}

/// Three turns, each added to `told` when it is answered; `None` if the disk gave up.
fn converse(ws: &mut Workspace, told: &mut Vec<JobId>) -> Option<()> {
    let mut session = SessionFile::new("state".into());
    for _ in 0..3 {
        let id = ws.next_id(now());
        session.pending.push(id.clone());
        ws.stage_session(&name("s"), &session);
        let claimed = ws.submit_claimed(job(&id, "Hello"), now()).ok()?;
        ws.sync().failed.is_empty().then_some(())?;
        let meta = JobMeta { parent: session.head.clone(), ..claimed.meta().clone() };
        ws.complete(claimed, "Hi", &[], meta, now()).ok()?;
        ws.sync().failed.is_empty().then_some(())?;
        told.push(id);
        let reader = ws.reader();
        session.settle(None, |turn| reader.turn_standing(turn));
        ws.stage_session(&name("s"), &session);
        ws.publish_sessions().is_empty().then_some(())?;
    }
    Some(())
}

#[test]
fn a_conversation_is_whole_wherever_the_daemon_ends() {
    for fault in [Fault::End, Fault::EndHalfway] {
        for fault_at in 0.. {
            let temp = memory_dir();
            let path = temp.path().join("ws");
            let (disk, mut told) = (Faulty::new(fault_at, fault, Luck::Busy), Vec::new());
            let opened = Workspace::open_on(disk.clone(), &path, Options::default(), now());
            let done = opened.ok().and_then(|(mut ws, _)| converse(&mut ws, &mut told));
            if !disk.struck() {
                assert!(done.is_some() && fault_at > 30, "{fault_at} changes");
                break;
            }
            let (ws, _) = Workspace::open(&path, Options::default(), now()).unwrap();
            let session = ws.reader().session(&name("s")).unwrap();
            let Some(head) = session.and_then(|session| session.head) else {
                assert_eq!(told, [], "{fault:?} at {fault_at}");
                continue;
            };
            let chain = ws.reader().chain(&head).unwrap();
            assert_eq!(chain.missing, None, "{fault:?} at {fault_at}");
            // One more turn may be answered than was told.
            assert!(chain.turns.starts_with(&told), "{fault:?} at {fault_at}");
            assert!(chain.turns.len() <= told.len() + 1, "{fault:?} at {fault_at}");
        }
    }
}
