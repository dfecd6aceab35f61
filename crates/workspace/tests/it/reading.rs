//! Reading next to the owner.

use std::sync::atomic::{AtomicBool, Ordering};

use threadrunner_core::{JobId, JobMeta, JobState, Message, Role};
use threadrunner_workspace::{Attempt, Durability, Options, Reader, WorkspaceError};

use crate::support::{Fixture, job, now};

#[test]
fn a_job_is_never_missing_while_it_moves() {
    let mut f = Fixture::with(Options { durability: Durability::Relaxed, ..Options::default() });
    let id = f.submit("hi");
    let over = AtomicBool::new(false);
    let reader = f.reader();
    let looks = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = 0_u64;
            while !over.load(Ordering::Relaxed) {
                let record = reader.record(&id).unwrap();
                assert!(matches!(
                    record.state.place(),
                    Some(JobState::Ready | JobState::Processing)
                ));
                assert_eq!(record.prompt_start, "hi");
                assert!(reader.locate(&id).is_ok());
                looks += 1;
            }
            looks
        });
        for _ in 0..2_000 {
            let claimed = f.claim(&id);
            f.ws.release(claimed, Attempt::Forgotten).unwrap();
            f.sync();
        }
        over.store(true, Ordering::Relaxed);
        looking.join().unwrap()
    });
    assert!(looks > 0);
}

#[test]
fn a_job_is_named_by_any_part_of_its_id_that_fits_no_other() {
    let mut f = Fixture::new();
    for name in ["1700000000000001_7", "1700000000000002_7", "1800000000000000_9"] {
        f.ws.submit(job(&JobId::parse(name).unwrap(), "hi"), now()).unwrap();
    }
    f.sync();
    let reader = f.reader();
    let resolve = |text: &str| reader.resolve(&text.into()).map(|id| id.to_string());
    assert_eq!(resolve("1700000000000001_7").unwrap(), "1700000000000001_7");
    assert_eq!(resolve("18").unwrap(), "1800000000000000_9");
    assert_eq!(resolve("_9").unwrap(), "1800000000000000_9");
    assert_eq!(resolve("2_7").unwrap(), "1700000000000002_7");
    assert_eq!(resolve("last").unwrap(), "1800000000000000_9");
    assert!(matches!(resolve("_7"), Err(WorkspaceError::Ambiguous { others: 0, .. })));
    assert!(matches!(resolve("1"), Err(WorkspaceError::Ambiguous { others: 1, .. })));
    assert!(matches!(resolve("3"), Err(WorkspaceError::NotFound { .. })));
    for text in ["", "../1", "latest", "-1"] {
        assert!(matches!(resolve(text), Err(WorkspaceError::NotAnId { .. })), "{text}");
    }
}

#[test]
fn many_jobs_are_looked_up_with_one_listing() {
    let mut f = Fixture::new();
    f.ws.submit(job(&JobId::parse("1700000000000001_7").unwrap(), "hi"), now()).unwrap();
    f.sync();
    let (reader, mut listed) = (f.reader(), None);
    // A full id needs none.
    assert!(
        reader.resolve_among(&"1700000000000001_7".into(), &mut listed).is_ok() && listed.is_none()
    );
    assert!(reader.resolve_among(&"_7".into(), &mut listed).is_ok());
    f.ws.submit(job(&JobId::parse("1800000000000000_9").unwrap(), "hi"), now()).unwrap();
    f.sync();
    let later = reader.resolve_among(&"_9".into(), &mut listed);
    assert!(matches!(later, Err(WorkspaceError::NotFound { .. })), "{later:?}");
    assert!(reader.resolve(&"_9".into()).is_ok());
}

#[test]
fn nothing_is_last_in_an_empty_workspace() {
    let f = Fixture::new();
    assert!(matches!(f.reader().resolve(&"last".into()), Err(WorkspaceError::NotFound { .. })));
}

#[test]
fn lists_are_in_order_and_bounded() {
    let mut f = Fixture::new();
    let ids: Vec<_> = (0..5).map(|_| f.submit("hi")).collect();
    drop(f.claim(&ids[1]));
    f.ws.cancel(&ids[4], now()).unwrap();
    f.sync();
    let reader = f.reader();
    assert_eq!(reader.ids(JobState::Ready).unwrap(), [&ids[0], &ids[2], &ids[3]].map(Clone::clone));
    let (newest, more) = reader.newest(&[], 2).unwrap();
    assert_eq!(newest, [(ids[4].clone(), JobState::Failed), (ids[3].clone(), JobState::Ready)]);
    assert!(more);
    let (running, more) = reader.newest(&[JobState::Processing], 2).unwrap();
    assert_eq!((running, more), (vec![(ids[1].clone(), JobState::Processing)], false));
    let counts = reader.counts().unwrap();
    assert_eq!(counts[&JobState::Ready], 3);
    assert_eq!(counts[&JobState::Failed], 1);
    assert_eq!(counts[&JobState::Done], 0);
}

#[test]
fn a_prompts_start_is_one_line_of_eighty_characters() {
    let mut f = Fixture::new();
    let id = f.submit("  two\nlines \x1b[31m and\ttabs");
    assert_eq!(f.reader().record(&id).unwrap().prompt_start, "two lines [31m and tabs");
    let id = f.submit(&"ж".repeat(1000));
    assert_eq!(f.reader().record(&id).unwrap().prompt_start, "ж".repeat(80));
    let id = f.ws.next_id(now());
    let mut chat = job(&id, "");
    chat.spec.messages =
        vec![Message::new(Role::User, "first"), Message::new(Role::User, "second")];
    f.ws.submit(chat, now()).unwrap();
    f.sync();
    assert_eq!(f.reader().record(&id).unwrap().prompt_start, "second");
}

#[test]
fn reading_needs_neither_owner_nor_lock() {
    let mut f = Fixture::new();
    let id = f.submit("hi");
    let path = f.path().to_owned();
    let reader = Reader::open(&path).unwrap();
    assert_eq!(
        reader.locate(&id).unwrap(),
        (JobState::Ready, path.join("input/ready").join(id.as_str()))
    );
    let claimed = f.claim(&id);
    f.ws.complete(claimed, "x", &[], JobMeta::default(), now()).unwrap();
    f.sync();
    let dir = f.close();
    assert_eq!(reader.result(&id).unwrap(), b"x");
    assert!(Reader::open(&path.join("nowhere")).is_err());
    drop(dir);
}

#[test]
fn reading_what_is_not_there_says_so() {
    let mut f = Fixture::new();
    let id = f.submit("hi");
    let reader = f.reader();
    assert!(matches!(reader.result(&id), Err(WorkspaceError::WrongState { .. })));
    assert!(matches!(reader.error_text(&id), Err(WorkspaceError::WrongState { .. })));
    let nobody = JobId::parse("1").unwrap();
    assert!(matches!(reader.record(&nobody), Err(WorkspaceError::NotFound { .. })));
    assert!(matches!(reader.partial(&nobody, 0), Err(WorkspaceError::NotFound { .. })));
}

#[test]
fn an_offset_past_the_end_reads_nothing() {
    let mut f = Fixture::new();
    let id = f.submit("hi");
    f.claim(&id).append_partial("abc").unwrap();
    assert_eq!(f.reader().partial(&id, 99).unwrap().bytes, b"");
}
